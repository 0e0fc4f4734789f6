// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Intervals in which a thread of a target was not on a CPU: why it left, where, who woke it, when.
#include "mtrace.bpf.h"

#define TASK_INTERRUPTIBLE 1
#define TASK_UNINTERRUPTIBLE 2
#define TASK_DEAD 0x80

#define RUNNABLE 0

/* sleepers.rs writes it, too. */
struct left {
	u64 ts; /* 0: it is on a CPU */
	u64 state; /* class_of */
	u64 runnable;
	u64 waker;
	u64 stack;
	s32 syscall;
	u16 has_stack; /* or one was tried to be taken */
	u16 context;   /* of the waker, enum mt_off_cpu_aux */
};

/* Not task storage: sched_switch runs with the run queue locked, where only preallocated memory is safe. A thread keeps
 * its element until it dies: to look one up costs half of what it costs to make and to delete one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, u32);
	__type(value, struct left);
} off SEC(".maps");

static __always_inline u16 class_of(u64 state)
{
	if (state == 0)
		return RUNNABLE;
	if (state & TASK_UNINTERRUPTIBLE)
		return 2;
	if (state & TASK_INTERRUPTIBLE)
		return 1;
	return 3;
}

/* Where it waits. It is current still, and its registers are those with which it entered the kernel. A preempted thread
 * waits for nothing but a CPU: its stack is not worth the time. */
static __always_inline void note_place(struct left *l, struct task_struct *task, u32 image)
{
	struct pt_regs *user = (void *)bpf_task_pt_regs(task);

	/* Exceptions and interrupts leave -1 here. */
	l->syscall = SYSCALL_NR(user);
	l->has_stack = MT_OFF_HAS_STACK;
	l->stack = take_stack((u64)(u32)task->tgid << 32 | (u32)task->pid, image, REG_IP(user), REG_LEAF(user),
			      REG_FP(user));
}

static __always_inline void leaves(struct task_struct *task, bool preempt, u64 state, u64 *now)
{
	u32 tid = task->pid;
	struct mt_target *t;
	struct left *l;

	if (!tid)
		return;
	if (state & TASK_DEAD) {
		/* Whose it was may be forgotten by now. */
		bpf_map_delete_elem(&off, &tid);
		return;
	}
	t = target_of(task->tgid);
	if (!t)
		return;
	*now = bpf_ktime_get_ns();
	l = bpf_map_lookup_elem(&off, &tid);
	if (!l) {
		struct left fresh = {};

		bpf_map_update_elem(&off, &tid, &fresh, BPF_ANY);
		l = bpf_map_lookup_elem(&off, &tid);
		if (!l) {
			count(MT_SEEN);
			count(MT_NO_STATE);
			return;
		}
	}
	/* It came back unseen: some kernels run no program while certain processes are on the CPU. */
	if (l->ts)
		count(MT_OWN_2);
	l->state = preempt ? RUNNABLE : class_of(state);
	l->runnable = 0;
	l->waker = 0;
	l->context = 0;
	l->stack = 0;
	l->syscall = -1;
	l->has_stack = 0;
	/* From here on somebody may wake it, on another CPU, and note that. */
	*(volatile u64 *)&l->ts = *now;
	if (l->state != RUNNABLE && task->mm)
		note_place(l, task, t->image);
}

