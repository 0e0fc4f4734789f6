// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Victims of the OOM killer, on the whole host.
#include "mtrace.bpf.h"

/* include/linux/mm_types_task.h; unchanged since 4.5 */
enum {
	MM_FILEPAGES,
	MM_ANONPAGES,
	MM_SWAPENTS,
	MM_SHMEMPAGES,
};

#define MAX_DEPTH 24
/* In pages; below PAGE_COUNTER_MAX and far above every memory. */
#define NO_LIMIT_PAGES (1ULL << (62 - PAGE_SHIFT))

/* A record is larger than the stack of a program. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct mt_oom_kill);
} record SEC(".maps");

/* The global part of a counter whose per-CPU parts are below 32 pages (or twice the CPUs) each: what the kernel's own
 * message about a kill is made of. */
#define PAGES(mm, which)                                                                                  \
	({                                                                                                \
		struct mm_struct___old_rss *__old = (void *)(mm);                                         \
		s64 __n;                                                                                  \
		if (bpf_core_type_exists(struct mm_rss_stat))                                             \
			__n = BPF_CORE_READ(__old, rss_stat.count[which].counter);                        \
		else                                                                                      \
			__n = BPF_CORE_READ(mm, rss_stat[which].count);                                   \
		__n < 0 ? 0 : (u64)__n;                                                                   \
	})

static __always_inline void memory_of(struct mt_oom_kill *r, struct mm_struct *mm)
{
	r->total_vm = r->anon = r->file = r->shmem = r->swap = r->page_table_bytes = MT_NOT_MEASURED;
	if (!mm)
		return;
	r->total_vm = BPF_CORE_READ(mm, total_vm);
	r->anon = PAGES(mm, MM_ANONPAGES);
	r->file = PAGES(mm, MM_FILEPAGES);
	r->shmem = PAGES(mm, MM_SHMEMPAGES);
	r->swap = PAGES(mm, MM_SWAPENTS);
	r->page_table_bytes = BPF_CORE_READ(mm, pgtables_bytes.counter);
}

/* Which of the group and its parents is nearest to its limit; null if none has one. */
static __always_inline struct cgroup_subsys_state *fullest(struct mt_oom_kill *r, struct cgroup_subsys_state *css)
{
	struct cgroup_subsys_state *found = 0;
	s64 room, least = 0;

	for (int i = 0; i < MAX_DEPTH && css; i++) {
		struct mem_cgroup *group = (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
		u64 max = BPF_CORE_READ(group, memory.max);
		u64 usage = BPF_CORE_READ(group, memory.usage.counter);

		/* No limit: PAGE_COUNTER_MAX is LONG_MAX / PAGE_SIZE. */
		if (max < NO_LIMIT_PAGES) {
			room = max - usage;
			if (!found || room < least) {
				found = css;
				least = room;
				r->usage = usage;
				r->limit = max;
			}
		}
		css = BPF_CORE_READ(css, parent);
	}
	return found;
}

static __always_inline void group_of(struct mt_oom_kill *r, struct task_struct *victim)
{
	u32 which = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	struct cgroup_subsys_state **slots, *css = 0;
	struct css_set *set = BPF_CORE_READ(victim, cgroups);

	r->usage = r->limit = MT_NOT_MEASURED;
	r->levels = 0;
	if (!bpf_core_type_exists(struct mem_cgroup) || which >= 16)
		return;
	slots = (void *)set + bpf_core_field_offset(struct css_set, subsys);
	bpf_probe_read_kernel(&css, sizeof(css), &slots[which]);
	css = fullest(r, css);
	for (int i = 0; i < MT_OOM_LEVELS && css; i++) {
		const char *name = BPF_CORE_READ(css, cgroup, kn, name);

		/* The root has no name. */
		if (bpf_probe_read_kernel_str(r->names[i], MT_OOM_NAME, name) <= 1)
			break;
		r->levels = i + 1;
		css = BPF_CORE_READ(css, parent);
	}
}

static __always_inline void chosen_by(struct mt_oom_kill *r, void *ctx)
{
	u64 who = bpf_get_current_pid_tgid();
	struct mt_target *t = target_of(who >> 32);
	struct pt_regs *user;
	long bytes;

	r->by_pid = who >> 32;
	r->by_tid = who;
	bpf_get_current_comm(r->by_comm, sizeof(r->by_comm));
	r->by_stack = MT_NO_STACK_UNREADABLE;
	if (t) {
		user = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
		r->by_stack = take_stack(who, t->image, REG_IP(user), REG_LEAF(user), REG_FP(user));
		count_stack(r->by_stack);
	}
	bytes = bpf_get_stack(ctx, r->kernel_ips, sizeof(r->kernel_ips), 0);
	r->frames = bytes > 0 ? bytes / sizeof(u64) : 0;
}

static __always_inline struct mt_oom_kill *begin(void *ctx, u64 victim)
{
	u32 zero = 0;
	struct mt_oom_kill *r = bpf_map_lookup_elem(&record, &zero);

	if (!r)
		return 0;
	count(MT_SEEN);
	fill_header(&r->h, MT_OOM_KILL, 0, victim, 0, bpf_ktime_get_ns());
	chosen_by(r, ctx);
	return r;
}

/* At once: the reader wants to look at the victim's cgroup before that is removed. */
static __always_inline int send(struct mt_oom_kill *r)
{
	if (bpf_ringbuf_output(&ring, r, sizeof(*r), BPF_RB_FORCE_WAKEUP))
		count(MT_RING_FULL);
	return 0;
}

/* 6.8 and later, and stable kernels since (72ba14deb40a "mm: update mark_victim tracepoints fields"). */
SEC("tp_btf/mark_victim")
int BPF_PROG(victim_task, struct task_struct *victim)
{
	u32 pid = victim->tgid;
	struct mt_oom_kill *r = begin(ctx, (u64)pid << 32 | (u32)victim->pid);

	if (!r)
		return 0;
	r->h.aux = (s32)victim->signal->oom_score_adj;
	BPF_CORE_READ_STR_INTO(&r->comm, victim, group_leader, comm);
	memory_of(r, BPF_CORE_READ(victim, mm));
	group_of(r, (void *)victim);
	return send(r);
}

/* Before: the thread's number is all that is told. */
SEC("tp_btf/mark_victim")
int BPF_PROG(victim_number, int tid)
{
	struct mt_oom_kill *r = begin(ctx, (u64)(u32)tid << 32 | (u32)tid);

	if (!r)
		return 0;
	r->comm[0] = 0;
	memory_of(r, 0);
	r->usage = r->limit = MT_NOT_MEASURED;
	r->levels = 0;
	return send(r);
}
