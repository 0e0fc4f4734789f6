/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * All that depends on the architecture, under names that every probe uses: one file for each architecture.
 *
 * Registers (of `struct pt_regs`, a kernel's, and of `struct user_regs`, whose layout is user-space ABI):
 *   REG_IP, REG_FP       instruction, frame pointer
 *   REG_LEAF             what tells the caller of a function without a frame, see return_address_of_leaf
 *   REG_MODE             for is_user_mode and is_32_bit
 *   SYSCALL_NR           of the call that the thread entered the kernel for; negative for none
 *   SYSCALL_ARG0 … 5     at the entry, and at the exit as well
 *   sum_of_registers     of all but the instruction pointer, each with a weight of its own
 *   GO_G, GO_ARG0, …     Go's register ABI (1.17 and later); results come in the registers of arguments
 */
#ifndef MTRACE_ARCH_BPF_H
#define MTRACE_ARCH_BPF_H

#include "vmlinux_min.h"

#if defined(__TARGET_ARCH_x86)
#include "arch_x86.bpf.h"
#elif defined(__TARGET_ARCH_arm64)
#include "arch_arm64.bpf.h"
#else
#error "the probes know x86-64 and arm64: another architecture needs a file like arch_arm64.bpf.h"
#endif

/* Context of the programs of perf events (linux/bpf_perf_event.h). */
struct bpf_perf_event_data {
	struct user_regs regs;
	u64 sample_period;
	u64 addr;
};

#endif
