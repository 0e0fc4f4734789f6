/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * arm64, see arch.bpf.h.
 */
#ifndef MTRACE_ARCH_ARM64_BPF_H
#define MTRACE_ARCH_ARM64_BPF_H

/* With 52 bits, too: what is above, a program has to ask for. */
#define TASK_SIZE_MAX (1ULL << 48)
#define THREAD_SIZE 16384 /* with pages of 4 KiB, without KASAN */
/* Frames of the program itself and of its call that bpf_get_stack shows in a raw tracepoint, with room. */
#define FRAMES_OF_PROGRAM 8
/* Pages may have 4, 16 or 64 KiB: no PAGE_SHIFT. */
#define HAS_LINK_REGISTER 1
/* No tracepoints at the start of a fault: see probes/faults/late.bpf.h. */
#define HAS_LATE_FAULT_STARTS 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
	u64 orig_x0;
	s32 syscallno;
};

struct thread_info {
	u64 preempt_count; /* the lower half of it */
};

struct task_struct___arm64 {
	struct thread_info thread_info;
};

#pragma clang attribute pop

/* arch/arm64/include/uapi/asm/ptrace.h, by the name that bpf_tracing.h and usdt.bpf.h know, too. */
struct user_pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
};
#define user_regs user_pt_regs

#define REG_IP(r) ((r)->pc)
#define REG_FP(r) ((r)->regs[29])
#define REG_LEAF(r) ((r)->regs[30])
#define REG_MODE(r) ((r)->pstate)
#define SYSCALL_NR(r) ((r)->syscallno)
/* x0 holds the result at the exit. */
#define SYSCALL_ARG0(r) ((r)->orig_x0)
#define SYSCALL_ARG1(r) ((r)->regs[1])
#define SYSCALL_ARG2(r) ((r)->regs[2])
#define SYSCALL_ARG3(r) ((r)->regs[3])
#define SYSCALL_ARG4(r) ((r)->regs[4])
#define SYSCALL_ARG5(r) ((r)->regs[5])
#define GO_G(r) ((r)->regs[28])
#define GO_ARG0(r) ((r)->regs[0])
#define GO_ARG1(r) ((r)->regs[1])

#define PSR_MODE_MASK 0xf
#define PSR_MODE32_BIT 0x10

static __always_inline bool is_user_mode(u64 pstate)
{
	return !(pstate & PSR_MODE_MASK);
}

static __always_inline bool is_32_bit(u64 pstate)
{
	return pstate & PSR_MODE32_BIT;
}

/* Without the signature of pointer authentication, which is above the address. */
#define RETURN_ADDRESS(stored) ((stored) & (TASK_SIZE_MAX - 1))

/* False if the kernel does not say where it is. */
static __always_inline bool read_preempt_count(int *count)
{
	struct task_struct___arm64 *current = (void *)bpf_get_current_task_btf();

	*count = (int)current->thread_info.preempt_count;
	return true;
}

/* Where each register has grown by what it grew by before, so has the sum; hardly ever otherwise. */
static __always_inline u64 sum_of_registers(struct pt_regs *r)
{
	u64 sum = r->sp;

#pragma unroll
	for (int i = 0; i < 31; i++)
		sum = sum * 0x9e3779b97f4a7c15ULL + r->regs[i];
	return sum;
}

/* System calls (include/uapi/asm-generic/unistd.h). What this architecture never had is never met. */
#define NR_MMAP 222
#define NR_MPROTECT 226
#define NR_MUNMAP 215
#define NR_BRK 214
#define NR_MREMAP 216
#define NR_MADVISE 233
#define NR_CLONE 220
#define NR_CLONE3 435
#define IS_FORK(nr) ((nr) == NR_CLONE || (nr) == NR_CLONE3)
#define CHANGES_MAPPINGS(nr) (((nr) >= NR_BRK && (nr) <= NR_MREMAP) || (nr) == NR_MMAP || (nr) == NR_MPROTECT || \
			      (nr) == NR_MADVISE)
#define NR_READ 63
#define NR_WRITE 64
#define NR_CLOSE 57
#define NR_PREAD64 67
#define NR_PWRITE64 68
#define NR_READV 65
#define NR_WRITEV 66
#define NR_CONNECT 203
#define NR_ACCEPT 202
#define NR_SENDTO 206
#define NR_RECVFROM 207
#define NR_SENDMSG 211
#define NR_RECVMSG 212
#define NR_LISTEN 201
#define NR_FSYNC 82
#define NR_FDATASYNC 83
#define NR_OPENAT 56
#define NR_ACCEPT4 242
#define NR_PREADV 69
#define NR_PWRITEV 70
#define NR_PREADV2 286
#define NR_PWRITEV2 287
#define NR_OPENAT2 437
/* Below zero, each another one: for those that arm64 does not have. */
#define NR_FORK -2
#define NR_VFORK -3
#define NR_OPEN -4
#define NR_CREAT -5

#endif
