/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * Where the kernel has no tracepoints at the start of a fault (arm64): the start is seen by fentry or a kprobe and put
 * aside (`parked`), and all else happens at the end. Programs of fentry can be preempted, so a start must not touch what
 * belongs to the CPU.
 *
 * Faults of user mode become runs and batches like those of the tracepoints; those of kernel mode, which have other
 * registers than the ones at hand at the end, are sent one by one.
 */
#ifndef MTRACE_LATE_BPF_H
#define MTRACE_LATE_BPF_H

/* The error codes of rows are those of x86. */
#define ERROR_PROTECTION 1
#define ERROR_WRITE 2
#define ERROR_USER 4
#define ERROR_FETCH 16

/* again: the kernel may try a fault several times, which calls the function each time; the first start counts. */
static __always_inline int note_start(u64 addr, u64 ip, u64 error_code, bool again)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *user = (void *)bpf_task_pt_regs(task);
	struct scratch *sc = my_scratch();
	u32 tid = task->pid;
	struct mt_target *t = target_of(task->tgid);
	struct parked p = {}, *before;

	if (!t || !sc || sc->reading_user_memory || sampling_shift() == MT_FAULT_NONE)
		return 0;
	before = bpf_map_lookup_elem(&parked, &tid);
	if (before && again && before->addr >> PAGE_SHIFT == addr >> PAGE_SHIFT)
		return 0;
	/* Of a fault that had no end. */
	if (before)
		count(MT_OWN_0);
	p.addr = addr;
	p.context.ip = ip;
	p.context.user_ip = REG_IP(user);
	p.context.leaf = REG_LEAF(user);
	p.context.fp = REG_FP(user);
	p.context.error_code = error_code;
	p.context.image = t->image;
	p.start = bpf_ktime_get_ns();
	/* Without it the end finds no start and says so. */
	bpf_map_update_elem(&parked, &tid, &p, BPF_ANY);
	return 0;
}

/* arch/arm64/include/asm/esr.h */
#define ESR_CLASS(esr) ((esr) >> 26 & 0x3f)
#define ESR_FETCH_LOW 0x20
#define ESR_FETCH 0x21
#define ESR_WRITE (1 << 6)
#define ESR_CACHE_MAINTENANCE (1 << 8) /* counts as a read, whatever the bit above says */
#define ESR_STATUS_TYPE 0x3c
#define ESR_TRANSLATION 0x04

/* The page was there already: its access flag or its permission was missing. */
static __always_inline u64 error_of_syndrome(u64 esr, bool user)
{
	u64 class = ESR_CLASS(esr), code = user ? ERROR_USER : 0;

	if (class == ESR_FETCH_LOW || class == ESR_FETCH)
		code |= ERROR_FETCH;
	else if (esr & ESR_WRITE && !(esr & ESR_CACHE_MAINTENANCE))
		code |= ERROR_WRITE;
	if ((esr & ESR_STATUS_TYPE) > ESR_TRANSLATION)
		code |= ERROR_PROTECTION;
	return code;
}

SEC("fentry/do_mem_abort")
int BPF_PROG(start_abort, unsigned long far, unsigned long esr, struct pt_regs *regs)
{
	u64 addr = far;

	if (addr >> 55 & 1)
		return 0;
	/* The upper byte may be a tag. */
	addr &= (1ULL << 56) - 1;
	return note_start(addr, REG_IP(regs), error_of_syndrome(esr, is_user_mode(REG_MODE(regs))), false);
}

/* include/linux/mm_types.h */
#define FAULT_FLAG_WRITE 1
#define FAULT_FLAG_USER 0x40
#define FAULT_FLAG_INSTRUCTION 0x100

/* Without BPF trampolines (arm64 before 6.4). Whether the page was there is not told, and what comes before, waiting for
 * mmap_lock above all, is not measured. */
SEC("kprobe/handle_mm_fault")
int start_handler(struct user_regs *ctx)
{
	u64 addr = ctx->regs[1], flags = ctx->regs[2], code = 0;
	struct pt_regs *regs = (void *)ctx->regs[3];

	/* Somebody wants pages of the process: get_user_pages. */
	if (!regs)
		return 0;
	if (flags & FAULT_FLAG_WRITE)
		code |= ERROR_WRITE;
	if (flags & FAULT_FLAG_USER)
		code |= ERROR_USER;
	if (flags & FAULT_FLAG_INSTRUCTION)
		code |= ERROR_FETCH;
	return note_start(addr, BPF_CORE_READ(regs, pc), code, true);
}

static __always_inline int on_late_end(struct bpf_perf_event_data *ctx, bool major, enum mode mode)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 addr = ctx->addr, start, error_code;
	struct slot *s = my_slot();
	u32 tid = task->pid;
	struct parked *p = bpf_map_lookup_elem(&parked, &tid);

	if (!s || !p || p->addr >> PAGE_SHIFT != addr >> PAGE_SHIFT || !is_user_mode(REG_MODE(&ctx->regs)))
		return end_of_parked(ctx, major);
	addr = p->addr;
	start = p->start;
	error_code = p->context.error_code;
	bpf_map_delete_elem(&parked, &tid);
	on_start(addr, (void *)bpf_task_pt_regs(task), error_code, mode);
	s->start = start;
	return on_end(ctx, major, mode);
}

#define LATE_END(name, major, mode)                      \
	SEC("perf_event")                                \
	int name(struct bpf_perf_event_data *ctx)        \
	{                                                \
		return on_late_end(ctx, major, mode);    \
	}

LATE_END(late_minor_run, false, RUNS)
LATE_END(late_major_run, true, RUNS)
LATE_END(late_minor_every, false, EVERY)
LATE_END(late_major_every, true, EVERY)

#endif
