// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// mmap, munmap, mremap, brk, mprotect, madvise, fork: what was called, from where, and how it ended.
#include "mtrace.bpf.h"

#define PROT_EXEC 4
#define CLONE_VM 0x100
#define MAP_ANONYMOUS 0x20

struct noted {
	u32 has_file;
	u32 unused;
	u64 args[6];
	u64 stack;
	u64 dev;
	u64 inode;
};

#include "syscall_pair.bpf.h"

struct file_key {
	u64 dev;
	u64 inode;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct file_key);
	__type(value, u32);
} seen_files SEC(".maps");

static __always_inline bool is_mine(long nr)
{
	return CHANGES_MAPPINGS(nr) || IS_FORK(nr);
}

/* Who shares the address space with the new one: a thread, or vfork. */
static __always_inline u64 clone_flags(struct pt_regs *regs, long nr)
{
	u64 first = SYSCALL_ARG0(regs), flags = CLONE_VM;

	/* Here, for the verifier: else the compiler makes one load of this one and of the flags in memory. */
	barrier_var(first);
	if (nr == NR_FORK)
		return 0;
	if (nr == NR_CLONE)
		return first;
	/* struct clone_args begins with them. */
	if (nr == NR_CLONE3)
		bpf_probe_read_user(&flags, sizeof(flags), (void *)first);
	return flags;
}

/* Sends the file's name once; without it the row still has device and inode. */
static __always_inline void send_file(struct file *file, struct file_key *key, u64 pid_tgid, u64 ts)
{
	struct mt_file *r;
	u32 seen = 1;
	long n;

	if (bpf_map_lookup_elem(&seen_files, key))
		return;
	r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r)
		return;
	n = bpf_probe_read_kernel_str(r->name, sizeof(r->name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	fill_header(&r->h, MT_FILE, n > 0 ? n - 1 : 0, pid_tgid, 0, ts);
	r->dev = key->dev;
	r->inode = key->inode;
	SUBMIT(r);
	bpf_map_update_elem(&seen_files, key, &seen, BPF_ANY);
}

static __always_inline void note_file(struct call *c, u64 pid_tgid)
{
	struct file *file = file_of((int)c->noted.args[4]);
	struct file_key key = {};
	struct inode *inode;

	if (!file)
		return;
	inode = BPF_CORE_READ(file, f_inode);
	key.dev = BPF_CORE_READ(inode, i_sb, s_dev);
	key.inode = BPF_CORE_READ(inode, i_ino);
	c->noted.has_file = 1;
	c->noted.dev = key.dev;
	c->noted.inode = key.inode;
	send_file(file, &key, pid_tgid, c->ts);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(memory_enter, struct pt_regs *regs, long nr)
{
	u64 pid_tgid, flags = 0;
	struct mt_target *t;
	struct call *c;

	if (!is_mine(nr))
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	t = caller(regs, pid_tgid);
	if (!t)
		return 0;
	if (IS_FORK(nr)) {
		flags = clone_flags(regs, nr);
		if (flags & CLONE_VM)
			return 0;
	}
	/* Here, too: what takes memory away works before it returns. */
	next_epoch(t->image);
	c = call_enters(nr);
	if (!c)
		return 0;
	c->noted.has_file = 0;
	c->noted.args[0] = SYSCALL_ARG0(regs);
	c->noted.args[1] = SYSCALL_ARG1(regs);
	c->noted.args[2] = SYSCALL_ARG2(regs);
	c->noted.args[3] = SYSCALL_ARG3(regs);
	c->noted.args[4] = SYSCALL_ARG4(regs);
	c->noted.args[5] = SYSCALL_ARG5(regs);
	if (IS_FORK(nr)) {
		c->noted.args[0] = c->noted.args[1] = 0;
		c->noted.args[3] = flags;
	}
	c->noted.stack = take_stack(pid_tgid, t->image, REG_IP(regs), REG_LEAF(regs), REG_FP(regs));
	c->ts = bpf_ktime_get_ns();
	if (nr == NR_MMAP && !(c->noted.args[3] & MAP_ANONYMOUS))
		note_file(c, pid_tgid);
	c->pending = 1;
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(memory_exit, struct pt_regs *regs, long ret)
{
	u64 now;
	struct mt_memory_call *r;
	struct mt_target *t;
	struct call *c;
	u64 pid_tgid;
	long nr = SYSCALL_NR(regs);

	if (!is_mine(nr))
		return 0;
	now = bpf_ktime_get_ns();
	pid_tgid = bpf_get_current_pid_tgid();
	t = target_of(pid_tgid >> 32);
	if (!t)
		return 0;
	next_epoch(t->image);
	c = last_call();
	if (!c || !call_returns(c, nr))
		return 0;
	r = RESERVE(struct mt_memory_call);
	if (!r)
		return 0;
	count_stack(c->noted.stack);
	fill_header(&r->h, MT_MEMORY_CALL, nr, pid_tgid, c->noted.has_file, c->ts);
	r->dur = now - c->ts;
	r->ret = ret;
	__builtin_memcpy(r->args, c->noted.args, sizeof(r->args));
	r->stack = c->noted.stack;
	r->dev = c->noted.dev;
	r->inode = c->noted.inode;
	/* User space reads the maps for each new piece of code: at once, because the process may end soon. */
	if (nr == NR_MMAP && c->noted.has_file && c->noted.args[2] & PROT_EXEC && ret > 0)
		SUBMIT_NOW(r);
	else
		SUBMIT(r);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(memory_thread_exit, struct task_struct *task)
{
	return thread_exits(task);
}
