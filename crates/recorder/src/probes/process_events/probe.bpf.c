// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Life of the targets, and who is one: children are added at fork, before they can run, and others when they fit the rule.
#include "mtrace.bpf.h"
#include "rule.bpf.h"

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

/* The number in the innermost pid namespace. */
static __always_inline u32 number_inside(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	u64 at = (u64)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
	int nr = 0;

	bpf_probe_read_kernel(&nr, sizeof(nr), (void *)at + bpf_core_field_offset(struct upid, nr));
	return nr;
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
	r->flags = 0;
	r->ns_pid = number_inside(BPF_CORE_READ(task, group_leader));
	r->ns_tid = number_inside(task);
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

/* True if execve(2) was given exactly the path that was asked for: right within a container, too, and for a file that
 * was replaced. */
static __always_inline bool executed_by_path(struct mt_rule *wanted, struct linux_binprm *bprm)
{
	u32 zero = 0;
	struct mt_process *r = bpf_map_lookup_elem(&record, &zero);

	if (!r || wanted->kind != MT_BY_EXE)
		return false;
	if (bpf_probe_read_kernel_str(r->path, MT_RULE_PATH, bprm->filename) < 2)
		return false;
	return is_text(r->path, wanted->exe_path, MT_RULE_PATH);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u32 pid = task->tgid;
	struct mt_target *t = bpf_map_lookup_elem(&targets, &pid);
	struct mt_rule *wanted = the_rule();
	struct mt_process *r;
	struct inode *inode;
	long n;

	if (t && t->exited) {
		/* The pid is in use again before user space has removed who had it. */
		bpf_map_delete_elem(&targets, &pid);
		t = 0;
	}
	if (!t) {
		if (!wanted || !wanted->kind || (!fits(wanted, task, 0) && !executed_by_path(wanted, bprm)))
			return 0;
		t = adopt(pid);
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

/* A child of nobody's: of a process that began while the recording did, or born into a group (CLONE_INTO_CGROUP). The
 * recorder's own are left out, and threads of the kernel. */
static __always_inline bool fits_at_birth(u32 parent_pid, u32 pid, struct task_struct *child)
{
	struct mt_rule *wanted = the_rule();
	struct mt_config *c = settings();

	if (!wanted || !wanted->kind || !c || parent_pid == c->recorder_pid || pid == parent_pid || !child->mm)
		return false;
	return fits(wanted, child, 0);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	u32 parent_pid = parent->tgid, pid = child->tgid;
	struct mt_target *t = target_of(parent_pid);
	struct mt_target fresh = {};
	struct mt_process *r;

	if (!t && !fits_at_birth(parent_pid, pid, child))
		return 0;
	if (pid == parent_pid) {
		r = begin(MT_THREAD, ids(pid, child->pid), parent->pid, child);
	} else {
		fresh.image = new_image();
		if (bpf_map_update_elem(&targets, &pid, &fresh, BPF_ANY))
			count(MT_OWN_0);
		r = begin(child->mm == parent->mm ? MT_VFORK : MT_FORK, ids(pid, child->pid), parent_pid, child);
		if (r) {
			r->image = fresh.image;
			r->flags = child->cgroups == parent->cgroups ? 0 : MT_OTHER_CGROUP;
		}
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
	/* Before it becomes a target: on another CPU it may fault at once. */
	u64 now = bpf_ktime_get_ns();
	u32 pid = task->tgid;
	struct mt_target *t = target_of(pid);
	struct mt_rule *wanted = the_rule();
	struct mt_process *r;
	bool adopted = false;
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), comm);
	if (!t && task->pid == pid && task->mm && wanted && wanted->kind == MT_BY_COMM && fits(wanted, task, name)) {
		t = adopt(pid);
		adopted = true;
	}
	if (!t || t->flags & MT_TARGET_WAITS_FOR_EXEC)
		return 0;
	r = begin(MT_NAME, ids(pid, task->pid), 0, task);
	if (!r)
		return 0;
	r->h.ts = now;
	if (adopted)
		r->image = t->image;
	__builtin_memcpy(r->comm, name, sizeof(name));
	send(r, wakeup_flag());
	return 0;
}

/* Once for each move, with the thread that was named; before any of it runs in its new group. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(process_moved, struct cgroup *group, const char *path, struct task_struct *task, bool whole)
{
	/* Before it becomes a target: on another CPU it may fault at once. */
	u64 now = bpf_ktime_get_ns();
	u32 pid = task->tgid;
	struct mt_target *t = bpf_map_lookup_elem(&targets, &pid);
	struct mt_rule *wanted = the_rule();
	struct mt_process *r;
	bool adopted = false, other;
	long n;

	if (!wanted || (t && t->flags & MT_TARGET_WAITS_FOR_EXEC))
		return 0;
	if (!t && wanted->kind == MT_BY_CGROUP && task->mm &&
	    group_is_wanted((u64)BPF_CORE_READ(group, self.cgroup))) {
		t = adopt(pid);
		adopted = true;
	}
	other = BPF_CORE_READ(group, root, hierarchy_id) != wanted->hierarchy;
	if (!t || (!adopted && other))
		return 0;
	r = begin(MT_CGROUP, ids(pid, task->pid), 0, task);
	if (!r)
		return 0;
	r->h.ts = now;
	if (adopted)
		r->image = t->image;
	r->flags = other ? MT_OTHER_HIERARCHY : 0;
	n = bpf_probe_read_kernel_str(r->path, MT_PATH, path);
	if (n > 1)
		r->path_bytes = n - 1;
	send(r, BPF_RB_FORCE_WAKEUP);
	return 0;
}
