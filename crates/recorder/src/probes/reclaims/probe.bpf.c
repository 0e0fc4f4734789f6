// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Reclaim and compaction that a thread of a target has to do itself.
#include "mtrace.bpf.h"

struct begun {
	u64 ts;
	u32 kind;
	u32 order;
};

/* Keyed by thread. Preallocated: the kernel is short of memory where this is used. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct begun);
} open SEC(".maps");

static __always_inline int begin(u32 kind, u32 order)
{
	u64 who = bpf_get_current_pid_tgid();
	struct begun b = { .ts = bpf_ktime_get_ns(), .kind = kind, .order = order };
	u32 tid = who;

	if (!target_of(who >> 32))
		return 0;
	if (bpf_map_update_elem(&open, &tid, &b, BPF_ANY)) {
		count(MT_SEEN);
		count(MT_NO_STATE);
	}
	return 0;
}

static __always_inline int end(u32 kind, u64 pages)
{
	u64 now = bpf_ktime_get_ns(), who = bpf_get_current_pid_tgid();
	u32 tid = who;
	struct mt_target *t;
	struct mt_reclaim *r;
	struct pt_regs *user;
	struct begun *open_one = bpf_map_lookup_elem(&open, &tid);
	struct begun b;
	u64 stack;

	if (!open_one || open_one->kind != kind)
		return 0;
	b = *open_one;
	bpf_map_delete_elem(&open, &tid);
	t = target_of(who >> 32);
	if (!t)
		return 0;
	count(MT_SEEN);
	user = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	stack = take_stack(who, t->image, user->ip, user->sp, user->bp);
	r = RESERVE(struct mt_reclaim);
	if (!r)
		return 0;
	count_stack(stack);
	fill_header(&r->h, MT_RECLAIM, kind, who, b.order, b.ts);
	r->dur = now - b.ts;
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
	u32 tid = bpf_get_current_pid_tgid();

	if (target_of(task->tgid) && !bpf_map_delete_elem(&open, &tid))
		count(MT_OWN_0);
	return 0;
}
