// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Reclaim and compaction that a thread of a target has to do itself.
#include "mtrace.bpf.h"

struct stall {
	u64 ts;
	u32 kind;
	u32 order;
};

#include "open_stall.bpf.h"

static __always_inline int begin(u32 kind, u32 order)
{
	u64 who = bpf_get_current_pid_tgid();
	struct stall s = { .ts = bpf_ktime_get_ns(), .kind = kind, .order = order };

	if (target_of(who >> 32))
		open_stall(who, &s);
	return 0;
}

static __always_inline int end(u32 kind, u64 pages)
{
	u64 now = bpf_ktime_get_ns(), who = bpf_get_current_pid_tgid();
	struct mt_target *t;
	struct mt_reclaim *r;
	struct stall *found = stall_of(who), s;
	u64 stack;

	if (!found || found->kind != kind)
		return 0;
	s = close_stall(who, found);
	t = target_of(who >> 32);
	if (!t)
		return 0;
	count(MT_SEEN);
	stack = stack_here(who, t->image);
	r = RESERVE(struct mt_reclaim);
	if (!r)
		return 0;
	count_stack(stack);
	fill_header(&r->h, MT_RECLAIM, kind, who, s.order, s.ts);
	r->dur = now - s.ts;
	r->pages = pages;
	r->stack = stack;
	SUBMIT(r);
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int BPF_PROG(direct_begin, int order)
{
	return begin(MT_RECLAIM_DIRECT, order);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int BPF_PROG(direct_end, unsigned long pages)
{
	return end(MT_RECLAIM_DIRECT, pages);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(memcg_begin, int order)
{
	return begin(MT_RECLAIM_MEMCG, order);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int BPF_PROG(memcg_end, unsigned long pages)
{
	return end(MT_RECLAIM_MEMCG, pages);
}

SEC("tp_btf/mm_compaction_begin")
int BPF_PROG(compaction_begin)
{
	return begin(MT_RECLAIM_COMPACTION, 0);
}

SEC("tp_btf/mm_compaction_end")
int BPF_PROG(compaction_end)
{
	return end(MT_RECLAIM_COMPACTION, 0);
}

/* Killed within it: a task that the OOM killer chose. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(reclaim_thread_exit, struct task_struct *task)
{
	return forget_stall(task, MT_OWN_0);
}
