// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// User page faults: start by tracepoint, end by the software event of mm_account_fault (mm/memory.c).
#include "mtrace.bpf.h"

struct start {
	u64 pending;
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
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct scratch *sc;
	struct start *s;

	if (addr >> 63 || !target_of(pid_tgid >> 32))
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
	u64 now = bpf_ktime_get_ns();
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct mt_target *t = target_of(pid_tgid >> 32);
	struct task_struct *task;
	struct mt_fault *r;
	struct start *s, at = {};
	u64 stack;

	if (!t)
		return 0;
	count(MT_SEEN);
	task = bpf_get_current_task_btf();
	s = bpf_task_storage_get(&starts, task, 0, 0);
	if (s && s->pending && s->addr >> 12 == ctx->addr >> 12) {
		at = *s;
		s->pending = 0;
		detail |= MT_FAULT_HAS_START;
	} else {
		count(MT_NO_START);
		at.ts = now;
		at.addr = ctx->addr;
		at.ip = ctx->regs.ip;
	}
	if (is_user_mode(ctx->regs.cs)) {
		stack = take_stack(pid_tgid, t->image, ctx->regs.ip, ctx->regs.bp);
	} else {
		struct pt_regs *regs = (void *)bpf_task_pt_regs(task);

		stack = take_stack(pid_tgid, t->image, regs->ip, regs->bp);
	}
	r = RESERVE(struct mt_fault);
	if (!r)
		return 0;
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
