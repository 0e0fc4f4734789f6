/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * Stalls of a thread, kept from their begin to their end; a thread is in one at a time. The probe defines `struct stall`,
 * what the begin notes for the end, and includes this file after it.
 *
 * The accounts: a stall is seen at its end, or at its begin if it cannot be kept. One whose thread is killed within it
 * counts as the own counter that the probe names in forget_stall.
 */
#ifndef MTRACE_OPEN_STALL_BPF_H
#define MTRACE_OPEN_STALL_BPF_H

#include "mtrace.bpf.h"

/* Keyed by thread. Preallocated: memory is short, or a lock is held, where this is used. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct stall);
} open SEC(".maps");

static __always_inline void open_stall(u32 tid, struct stall *s)
{
	if (bpf_map_update_elem(&open, &tid, s, BPF_ANY)) {
		count(MT_SEEN);
		count(MT_NO_STATE);
	}
}

/* The stall that the thread is in; null for none. */
static __always_inline struct stall *stall_of(u32 tid)
{
	return bpf_map_lookup_elem(&open, &tid);
}

/* Takes it out. */
static __always_inline struct stall close_stall(u32 tid, struct stall *found)
{
	struct stall s = *found;

	bpf_map_delete_elem(&open, &tid);
	return s;
}

/* For a program on sched_process_exit: the thread was killed within its stall. */
static __always_inline int forget_stall(struct task_struct *task, u32 own_counter)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (target_of(task->tgid) && !bpf_map_delete_elem(&open, &tid))
		count(own_counter);
	return 0;
}

/* The user stack with which the current thread entered the kernel. */
static __always_inline u64 stack_here(u64 who, u32 image)
{
	struct pt_regs *user = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

#ifdef MTRACE_PREEMPTIBLE
	return take_stack_alone(who, image, user);
#else
	return take_stack(who, image, REG_IP(user), REG_LEAF(user), REG_FP(user));
#endif
}

#endif
