/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * Entry and exit of a system call, paired by thread, which is in one call at a time. The probe defines `struct noted`,
 * what the entry notes for the exit, and includes this file after it.
 *
 * The accounts: a call is seen at its exit, or at its entry if it cannot be noted. MT_OWN_0 counts entries whose exit
 * never came, MT_OWN_1 calls of the 32-bit ABI, whose numbers mean something else.
 */
#ifndef MTRACE_SYSCALL_PAIR_BPF_H
#define MTRACE_SYSCALL_PAIR_BPF_H

#include "mtrace.bpf.h"

struct call {
	u32 pending;
	u32 nr;
	u64 ts;
	struct noted noted;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct call);
} calls SEC(".maps");

/* The target that makes this call, by its own ABI; null for everybody else. */
static __always_inline struct mt_target *caller(struct pt_regs *regs, u64 pid_tgid)
{
	struct mt_target *t = target_of(pid_tgid >> 32);

	if (t && is_32_bit(REG_MODE(regs))) {
		count(MT_OWN_1);
		return 0;
	}
	return t;
}

/* Where the entry is noted; null if there is no memory for it, which is counted. */
static __always_inline struct call *call_enters(long nr)
{
	struct call *c = bpf_task_storage_get(&calls, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!c) {
		count(MT_SEEN);
		count(MT_NO_STATE);
		return 0;
	}
	if (c->pending)
		count(MT_OWN_0);
	c->nr = nr;
	return c;
}

/* The last entry of this thread, which may have returned already; null if it has none. */
static __always_inline struct call *last_call(void)
{
	return bpf_task_storage_get(&calls, bpf_get_current_task_btf(), 0, 0);
}

/* True, once, if this is the exit of the call. */
static __always_inline bool call_returns(struct call *c, long nr)
{
	if (!c->pending || c->nr != nr)
		return false;
	c->pending = 0;
	count(MT_SEEN);
	return true;
}

/* A thread that was killed inside a call. */
static __always_inline int thread_exits(struct task_struct *task)
{
	struct call *c;

	if (!target_of(task->tgid))
		return 0;
	c = last_call();
	if (c && c->pending) {
		c->pending = 0;
		count(MT_OWN_0);
	}
	return 0;
}

#endif
