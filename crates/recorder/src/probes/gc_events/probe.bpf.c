// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Entries of five functions of the Go runtime. No return probes: they corrupt Go's stacks.
#include "mtrace.bpf.h"

static __always_inline int on_entry(struct user_regs *regs, u16 which)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct mt_gc *r;

	if (!target_of(pid_tgid >> 32))
		return 0;
	count(MT_SEEN);
	r = RESERVE(struct mt_gc);
	if (!r)
		return 0;
	fill_header(&r->h, MT_GC, which, pid_tgid, GO_ARG0(regs), bpf_ktime_get_ns());
	SUBMIT(r);
	return 0;
}

#define ENTRY(name, which)             \
	SEC("uprobe")                  \
	int name(struct user_regs *regs) \
	{                              \
		return on_entry(regs, which); \
	}

ENTRY(gc_cycle_start, 1)
ENTRY(gc_mark_termination, 2)
ENTRY(gc_sweep, 3)
ENTRY(gc_stop_the_world, 4)
ENTRY(gc_start_the_world, 5)
