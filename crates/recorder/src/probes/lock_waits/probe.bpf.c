// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Waits of the targets' threads for the lock of their own address space.
#include "mtrace.bpf.h"

/* include/trace/events/lock.h, since 5.19; other bits: a spinlock, a mutex, a per-CPU lock */
#define LCB_F_READ 2
#define LCB_F_WRITE 4

/* kernel/locking/rwsem.c */
#define RWSEM_READER_OWNED 1
#define RWSEM_OWNER_FLAGS 3ULL

/* What acquiring without waiting takes, with room; for kernels where that cannot be told otherwise. */
#define SHORTEST_WAIT_NS 2000

struct stall {
	u64 ts;
	u64 lock;
	u32 detail;
	u32 holder_pid;
	u32 holder_tid;
	u32 unused;
	char holder_comm[16];
};

#include "open_stall.bpf.h"

/* The pointer may be stale where a reader left it: reads fail or find another task then, never more. */
static __always_inline void note_holder(struct stall *w, struct mm_struct *mm)
{
	u64 owner = BPF_CORE_READ(mm, mmap_lock.owner.counter);
	struct task_struct *task = (void *)(owner & ~RWSEM_OWNER_FLAGS);
	struct mt_config *c = settings();

	if (owner & RWSEM_READER_OWNED)
		w->detail |= MT_LOCK_HELD_BY_READER;
	if (!task || task == (void *)bpf_get_current_task())
		return;
	if (bpf_probe_read_kernel(&w->holder_tid, sizeof(u32), &task->pid))
		return;
	bpf_probe_read_kernel(&w->holder_pid, sizeof(u32), &task->tgid);
	bpf_probe_read_kernel_str(w->holder_comm, sizeof(w->holder_comm), task->comm);
	if (c && w->holder_pid == c->recorder_pid)
		w->detail |= MT_LOCK_HELD_BY_RECORDER;
}

static __always_inline int wait_begins(struct mm_struct *mm, u64 lock, u32 detail)
{
	struct stall w = { .ts = bpf_ktime_get_ns(), .lock = lock, .detail = detail };

	note_holder(&w, mm);
	open_stall(bpf_get_current_pid_tgid(), &w);
	return 0;
}

static __always_inline int wait_ends(u64 lock, u64 shortest)
{
	u64 now = bpf_ktime_get_ns(), who = bpf_get_current_pid_tgid();
	struct stall *found = stall_of(who), w;
	struct mt_lock_wait *r;
	struct mt_target *t;
	u64 stack;

	if (!found || found->lock != lock)
		return 0;
	w = close_stall(who, found);
	if (now - w.ts < shortest) {
		count(MT_OWN_0);
		return 0;
	}
	t = target_of(who >> 32);
	if (!t)
		return 0;
	count(MT_SEEN);
	stack = stack_here(who, t->image);
	r = RESERVE(struct mt_lock_wait);
	if (!r)
		return 0;
	count_stack(stack);
	fill_header(&r->h, MT_LOCK_WAIT, w.detail, who, w.holder_tid, w.ts);
	r->dur = now - w.ts;
	r->stack = stack;
	r->holder_pid = w.holder_pid;
	r->unused = 0;
	__builtin_memcpy(r->holder_comm, w.holder_comm, sizeof(r->holder_comm));
	SUBMIT(r);
	return 0;
}

SEC("tp_btf/contention_begin")
int BPF_PROG(contention_begin, void *lock, unsigned int flags)
{
	struct task_struct *task;
	struct mm_struct *mm;

	/* First, and alone: this comes for every lock of the kernel, from within our own helpers as well. */
	if (flags != LCB_F_READ && flags != LCB_F_WRITE)
		return 0;
	task = (void *)bpf_get_current_task();
	mm = BPF_CORE_READ(task, mm);
	if (!mm || lock != (void *)mm + bpf_core_field_offset(struct mm_struct, mmap_lock))
		return 0;
	if (!target_of(bpf_get_current_pid_tgid() >> 32))
		return 0;
	return wait_begins(mm, (u64)lock, flags == LCB_F_WRITE ? MT_LOCK_WRITE : 0);
}

SEC("tp_btf/contention_end")
int BPF_PROG(contention_end, void *lock)
{
	return wait_ends((u64)lock, 0);
}

/* Before 5.19. Every acquisition passes here, and is measured. */
SEC("tp_btf/mmap_lock_start_locking")
int BPF_PROG(locking_begins, struct mm_struct *mm)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	/* The argument after the group's path, which was dropped in 6.13 but is there wherever this is used. */
	bool write = ctx[2];

	if (!mm || BPF_CORE_READ(task, mm) != mm || !target_of(bpf_get_current_pid_tgid() >> 32))
		return 0;
	return wait_begins(mm, (u64)mm, write ? MT_LOCK_WRITE : 0);
}

SEC("tp_btf/mmap_lock_acquire_returned")
int BPF_PROG(locking_ends, struct mm_struct *mm)
{
	return wait_ends((u64)mm, SHORTEST_WAIT_NS);
}

/* Killed within it, while it waited for a lock that can be interrupted. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(waiting_thread_exit, struct task_struct *task)
{
	return forget_stall(task, MT_OWN_1);
}
