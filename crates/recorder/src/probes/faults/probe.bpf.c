// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// User page faults: start by tracepoint, end by the software event of mm_account_fault (mm/memory.c).
#include "slot.bpf.h"

/* What it takes to say that a fault goes on where the last one was; of a fault in user mode only. */
static __always_inline bool is_same_user_context(struct run *r, u64 who, struct pt_regs *regs, u64 error_code)
{
	return r->owner == who && r->context.ip == REG_IP(regs) && r->context.leaf == REG_LEAF(regs) &&
	       r->context.fp == REG_FP(regs) && r->context.error_code == error_code;
}

/* A run goes on as long as the process's mappings stay as they are: each of its pages then has the same owner. */
static __always_inline bool is_same_epoch(struct run *r)
{
	return r->context.epoch == epoch_of(r->context.image);
}

static __always_inline u64 stack_of(struct context *c, u64 who)
{
	return take_stack(who, c->image, c->user_ip, c->leaf, c->fp);
}

/* Whether a fault in the context of the last one has its stack, too. Instruction, stack pointer and frame pointer do not
 * tell: the same function, called at the same depth, may have been called by somebody else further out. Nor do all
 * registers, though a loop that goes on changes each of them by what it changed it by before, and one that is called
 * again mostly begins anew: two callers may take turns in one loop. So a stack is taken over only after it has been
 * walked many times without another one between, seldom at first, and walked again after a random number of faults:
 * turns of a fixed length would else hide behind a fixed one. */
static __always_inline u64 may_reuse_stack(struct run *r, struct pt_regs *regs)
{
	u64 sum = sum_of_registers(regs), step = sum - r->steps.sum;
	bool goes_on = step == r->steps.step && r->context.stack > MT_NO_STACK_LOST;

	r->steps.sum = sum;
	r->steps.step = step;
	if (!goes_on)
		return WALKED;
	return r->steps.left ? REUSED : CHECKED;
}

/* How many faults may take over the stack from here on. */
static __always_inline u64 draw(struct steps *t)
{
	u64 mean = t->agreed / CONFIRMED >> 2 * t->refuted;

	if (mean > MAX_REUSED)
		mean = MAX_REUSED;
	return mean ? bpf_get_prandom_u32() % (2 * mean + 1) : 0;
}

/* The second fault of a run decides how far its pages are apart. */
static __always_inline bool takes_stride(struct run *r, u64 addr)
{
	s64 stride = (addr >> PAGE_SHIFT) - (r->first_addr >> PAGE_SHIFT);

	if (r->count != 1 || !stride || stride > STRIDE_MAX || stride < -STRIDE_MAX)
		return false;
	r->stride = stride;
	return true;
}

static __always_inline void change_context(struct run *r, u64 who, u32 image, struct pt_regs *regs,
					   struct pt_regs *user, u64 error_code, enum mode mode)
{
	flush(r, mode);
	r->owner = who;
	r->context.ip = REG_IP(regs);
	r->context.user_ip = REG_IP(user);
	r->context.leaf = REG_LEAF(user);
	r->context.fp = REG_FP(user);
	r->context.error_code = error_code;
	r->context.image = image;
	r->context.stack = MT_NO_STACK_UNREADABLE;
	r->steps.reused = 0;
	r->steps.left = 0;
	r->steps.refuted = 0;
}

