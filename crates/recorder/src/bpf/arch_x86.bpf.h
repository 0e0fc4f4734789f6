/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * x86-64, see arch.bpf.h.
 */
#ifndef MTRACE_ARCH_X86_BPF_H
#define MTRACE_ARCH_X86_BPF_H

#define TASK_SIZE_MAX (1ULL << 47)
#define THREAD_SIZE 16384 /* without KASAN */
/* Frames of the program itself and of its call that bpf_get_stack shows in a raw tracepoint. */
#define FRAMES_OF_PROGRAM 0
#define PAGE_SHIFT 12

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs {
	unsigned long r15;
	unsigned long r14;
	unsigned long r13;
	unsigned long r12;
	unsigned long bp;
	unsigned long bx;
	unsigned long r11;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long cs;
	unsigned long sp;
};

/* 6.2 to 6.14 (64701838bf05, 46e8fff6d45f): the preemption count of a CPU is in here. */
struct pcpu_hot___old {
	int preempt_count;
};

#pragma clang attribute pop

/* arch/x86/include/uapi/asm/ptrace.h */
struct user_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#define REG_IP(r) ((r)->ip)
#define REG_FP(r) ((r)->bp)
#define REG_LEAF(r) ((r)->sp)
#define REG_MODE(r) ((r)->cs)
#define SYSCALL_NR(r) ((r)->orig_ax)
#define SYSCALL_ARG0(r) ((r)->di)
#define SYSCALL_ARG1(r) ((r)->si)
#define SYSCALL_ARG2(r) ((r)->dx)
#define SYSCALL_ARG3(r) ((r)->r10)
#define SYSCALL_ARG4(r) ((r)->r8)
#define SYSCALL_ARG5(r) ((r)->r9)
#define GO_G(r) ((r)->r14)
#define GO_ARG0(r) ((r)->ax)
#define GO_ARG1(r) ((r)->bx)

#define USER_CS_32 0x23

static __always_inline bool is_user_mode(u64 cs)
{
	return cs & 3;
}

static __always_inline bool is_32_bit(u64 cs)
{
	return cs == USER_CS_32;
}

/* As the frame's owner has stored it. */
#define RETURN_ADDRESS(stored) (stored)

/* FF /2, the indirect call, with its ModRM byte. */
#define IS_INDIRECT_CALL(opcode, modrm) ((opcode) == 0xff && ((modrm) & 0x38) == 0x10)

static __always_inline bool follows_call(u64 addr)
{
	u8 b[8];

	if (addr < 4096 || addr >= TASK_SIZE_MAX || bpf_probe_read_user(b, sizeof(b), (void *)(addr - 8)))
		return false;
	return b[3] == 0xe8 /* call rel32 */ || IS_INDIRECT_CALL(b[6], b[7]) || IS_INDIRECT_CALL(b[5], b[6]) ||
	       IS_INDIRECT_CALL(b[4], b[5]) || IS_INDIRECT_CALL(b[2], b[3]) || IS_INDIRECT_CALL(b[1], b[2]);
}

extern const int __preempt_count __ksym __weak;
extern const struct pcpu_hot___old pcpu_hot __ksym __weak;

/* A count per CPU. False if the kernel does not say where it is. */
static __always_inline bool read_preempt_count(int *count)
{
	if (&__preempt_count)
		*count = *(int *)bpf_this_cpu_ptr(&__preempt_count);
	else if (&pcpu_hot)
		*count = ((struct pcpu_hot___old *)bpf_this_cpu_ptr(&pcpu_hot))->preempt_count;
	else
		return false;
	return true;
}

/* Where each register has grown by what it grew by before, so has the sum; hardly ever otherwise. */
static __always_inline u64 sum_of_registers(struct pt_regs *r)
{
	u64 sum = r->ax * 0x9e3779b97f4a7c15ULL + r->bx * 0xc2b2ae3d27d4eb4fULL + r->cx * 0x165667b19e3779f9ULL +
		  r->dx * 0x27d4eb2f165667c5ULL + r->si * 0x85ebca77c2b2ae63ULL + r->di * 0xff51afd7ed558ccdULL;

	sum += r->r8 * 0xc4ceb9fe1a85ec53ULL + r->r9 * 0xbf58476d1ce4e5b9ULL + r->r10 * 0x94d049bb133111ebULL +
	       r->r11 * 0xd6e8feb86659fd93ULL;
	return sum + r->r12 * 0xa0761d6478bd642fULL + r->r13 * 0xe7037ed1a0b428dbULL + r->r14 * 0x8ebc6af09c88c6e3ULL +
	       r->r15 * 0x589965cc75374cc3ULL;
}

/* System calls */
#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_MUNMAP 11
#define NR_BRK 12
#define NR_MREMAP 25
#define NR_MADVISE 28
#define NR_CLONE 56
#define NR_FORK 57
#define NR_VFORK 58
#define NR_CLONE3 435
/* Neighbours in ranges: every call of every process passes here. */
#define IS_FORK(nr) (((nr) >= NR_CLONE && (nr) <= NR_VFORK) || (nr) == NR_CLONE3)
#define CHANGES_MAPPINGS(nr) (((nr) >= NR_MMAP && (nr) <= NR_BRK) || (nr) == NR_MREMAP || (nr) == NR_MADVISE)
#define NR_READ 0
#define NR_WRITE 1
#define NR_OPEN 2
#define NR_CLOSE 3
#define NR_PREAD64 17
#define NR_PWRITE64 18
#define NR_READV 19
#define NR_WRITEV 20
#define NR_CONNECT 42
#define NR_ACCEPT 43
#define NR_SENDTO 44
#define NR_RECVFROM 45
#define NR_SENDMSG 46
#define NR_RECVMSG 47
#define NR_LISTEN 50
#define NR_FSYNC 74
#define NR_FDATASYNC 75
#define NR_CREAT 85
#define NR_OPENAT 257
#define NR_ACCEPT4 288
#define NR_PREADV 295
#define NR_PWRITEV 296
#define NR_PREADV2 327
#define NR_PWRITEV2 328
#define NR_OPENAT2 437

#endif
