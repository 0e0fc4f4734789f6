// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// What Go's memory management does to the program: functions of the runtime from their entry to their return.
//
// The ends are probes on the return instructions, where the stack is as the caller has it. Return probes of the kernel
// would write to the stack, which Go moves.
#include "mtrace.bpf.h"

/* A function that a goroutine is in. */
struct call {
	u64 goroutine;
	u32 pid;
	u32 which;
};

struct begun {
	u64 ts;
	u64 arg;
};

/* Least recently used: a goroutine whose return is never seen must not hold its place for ever. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct call);
	__type(value, struct begun);
} calls SEC(".maps");

static __always_inline int enter(struct user_regs *regs, u32 which)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct call key = { .goroutine = GO_G(regs), .pid = pid_tgid >> 32, .which = which };
	struct begun begun = { .arg = GO_ARG1(regs) };

	if (!target_of(key.pid))
		return 0;
	begun.ts = bpf_ktime_get_ns();
	/* One that does not get in shows at its return. */
	bpf_map_update_elem(&calls, &key, &begun, BPF_ANY);
	return 0;
}

static __always_inline int send(struct user_regs *regs, struct mt_target *t, u64 pid_tgid, u32 which,
				struct begun *begun, u64 result)
{
	struct mt_go_memory *r;
	u64 now = bpf_ktime_get_ns(), stack;

	count(MT_SEEN);
	stack = take_stack(pid_tgid, t->image, REG_IP(regs), REG_LEAF(regs), REG_FP(regs));
	r = RESERVE(struct mt_go_memory);
	if (!r)
		return 0;
	fill_header(&r->h, MT_GO_MEMORY, which, pid_tgid, begun ? MT_GO_HAS_START : 0, begun ? begun->ts : now);
	r->dur = begun ? now - begun->ts : 0;
	r->arg = begun ? begun->arg : 0;
	r->result = result;
	r->stack = stack;
	count_stack(stack);
	SUBMIT(r);
	return 0;
}

static __always_inline int leave(struct user_regs *regs, u32 which)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct call key = { .goroutine = GO_G(regs), .pid = pid_tgid >> 32, .which = which };
	struct mt_target *t = target_of(key.pid);
	struct mt_config *c = settings();
	struct begun *found, begun;
	u64 dur;

	if (!t || !c)
		return 0;
	found = bpf_map_lookup_elem(&calls, &key);
	if (!found) {
		count(MT_NO_START);
		return send(regs, t, pid_tgid, which, 0, GO_ARG0(regs));
	}
	begun = *found;
	bpf_map_delete_elem(&calls, &key);
	dur = bpf_ktime_get_ns() - begun.ts;
	if (which <= MT_GO_PARK_ASSIST && dur < c->off_cpu_min_ns) {
		count(MT_OWN_0);
		count_by(MT_OWN_1, dur);
		return 0;
	}
	if (which == MT_GO_SCAVENGE && GO_ARG0(regs) == 0) {
		count(MT_OWN_2);
		return 0;
	}
	return send(regs, t, pid_tgid, which, &begun, GO_ARG0(regs));
}

static __always_inline int set(struct user_regs *regs, u32 which)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct mt_target *t = target_of(pid_tgid >> 32);

	return t ? send(regs, t, pid_tgid, which, 0, GO_ARG0(regs)) : 0;
}

#define PROGRAM(name, how, which)        \
	SEC("uprobe")                    \
	int name(struct user_regs *regs) \
	{                                \
		return how(regs, which); \
	}

PROGRAM(go_mark_assist_begin, enter, MT_GO_MARK_ASSIST)
PROGRAM(go_mark_assist_end, leave, MT_GO_MARK_ASSIST)
PROGRAM(go_park_assist_begin, enter, MT_GO_PARK_ASSIST)
PROGRAM(go_park_assist_end, leave, MT_GO_PARK_ASSIST)
PROGRAM(go_heap_growth_begin, enter, MT_GO_HEAP_GROWTH)
PROGRAM(go_heap_growth_end, leave, MT_GO_HEAP_GROWTH)
PROGRAM(go_scavenge_begin, enter, MT_GO_SCAVENGE)
PROGRAM(go_scavenge_end, leave, MT_GO_SCAVENGE)
PROGRAM(go_set_gc_percent, set, MT_GO_SET_GC_PERCENT)
PROGRAM(go_set_memory_limit, set, MT_GO_SET_MEMORY_LIMIT)
