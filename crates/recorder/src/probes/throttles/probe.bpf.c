// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Sleeps that the kernel imposes on a thread of a target because memory is short.
#define MTRACE_PREEMPTIBLE
#include "mtrace.bpf.h"

/* include/linux/sched.h: TASK_WAKEKILL | TASK_UNINTERRUPTIBLE */
#define TASK_KILLABLE 0x102

struct stall {
	u64 ts;
	u64 stack; /* the variant that sees the sleep only */
};

#include "open_stall.bpf.h"

static __always_inline struct mt_throttle *row(u16 kind, u64 who, u32 reason, u64 ts, u64 dur, u64 stack)
{
	struct mt_throttle *r;

	count(MT_SEEN);
	r = RESERVE(struct mt_throttle);
	if (!r)
		return 0;
	count_stack(stack);
	fill_header(&r->h, MT_THROTTLE, kind, who, reason, ts);
	r->dur = dur;
	r->stack = stack;
	return r;
}

static __always_inline void note(u32 tid, u64 stack)
{
	struct stall s = { .ts = bpf_ktime_get_ns(), .stack = stack };

	open_stall(tid, &s);
}

static __always_inline int high_begins(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 who = bpf_get_current_pid_tgid();

	/* Called at many returns to user mode; this says whether there is anything to do. */
	if (!target_of(who >> 32) || !BPF_CORE_READ(task, memcg_nr_pages_over_high))
		return 0;
	note(who, MT_NO_STACK_UNREADABLE);
	return 0;
}

static __always_inline int high_ends(void)
{
	u64 now = bpf_ktime_get_ns(), who = bpf_get_current_pid_tgid();
	struct stall *found = stall_of(who), s;
	struct mt_throttle *r;
	struct mt_target *t;

	if (!found)
		return 0;
	s = close_stall(who, found);
	t = target_of(who >> 32);
	if (!t)
		return 0;
	r = row(MT_THROTTLE_MEMORY_HIGH, who, 0, s.ts, now - s.ts, stack_here(who, t->image));
	if (r)
		SUBMIT(r);
	return 0;
}

SEC("fentry/mem_cgroup_handle_over_high")
int BPF_PROG(high_entry)
{
	return high_begins();
}

SEC("fexit/mem_cgroup_handle_over_high")
int BPF_PROG(high_exit)
{
	return high_ends();
}

/* 6.18; the old name is an inlined wrapper there. */
SEC("fentry/__mem_cgroup_handle_over_high")
int BPF_PROG(high_entry_2)
{
	return high_begins();
}

SEC("fexit/__mem_cgroup_handle_over_high")
int BPF_PROG(high_exit_2)
{
	return high_ends();
}

SEC("kprobe/mem_cgroup_handle_over_high")
int high_kprobe(void *ctx)
{
	return high_begins();
}

SEC("kretprobe/mem_cgroup_handle_over_high")
int high_kretprobe(void *ctx)
{
	return high_ends();
}

SEC("kprobe/__mem_cgroup_handle_over_high")
int high_kprobe_2(void *ctx)
{
	return high_begins();
}

SEC("kretprobe/__mem_cgroup_handle_over_high")
int high_kretprobe_2(void *ctx)
{
	return high_ends();
}

/* Where neither is allowed: a sleep whose kernel stack passes through the function. */
#define FRAMES (8 + FRAMES_OF_PROGRAM)

struct range {
	u64 start;
	u64 end;
};

/* Where it is; written by user space before the program is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct range);
} function SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64[FRAMES]);
} kernel_stack SEC(".maps");

static __always_inline bool in_handler(void *ctx)
{
	u32 zero = 0;
	struct range *range = bpf_map_lookup_elem(&function, &zero);
	u64 *ips = bpf_map_lookup_elem(&kernel_stack, &zero);
	bool found = false;
	long bytes;

	if (!ips || !range)
		return false;
	bytes = bpf_get_stack(ctx, ips, FRAMES * sizeof(u64), 0);
	for (int i = 0; i < FRAMES; i++)
		found |= (long)(i * sizeof(u64)) < bytes && ips[i] >= range->start && ips[i] < range->end;
	return found;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(high_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u64 now = bpf_ktime_get_ns(), who = (u64)(u32)prev->tgid << 32 | (u32)prev->pid;
	struct mt_target *t;
	struct mt_throttle *r;
	struct stall *found, s;
	u32 tid;

	if (!preempt && (prev->__state & TASK_KILLABLE) == TASK_KILLABLE) {
		t = target_of(who >> 32);
		if (t && in_handler(ctx))
			note(who, stack_here(who, t->image));
	}
	tid = next->pid;
	found = stall_of(tid);
	if (!found)
		return 0;
	s = close_stall(tid, found);
	r = row(MT_THROTTLE_MEMORY_HIGH, (u64)(u32)next->tgid << 32 | tid, 0, s.ts, now - s.ts, s.stack);
	/* Never a wake-up from here: the run queue is locked. */
	if (r)
		bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/mm_vmscan_throttled")
int BPF_PROG(vmscan_throttled, int node, int timeout_us, int delayed_us, int reason)
{
	u64 who = bpf_get_current_pid_tgid(), dur = (u64)(u32)delayed_us * 1000;
	struct mt_target *t = target_of(who >> 32);
	struct mt_throttle *r;

	if (!t)
		return 0;
	r = row(MT_THROTTLE_VMSCAN, who, reason, bpf_ktime_get_ns() - dur, dur, stack_here(who, t->image));
	if (r)
		SUBMIT(r);
	return 0;
}

/* Killed within it. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(throttled_thread_exit, struct task_struct *task)
{
	return forget_stall(task, MT_OWN_0);
}
