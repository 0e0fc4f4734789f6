/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * A system call's entry and exit, paired by thread. The probe defines `struct call`, which begins with a `struct pair`
 * and holds what the entry notes for the exit, and then includes this file. One call per thread can be open: a thread
 * is in one system call at a time.
 *
 * The accounts: a call is seen when its exit is, or when it could not be kept. MT_OWN_0 counts entries whose exit never
 * came, MT_OWN_1 calls of the 32-bit ABI, which has other numbers.
 */
#ifndef MTRACE_SYSCALL_PAIR_BPF_H
#define MTRACE_SYSCALL_PAIR_BPF_H

#include "mtrace.bpf.h"

struct pair {
	u32 pending;
	u32 nr;
	u64 ts;
};

#endif

#ifdef PAIRED_CALL

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, PAIRED_CALL);
} calls SEC(".maps");

#endif
