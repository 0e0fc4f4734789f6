// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// How many faults a process had when it ended, as the kernel itself counts them (task_struct::min_flt and maj_flt).
#include "mtrace.bpf.h"

/* The counts of the threads that have ended. The kernel adds a thread's to those of its process when it is released,
 * which may be before or after the last thread ends: so they are added here, once each. */
struct sums {
	u64 minor;
	u64 major;
	u32 sent;
	u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct sums);
} sums SEC(".maps");

static __always_inline struct sums *sums_of(struct task_struct *task)
{
	u32 pid = task->tgid;
	struct sums *s = bpf_map_lookup_elem(&sums, &pid), fresh = {};

	if (s)
		return s;
	/* What the threads had that were gone before this probe was there. */
	fresh.minor = task->signal->min_flt;
	fresh.major = task->signal->maj_flt;
	bpf_map_update_elem(&sums, &pid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&sums, &pid);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(count_at_exit, struct task_struct *task)
{
	u32 pid = task->tgid;
	struct mt_fault_count *r;
	struct sums *s;

	if (!target_of(pid))
		return 0;
	s = sums_of(task);
	if (!s) {
		count(MT_SEEN);
		count(MT_NO_STATE);
		return 0;
	}
	__sync_fetch_and_add(&s->minor, task->min_flt);
	__sync_fetch_and_add(&s->major, task->maj_flt);
	/* As in process_exit: the last thread finds 0, and perhaps the last but one. */
	if (task->signal->live.counter != 0 || __sync_val_compare_and_swap(&s->sent, 0, 1))
		return 0;
	count(MT_SEEN);
	r = RESERVE(struct mt_fault_count);
	if (r) {
		fill_header(&r->h, MT_FAULT_COUNT, 0, (u64)pid << 32 | pid, 0, bpf_ktime_get_ns());
		r->minor = s->minor;
		r->major = s->major;
		SUBMIT(r);
	}
	bpf_map_delete_elem(&sums, &pid);
	return 0;
}