static __always_inline void comes_back(struct task_struct *task, u64 now)
{
	struct mt_config *c = settings();
	u32 tid = task->pid, pid = task->tgid;
	struct mt_off_cpu *r;
	struct left *l;
	u64 ts;

	if (!tid || !c || !target_of(pid))
		return;
	l = bpf_map_lookup_elem(&off, &tid);
	if (!l || !l->ts)
		return;
	if (!now)
		now = bpf_ktime_get_ns();
	ts = l->ts;
	l->ts = 0;
	if (now - ts < c->off_cpu_min_ns) {
		count(MT_OWN_0);
		count_by(MT_OWN_1, now - ts);
		return;
	}
	count(MT_SEEN);
	r = RESERVE(struct mt_off_cpu);
	if (!r)
		return;
	if (l->has_stack)
		count_stack(l->stack);
	fill_header(&r->h, MT_OFF_CPU, l->state, (u64)pid << 32 | tid, l->has_stack | l->context, ts);
	r->dur = now - ts;
	r->runnable = l->runnable;
	r->waker = l->waker;
	r->stack = l->stack;
	r->syscall = l->syscall;
	/* Never a wake-up from here: the run queue is locked. */
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

/* 5.18 and later (fa2c3254d7cf): the state is an argument, because prev->__state may change under us. */
SEC("tp_btf/sched_switch")
int BPF_PROG(switch_with_state, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	u64 now = 0;

	leaves(prev, preempt, prev_state, &now);
	comes_back(next, now);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switch_without_state, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u64 now = 0;

	leaves(prev, preempt, prev->__state, &now);
	comes_back(next, now);
	return 0;
}

#define SOFTIRQ_OFFSET (1 << 8) /* set while one is served; more of these bits mean only that none may be */
#define HARDIRQ_AND_NMI (0xff << 16)

/* include/linux/preempt.h */
static __always_inline u32 context_by_count(void)
{
	int count;

	if (!read_preempt_count(&count))
		return 0;
	return count & (HARDIRQ_AND_NMI | SOFTIRQ_OFFSET) ? MT_WAKER_INTERRUPT : MT_WAKER_THREAD;
}

/* Where the kernel does not say where the count is (without CONFIG_KALLSYMS_ALL). An interrupt that came from kernel mode,
 * and every soft one, has a stack of its own; one that came from user mode uses the thread's on x86, which is not in a
 * system call then (arch/x86/include/asm/irq_stack.h). A thread in a page fault looks the same as the latter.
 * `on_stack` is the arguments of a tp_btf program: the kernel has put them on the stack that it runs on. The detour
 * through memory makes a number of it. */
static __always_inline u32 context_by_stack(void *on_stack)
{
	struct task_struct *current = bpf_get_current_task_btf();
	void *volatile slot = on_stack;
	struct pt_regs *user;
	u64 addr = 0;

	bpf_probe_read_kernel(&addr, sizeof(addr), (void *)&slot);
	if (addr - (u64)current->stack >= THREAD_SIZE)
		return MT_WAKER_INTERRUPT;
	user = (void *)bpf_task_pt_regs(current);
	return current->mm && (long)SYSCALL_NR(user) < 0 ? MT_WAKER_INTERRUPT : MT_WAKER_THREAD;
}

/* The programs below run in any context, also amid another program of ours: they use no scratch space. Nobody else
 * writes to the element meanwhile: a thread that was not woken does not come back. */

static __always_inline struct left *asleep(struct task_struct *task)
{
	u32 tid = task->pid;
	struct left *l;

	if (!target_of(task->tgid))
		return 0;
	l = bpf_map_lookup_elem(&off, &tid);
	return l && l->ts && l->state != RUNNABLE && !l->runnable ? l : 0;
}

static __always_inline void wakes(struct left *l, u32 context)
{
	l->runnable = bpf_ktime_get_ns();
	l->waker = bpf_get_current_pid_tgid();
	l->context = context;
}

/* On the CPU of whoever wakes it. */
SEC("tp_btf/sched_waking")
int BPF_PROG(waking, struct task_struct *task)
{
	struct left *l = asleep(task);

	if (l)
		wakes(l, context_by_count());
	return 0;
}

SEC("tp_btf/sched_waking")
int BPF_PROG(waking_by_stack, struct task_struct *task)
{
	struct left *l = asleep(task);

	if (l)
		wakes(l, context_by_stack(ctx));
	return 0;
}

/* Perhaps on the CPU that it will run on, in an interrupt from the waker's. Finds a time only where sched_waking came
 * before the thread was off its CPU, in the microsecond between its decision to sleep and sched_switch. */
SEC("tp_btf/sched_wakeup")
int BPF_PROG(wakeup, struct task_struct *task)
{
	struct left *l = asleep(task);

	if (l)
		l->runnable = bpf_ktime_get_ns();
	return 0;
}

/* A new thread waits for its first CPU, on the CPU of its creator. */
SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(wakeup_new, struct task_struct *task)
{
	u64 now = bpf_ktime_get_ns();
	u32 tid = task->pid;
	struct left l = {
		.ts = now,
		.state = RUNNABLE,
		.runnable = now,
		.waker = bpf_get_current_pid_tgid(),
		.syscall = -1,
		.context = MT_WAKER_THREAD,
	};

	/* Without room its first wait is not seen; its number is not counted either: no interval has begun. */
	if (target_of(task->tgid))
		bpf_map_update_elem(&off, &tid, &l, BPF_ANY);
	return 0;
}
