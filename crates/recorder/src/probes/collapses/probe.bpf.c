// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Small pages of the targets that are replaced by huge ones: by khugepaged, or because somebody asked for it.
#include "mtrace.bpf.h"

/* mm/khugepaged.c. All but this number differ between kernels; user space knows their names. */
#define SCAN_SUCCEED 1

enum scan_result {
	SCAN_PTE_MAPPED_HUGEPAGE = -1,
};

/* Less is no address that a process can have mapped: it is an argument in the other's place, see file_collapsed. */
#define LOWEST_ADDR 4096

/* What a thread is about to collapse, from the first tracepoint about it to the last one. */
struct attempt {
	u64 isolated; /* when its small pages had been taken out of the page table; 0: not seen */
	u64 new_pages;
	u64 addr;
	u64 tried;
};

/* Keyed by thread. khugepaged, and who is within madvise: more than some have no details. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct attempt);
} attempts SEC(".maps");

/* Whose memory it is, and who collapses it. */
struct parties {
	u64 who; /* process << 32 | thread */
	u32 by;
};

static __always_inline bool parties_of(struct mm_struct *mm, struct parties *p)
{
	struct task_struct *task = (void *)bpf_get_current_task(), *owner = 0;
	struct mm_struct *mine = BPF_CORE_READ(task, mm);
	u64 who = bpf_get_current_pid_tgid();

	p->who = who;
	p->by = 0;
	if (mine == mm)
		return target_of(who >> 32);
	p->by = mine ? MT_COLLAPSE_BY_OTHER : MT_COLLAPSE_BY_KHUGEPAGED;
	if (bpf_core_field_exists(mm->owner))
		owner = BPF_CORE_READ(mm, owner);
	if (!owner) {
		count(MT_OWN_1);
		return false;
	}
	p->who = (u64)BPF_CORE_READ(owner, tgid) << 32 | (u32)who;
	return target_of(p->who >> 32);
}

static __always_inline int send(struct parties *p, u32 detail, u32 result, struct attempt *a)
{
	u64 now = bpf_ktime_get_ns();
	bool known = result == SCAN_SUCCEED && a;
	struct mt_collapse *r;

	count(MT_SEEN);
	r = RESERVE(struct mt_collapse);
	if (!r)
		return 0;
	fill_header(&r->h, MT_COLLAPSE, p->by | detail, p->who, result, now);
	r->new_pages = known ? a->new_pages : MT_NOT_MEASURED;
	r->copy = known && a->isolated ? now - a->isolated : MT_NOT_MEASURED;
	r->addr = a && a->addr ? a->addr : MT_NOT_MEASURED;
	SUBMIT(r);
	return 0;
}

static __always_inline u32 this_thread(void)
{
	return bpf_get_current_pid_tgid();
}

static __always_inline void note(struct attempt *a)
{
	u32 tid = this_thread();

	bpf_map_update_elem(&attempts, &tid, a, BPF_ANY);
}

/* Takes out what the thread was about; false if nothing was noted. */
static __always_inline bool take(struct attempt *a)
{
	u32 tid = this_thread();
	struct attempt *found = bpf_map_lookup_elem(&attempts, &tid);

	if (!found)
		return false;
	*a = *found;
	bpf_map_delete_elem(&attempts, &tid);
	return true;
}

/* Loaded only where an address space has an owner (CONFIG_MEMCG): so this tells the variants apart. */
SEC("tp_btf/mm_collapse_huge_page")
int BPF_PROG(owner_is_known, struct mm_struct *mm)
{
	return bpf_core_field_offset(struct mm_struct, owner) == 0;
}

/* Each tracepoint comes after its deed. Anonymous memory: isolated, collapsed, scanned, in this order; the first two only
 * if it comes to that. */
SEC("tp_btf/mm_collapse_huge_page_isolate")
int BPF_PROG(anon_isolated, void *page, int none_or_zero)
{
	struct attempt a = { .isolated = bpf_ktime_get_ns(), .new_pages = none_or_zero };

	note(&a);
	return 0;
}

SEC("tp_btf/mm_collapse_huge_page")
int BPF_PROG(anon_collapsed, struct mm_struct *mm, int isolated, int result)
{
	struct attempt a, done = { .tried = 1 };
	bool seen = take(&a);
	struct parties p;

	note(&done);
	return parties_of(mm, &p) ? send(&p, 0, result, seen ? &a : 0) : 0;
}

SEC("tp_btf/mm_khugepaged_scan_pmd")
int BPF_PROG(anon_scanned, struct mm_struct *mm)
{
	u64 behind_writable = ctx[5], result = ctx[4];
	struct parties p;
	struct attempt a;

	/* Two reads: an address that is computed the verifier does not take. */
	barrier_var(behind_writable);
	barrier_var(result);
	if (bpf_core_field_exists(((struct trace_event_raw_mm_khugepaged_scan_pmd *)0)->writable))
		result = behind_writable;

	if ((take(&a) && a.tried) || !parties_of(mm, &p))
		return 0;
	if (p.by != MT_COLLAPSE_BY_KHUGEPAGED)
		return send(&p, 0, result, 0);
	count(MT_OWN_0);
	return 0;
}

/* Files: collapsed (not before 6.2), then scanned. Until it was put right (6.13 and stable kernels) the address came where
 * a truth value is expected, which cut it to 1. */
SEC("tp_btf/mm_khugepaged_collapse_file")
int BPF_PROG(file_collapsed)
{
	struct attempt a = { .tried = 1, .addr = ctx[3] };

	if (a.addr < LOWEST_ADDR)
		a.addr = 0;
	note(&a);
	return 0;
}

static __always_inline bool is_mapped_by_parts(int result)
{
	return bpf_core_enum_value_exists(enum scan_result, SCAN_PTE_MAPPED_HUGEPAGE) &&
	       result == (int)bpf_core_enum_value(enum scan_result, SCAN_PTE_MAPPED_HUGEPAGE);
}

SEC("tp_btf/mm_khugepaged_scan_file")
int BPF_PROG(file_scanned, struct mm_struct *mm, void *page, void *file, int present, int swap, int result)
{
	struct attempt a = {};
	struct parties p;

	/* Never true. On a kernel where the result is not that of the collapse it cannot be loaded. */
	if (bpf_core_field_offset(struct collapse_control, is_khugepaged) > 65535)
		return 0;
	take(&a);
	if (!parties_of(mm, &p))
		return 0;
	if (p.by == MT_COLLAPSE_BY_KHUGEPAGED && !a.tried && result != SCAN_SUCCEED) {
		count(MT_OWN_0);
		return 0;
	}
	/* By madvise the pages are one now, and its entry in the page table comes next. */
	if (a.tried && is_mapped_by_parts(result))
		result = SCAN_SUCCEED;
	/* Pages that were there: user space knows how many there can be. */
	a.new_pages = present;
	return send(&p, MT_COLLAPSE_OF_FILE, result, &a);
}
