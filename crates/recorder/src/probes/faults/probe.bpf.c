// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// User page faults: start by tracepoint, end by the software event of mm_account_fault (mm/memory.c).
#include "mtrace.bpf.h"

struct start {
	u32 pending;
	u32 image;
	u64 ts;
	u64 addr;
	u64 ip;
	u64 error_code;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct start);
} starts SEC(".maps");

static __always_inline int on_start(u64 addr, struct pt_regs *regs, u64 error_code)
{
	struct mt_target *t;
	struct scratch *sc;
	struct start *s;

	if (addr >> 63)
		return 0;
	t = target_of(bpf_get_current_pid_tgid() >> 32);
	if (!t)
		return 0;
	/* Reading the target's stack or buffers can fault: that is us, not the target, and it has no end. */
	sc = my_scratch();
	if (sc && sc->reading_user_memory)
		return 0;
	s = bpf_task_storage_get(&starts, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!s)
		return 0; /* the end finds no start and counts it */
	if (s->pending)
		count(MT_OWN_0);
	s->image = t->image;
	s->addr = addr;
	s->ip = regs->ip;
	s->error_code = error_code;
	s->pending = 1;
	s->ts = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/page_fault_user")
int BPF_PROG(fault_start_user, unsigned long addr, struct pt_regs *regs, unsigned long error_code)
{
	return on_start(addr, regs, error_code);
}

SEC("tp_btf/page_fault_kernel")
int BPF_PROG(fault_start_kernel, unsigned long addr, struct pt_regs *regs, unsigned long error_code)
{
	return on_start(addr, regs, error_code);
}

static __always_inline int on_end(struct bpf_perf_event_data *ctx, u16 detail)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct start *s = bpf_task_storage_get(&starts, task, 0, 0);
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u64 now, stack;
	/* All of the context at once: the verifier wants constant offsets from it. */
	u64 addr = ctx->addr, cs = ctx->regs.cs, ip = ctx->regs.ip, sp = ctx->regs.sp, bp = ctx->regs.bp;
	struct mt_fault *r;
	struct start at;

	if (s && s->pending && s->addr >> 12 == addr >> 12) {
		/* The start has looked whether it is a target. */
		now = bpf_ktime_get_ns();
		s->pending = 0;
		at = *s;
		detail |= MT_FAULT_HAS_START;
	} else {
		struct mt_target *t = target_of(pid_tgid >> 32);

		if (!t)
			return 0;
		now = bpf_ktime_get_ns();
		at = (struct start){ .image = t->image, .ts = now, .addr = addr, .ip = ip };
	}
	count(MT_SEEN);
	if (!is_user_mode(cs)) {
		struct pt_regs *regs = (void *)bpf_task_pt_regs(task);

		ip = regs->ip;
		sp = regs->sp;
		bp = regs->bp;
	}
	stack = take_stack(pid_tgid, at.image, ip, sp, bp);
	r = RESERVE(struct mt_fault);
	if (!r)
		return 0;
	if (!(detail & MT_FAULT_HAS_START))
		count(MT_NO_START);
	count_stack(stack);
	fill_header(&r->h, MT_FAULT, detail, pid_tgid, at.error_code, at.ts);
	r->dur = now - at.ts;
	r->addr = at.addr;
	r->ip = at.ip;
	r->stack = stack;
	SUBMIT(r);
	return 0;
}

SEC("perf_event")
int fault_end_minor(struct bpf_perf_event_data *ctx)
{
	return on_end(ctx, 0);
}

SEC("perf_event")
int fault_end_major(struct bpf_perf_event_data *ctx)
{
	return on_end(ctx, MT_FAULT_MAJOR);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(fault_thread_exit, struct task_struct *task)
{
	struct start *s;

	if (!target_of(task->tgid))
		return 0;
	s = bpf_task_storage_get(&starts, bpf_get_current_task_btf(), 0, 0);
	if (s && s->pending) {
		s->pending = 0;
		count(MT_OWN_0);
	}
	return 0;
}
