// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Intervals in which a thread of a target was not on a CPU.
#include "mtrace.bpf.h"

#define TASK_INTERRUPTIBLE 1
#define TASK_UNINTERRUPTIBLE 2
#define TASK_DEAD 0x80

struct left {
	u64 ts;
	u64 state;
};

/* Not task storage: sched_switch runs with the run queue locked, where only preallocated memory is safe. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, u32);
	__type(value, struct left);
} off SEC(".maps");

static __always_inline u16 class_of(u64 state)
{
	if (state == 0)
		return 0;
	if (state & TASK_UNINTERRUPTIBLE)
		return 2;
	if (state & TASK_INTERRUPTIBLE)
		return 1;
	return 3;
}

static __always_inline void leaves(struct task_struct *task, bool preempt, u64 state, u64 now)
{
	u32 tid = task->pid;
	struct left l = { .ts = now, .state = preempt ? 0 : class_of(state) };

	if (!tid || !target_of(task->tgid))
		return;
	if (state & TASK_DEAD) {
		bpf_map_delete_elem(&off, &tid);
		return;
	}
	if (bpf_map_update_elem(&off, &tid, &l, BPF_ANY)) {
		count(MT_SEEN);
		count(MT_NO_STATE);
	}
}

static __always_inline void comes_back(struct task_struct *task, u64 now)
{
	struct mt_config *c = settings();
	u32 tid = task->pid, pid = task->tgid;
	struct mt_off_cpu *r;
	struct left *l;
	u64 ts, state;

	if (!tid || !c || !target_of(pid))
		return;
	l = bpf_map_lookup_elem(&off, &tid);
	if (!l)
		return;
	ts = l->ts;
	state = l->state;
	bpf_map_delete_elem(&off, &tid);
	if (now - ts < c->off_cpu_min_ns) {
		count(MT_OWN_0);
		count_by(MT_OWN_1, now - ts);
		return;
	}
	count(MT_SEEN);
	r = RESERVE(struct mt_off_cpu);
	if (!r)
		return;
	fill_header(&r->h, MT_OFF_CPU, state, (u64)pid << 32 | tid, 0, ts);
	r->dur = now - ts;
	/* Never a wake-up from here: the run queue is locked. */
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

/* 5.18 and later (fa2c3254d7cf): the state is an argument, because prev->__state may change under us. */
SEC("tp_btf/sched_switch")
int BPF_PROG(switch_with_state, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	u64 now = bpf_ktime_get_ns();

	leaves(prev, preempt, prev_state, now);
	comes_back(next, now);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switch_without_state, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u64 now = bpf_ktime_get_ns();

	leaves(prev, preempt, prev->__state, now);
	comes_back(next, now);
	return 0;
}
