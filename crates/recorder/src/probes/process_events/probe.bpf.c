// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Life of the targets, and who is one: children are added at fork, before they can run.
#include "mtrace.bpf.h"

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct mt_process);
} record SEC(".maps");

static __always_inline u64 ids(u32 pid, u32 tid)
{
	return (u64)pid << 32 | tid;
}

static __always_inline struct mt_process *begin(u16 detail, u64 pid_tgid, u32 parent, struct task_struct *task)
{
	u32 zero = 0;
	struct mt_process *r = bpf_map_lookup_elem(&record, &zero);

	if (!r)
		return 0;
	count(MT_SEEN);
	fill_header(&r->h, MT_PROCESS, detail, pid_tgid, parent, bpf_ktime_get_ns());
	r->status = 0;
	r->image = 0;
	r->code_addr = 0;
	r->dev = 0;
	r->inode = 0;
	r->path_bytes = 0;
	r->unused = 0;
	bpf_probe_read_kernel_str(r->comm, sizeof(r->comm), task->comm);
	return r;
}

static __always_inline void send(struct mt_process *r, u64 flags)
{
	u32 n = r->path_bytes;

	if (n > MT_PATH)
		n = MT_PATH;
	if (bpf_ringbuf_output(&ring, r, __builtin_offsetof(struct mt_process, path) + n, flags))
		count(MT_RING_FULL);
}

/* Makes the process a target if it has the name that was asked for. */
static __always_inline struct mt_target *adopt_by_name(u32 pid, const char *comm)
{
	struct mt_config *c = settings();
	struct mt_target fresh = {};

	if (!c || !c->comm_bytes || pid == c->recorder_pid)
		return 0;
	for (int i = 0; i < 16; i++) {
		if (comm[i] != c->comm[i])
			return 0;
		if (!comm[i])
			break;
	}
	fresh.image = new_image();
	bpf_map_update_elem(&targets, &pid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&targets, &pid);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u32 pid = task->tgid;
	struct mt_target *t = bpf_map_lookup_elem(&targets, &pid);
	struct mt_process *r;
	struct inode *inode;
	char comm[16] = {};
	long n;

	if (!t) {
		bpf_probe_read_kernel_str(comm, sizeof(comm), task->comm);
		t = adopt_by_name(pid, comm);
		if (!t)
			return 0;
	}
	t->flags &= ~MT_TARGET_WAITS_FOR_EXEC;
	next_epoch(t->image);
	t->image = new_image();
	r = begin(MT_EXEC, ids(pid, task->pid), 0, task);
	if (!r)
		return 0;
	r->image = t->image;
	r->code_addr = BPF_CORE_READ(task, mm, start_code);
	inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	r->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	r->inode = BPF_CORE_READ(inode, i_ino);
	n = bpf_probe_read_kernel_str(r->path, MT_PATH, bprm->filename);
	if (n > 1)
		r->path_bytes = n - 1;
	/* At once: the reader wants to see the new address space before it is gone again. */
	send(r, BPF_RB_FORCE_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	u32 parent_pid = parent->tgid, pid = child->tgid;
	struct mt_target *t = target_of(parent_pid);
	struct mt_target fresh = {};
	struct mt_process *r;

	if (!t)
		return 0;
	if (pid == parent_pid) {
		r = begin(MT_THREAD, ids(pid, child->pid), parent->pid, child);
	} else {
		fresh.image = new_image();
		if (bpf_map_update_elem(&targets, &pid, &fresh, BPF_ANY))
			count(MT_OWN_0);
		r = begin(child->mm == parent->mm ? MT_VFORK : MT_FORK, ids(pid, child->pid), parent_pid, child);
		if (r)
			r->image = fresh.image;
	}
	if (r)
		send(r, wakeup_flag());
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	u32 pid = task->tgid;
	struct mt_target *t = target_of(pid);
	struct mt_process *r;

	if (!t)
		return 0;
	r = begin(MT_THREAD_EXIT, ids(pid, task->pid), 0, task);
	if (r)
		send(r, wakeup_flag());
	/* do_exit lowers signal->live before this tracepoint on every kernel, so the last thread finds 0 here; so may
	 * the last but one if both get here together, therefore the flag. The entry itself is removed by user space:
	 * a fault of exit_mm comes after this point since 6.16. */
	if (task->signal->live.counter != 0 || __sync_val_compare_and_swap(&t->exited, 0, 1))
		return 0;
	r = begin(MT_EXIT, ids(pid, pid), 0, task);
	if (!r)
		return 0;
	r->status = task->signal->flags & SIGNAL_GROUP_EXIT ? task->signal->group_exit_code
							      : task->group_leader->exit_code;
	send(r, wakeup_flag());
	return 0;
}

SEC("tp_btf/task_rename")
int BPF_PROG(process_rename, struct task_struct *task, const char *comm)
{
	u32 pid = task->tgid;
	struct mt_target *t = target_of(pid);
	struct mt_process *r;
	bool adopted = false;
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), comm);
	if (!t && task->pid == pid) {
		t = adopt_by_name(pid, name);
		adopted = true;
	}
	if (!t || t->flags & MT_TARGET_WAITS_FOR_EXEC)
		return 0;
	r = begin(MT_NAME, ids(pid, task->pid), 0, task);
	if (!r)
		return 0;
	if (adopted)
		r->image = t->image;
	__builtin_memcpy(r->comm, name, sizeof(name));
	send(r, wakeup_flag());
	return 0;
}