static __noinline int begin_fault(struct slot *s, u64 addr, struct pt_regs *regs, u64 error_code, enum mode mode)
{
	u64 who = bpf_get_current_pid_tgid(), way;
	struct pt_regs *user = regs;
	struct mt_config *c = settings();
	struct scratch *sc;
	struct mt_target *t;
	struct run *r;
	bool same;

	if (addr >> 63)
		return 0;
	t = target_of(who >> 32);
	if (!t)
		return 0;
	/* Reading the target's stack or buffers can fault: that is us, not the target, and it has no end. */
	sc = my_scratch();
	if (!sc || sc->reading_user_memory)
		return 0;
	if (!is_user_mode(REG_MODE(regs)))
		user = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	way = way_of(REG_IP(regs), error_code);
	r = run_at(s, way);
	same = r->owner == who && r->context.ip == REG_IP(regs) && r->context.user_ip == REG_IP(user) &&
	       r->context.leaf == REG_LEAF(user) && r->context.fp == REG_FP(user) && r->context.error_code == error_code &&
	       r->context.image == t->image;
	set_busy(s, 1);
	/* A signal, or the kernel's fixup, instead of an end; a fault of another thread would have been parked. */
	if (s->who)
		count(MT_OWN_0);
	s->continues = mode == RUNS && same && is_same_epoch(r) &&
		       (r->next == addr >> PAGE_SHIFT || takes_stride(r, addr));
	if (!same)
		change_context(r, who, t->image, regs, user, error_code, mode);
	else if (mode == RUNS && !s->continues)
		flush(r, mode);
	s->stack_is = WALKED;
	r->steps.sum = sum_of_registers(regs);
	r->steps.step = NO_STEP;
	r->context.epoch = epoch_of(t->image);
	s->slow_ns = c ? c->slow_fault_ns : 0;
	set_busy(s, 0);
	s->way = way;
	s->addr = addr;
	s->who = who;
	s->start = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int on_start(u64 addr, struct pt_regs *regs, u64 error_code, enum mode mode)
{
	u64 who = bpf_get_current_pid_tgid(), way = way_of(REG_IP(regs), error_code);
	struct slot *s = my_slot();
	u32 shift = sampling_shift();
	struct run *r;

	if (!s)
		return 0;
	s->skipped = 0;
	if (shift) {
		if (shift == MT_FAULT_NONE || bpf_get_prandom_u32() & ((1U << shift) - 1)) {
			s->skipped = who;
			return 0;
		}
		error_code |= (u64)shift << WEIGHT_SHIFT;
	}
	r = run_at(s, way);
	if (s->who || !is_same_user_context(r, who, regs, error_code) ||
	    (mode == RUNS && !(r->next == addr >> PAGE_SHIFT && is_same_epoch(r))))
		return begin_fault(s, addr, regs, error_code, mode);
	s->stack_is = may_reuse_stack(r, regs);
	s->continues = mode == RUNS;
	s->way = way;
	s->addr = addr;
	s->who = who;
	s->start = bpf_ktime_get_ns();
	return 0;
}

#define START(name, tracepoint, mode)                                                                           \
	SEC("tp_btf/" tracepoint)                                                                               \
	int BPF_PROG(name, unsigned long addr, struct pt_regs *regs, unsigned long error_code)                  \
	{                                                                                                       \
		return on_start(addr, regs, error_code, mode);                                                  \
	}

START(start_user_run, "page_fault_user", RUNS)
START(start_kernel_run, "page_fault_kernel", RUNS)
START(start_user_every, "page_fault_user", EVERY)
START(start_kernel_every, "page_fault_kernel", EVERY)

/* The start was on another CPU or before a sleep; or nobody saw it. */
static __always_inline int end_of_parked(struct bpf_perf_event_data *ctx, bool major)
{
	u64 who = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	u64 addr = ctx->addr, mode = REG_MODE(&ctx->regs), ip = REG_IP(&ctx->regs);
	u64 leaf = REG_LEAF(&ctx->regs), fp = REG_FP(&ctx->regs);
	u16 detail = major ? MT_FAULT_MAJOR : 0;
	struct context c = {};
	struct mt_target *t;
	struct parked *p;
	u32 tid = who, shift;

	p = bpf_map_lookup_elem(&parked, &tid);
	if (p && p->addr >> PAGE_SHIFT == addr >> PAGE_SHIFT) {
		struct parked at = *p;

		bpf_map_delete_elem(&parked, &tid);
		at.context.stack = stack_of(&at.context, who);
		send_one(who, &at.context, at.start, now - at.start, at.addr, detail | MT_FAULT_HAS_START);
		return 0;
	}
	t = target_of(who >> 32);
	if (!t)
		return 0;
	/* One that was left out, and whose thread has left its CPU since. */
	shift = sampling_shift();
	if (shift) {
		if (shift != MT_FAULT_NONE)
			count(MT_OWN_1);
		return 0;
	}
	c.ip = ip;
	if (!is_user_mode(mode)) {
		struct pt_regs *user = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

		ip = REG_IP(user);
		leaf = REG_LEAF(user);
		fp = REG_FP(user);
	}
	c.image = t->image;
	c.stack = take_stack(who, t->image, ip, leaf, fp);
	send_one(who, &c, now, 0, addr, detail);
	return 0;
}

static __noinline int end_elsewhere(struct slot *s, struct bpf_perf_event_data *ctx, bool major)
{
	set_busy(s, 1);
	end_of_parked(ctx, major);
	set_busy(s, 0);
	return 0;
}

/* The end of a fault that is not simply the next one of its run. */
static __noinline int end_fault(struct slot *s, struct run *r, u64 now, bool major, enum mode mode)
{
	u64 dur = now - s->start, stack = s->stack;

	set_busy(s, 1);
	if (r->count && (r->major != major || dur >= s->slow_ns || r->context.stack != stack || is_old(s, r)))
		flush(r, mode);
	r->context.stack = stack;
	if (dur >= s->slow_ns) {
		send_one(r->owner, &r->context, s->start, dur, s->addr,
			 MT_FAULT_HAS_START | (major ? MT_FAULT_MAJOR : 0));
		r->next = (s->addr >> PAGE_SHIFT) + 1;
	} else {
		if (!r->count)
			begin_run(r, s, major);
		if (mode == EVERY)
			add_to_batch(r, s, now, dur);
		else
			add_to_run(r, s, now, dur);
	}
	set_busy(s, 0);
	return 0;
}

/* Where the walk finds another stack, those that took it over since the last walk are in doubt. As it may come at any of
 * them, their number is also what to expect of those that it does not come at. */
static __always_inline u64 stack_at_end(struct slot *s, struct run *r)
{
	struct steps *t = &r->steps;
	u64 stack;

	if (s->stack_is == REUSED && t->left) {
		t->left--;
		t->reused++;
		return r->context.stack;
	}
	stack = stack_of(&r->context, r->owner);
	if (stack != r->context.stack && t->reused) {
		count_by(MT_OWN_2, t->reused);
		if (t->refuted < MAX_REFUTED)
			t->refuted++;
	}
	if (s->stack_is == CHECKED && stack == r->context.stack)
		t->agreed += t->reused + 1;
	else
		t->agreed = 0;
	t->reused = 0;
	t->left = draw(t);
	return stack;
}

static __always_inline int on_end(struct bpf_perf_event_data *ctx, bool major, enum mode mode)
{
	u64 who = bpf_get_current_pid_tgid();
	struct slot *s = my_slot();
	struct run *r;
	u64 now, dur, stack;

	if (!s)
		return 0;
	if (s->skipped == who) {
		s->skipped = 0;
		return 0;
	}
	if (s->who != who || s->addr >> PAGE_SHIFT != ctx->addr >> PAGE_SHIFT)
		return end_elsewhere(s, ctx, major);
	now = bpf_ktime_get_ns();
	dur = now - s->start;
	s->who = 0;
	r = run_at(s, s->way);
	stack = stack_at_end(s, r);
	s->stack = stack;
	/* Between start and end somebody may have sent the run: then the next one begins. */
	if (mode == RUNS && s->continues && r->count && r->major == major && dur < s->slow_ns &&
	    r->context.stack == stack && !is_old(s, r)) {
		set_busy(s, 1);
		add_to_run(r, s, now, dur);
		set_busy(s, 0);
		return 0;
	}
	return end_fault(s, r, now, major, mode);
}

#define END(name, major, mode)                      \
	SEC("perf_event")                           \
	int name(struct bpf_perf_event_data *ctx)   \
	{                                           \
		return on_end(ctx, major, mode);    \
	}

END(end_minor_run, false, RUNS)
END(end_major_run, true, RUNS)
END(end_minor_every, false, EVERY)
END(end_major_every, true, EVERY)

/* Without the tracepoints there is no start. */
SEC("perf_event")
int end_minor_alone(struct bpf_perf_event_data *ctx)
{
	return end_of_parked(ctx, false);
}

SEC("perf_event")
int end_major_alone(struct bpf_perf_event_data *ctx)
{
	return end_of_parked(ctx, true);
}

#ifdef HAS_LATE_FAULT_STARTS
#include "late.bpf.h"
#endif

/* A thread that sleeps or is preempted within a fault goes on somewhere else perhaps. */
SEC("tp_btf/sched_switch")
int BPF_PROG(fault_switch, bool preempt, struct task_struct *prev)
{
	struct slot *s = my_slot();
	struct parked p = {};
	struct run *r;
	u32 tid;

	if (!s)
		return 0;
	s->skipped = 0;
	if (!s->who)
		return 0;
	tid = s->who;
	r = run_at(s, s->way);
	p.start = s->start;
	p.addr = s->addr;
	p.context = r->context;
	/* One of a fault that had no end. */
	if (bpf_map_lookup_elem(&parked, &tid))
		count(MT_OWN_0);
	/* Without it the end finds no start and says so. */
	bpf_map_update_elem(&parked, &tid, &p, BPF_ANY);
	s->who = 0;
	return 0;
}

static __always_inline int thread_exit(enum mode mode)
{
	u64 who = bpf_get_current_pid_tgid();
	struct slot *s = my_slot();
	u32 tid = who;

	if (!s || !target_of(who >> 32))
		return 0;
	set_busy(s, 1);
	if (s->who == who) {
		s->who = 0;
		count(MT_OWN_0);
	}
	if (!bpf_map_delete_elem(&parked, &tid))
		count(MT_OWN_0);
	for (int i = 0; i < WAYS; i++) {
		struct run *r = &s->runs[i];

		if (r->owner != who)
			continue;
		flush(r, mode);
		r->owner = 0;
	}
	set_busy(s, 0);
	return 0;
}

static __always_inline int flush_now(enum mode mode)
{
	struct slot *s = my_slot();

	if (!s || s->busy)
		return 1;
	for (int i = 0; i < WAYS; i++)
		flush(&s->runs[i], mode);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(thread_exit_run, struct task_struct *task)
{
	return thread_exit(RUNS);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(thread_exit_every, struct task_struct *task)
{
	return thread_exit(EVERY);
}

/* Never attached: user space runs it on each CPU, to get what has not been sent. */
SEC("raw_tp/flush")
int flush_run(void *ctx)
{
	return flush_now(RUNS);
}

SEC("raw_tp/flush")
int flush_every(void *ctx)
{
	return flush_now(EVERY);
}
