// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// What the kernel counted when it refused a call of the mmap family.
#include "mtrace.bpf.h"

#define EAGAIN 11
#define ENOMEM 12

/* include/uapi/asm-generic/resource.h */
#define LIMIT_DATA 2
#define LIMIT_MEMLOCK 8
#define LIMIT_AS 9

static __always_inline u64 limit(struct task_struct *task, int which)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct rlimit r = {};

	bpf_core_read(&r, sizeof(r), &signal->rlim[which]);
	return r.rlim_cur;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(refusal_exit, struct pt_regs *regs, long ret)
{
	long nr = SYSCALL_NR(regs);
	struct task_struct *task;
	struct mt_refusal *r;
	struct mm_struct *mm;
	u64 pid_tgid;

	if (ret != -ENOMEM && ret != -EAGAIN)
		return 0;
	if (nr != NR_MMAP && nr != NR_MPROTECT && nr != NR_MREMAP)
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	if (!target_of(pid_tgid >> 32))
		return 0;
	count(MT_SEEN);
	r = RESERVE(struct mt_refusal);
	if (!r)
		return 0;
	task = (void *)bpf_get_current_task();
	mm = BPF_CORE_READ(task, mm);
	fill_header(&r->h, MT_REFUSAL, nr, pid_tgid, 0, bpf_ktime_get_ns());
	r->vmas = BPF_CORE_READ(mm, map_count);
	r->mapped_pages = BPF_CORE_READ(mm, total_vm);
	r->data_pages = BPF_CORE_READ(mm, data_vm);
	r->locked_pages = BPF_CORE_READ(mm, locked_vm);
	r->limit_as = limit(task, LIMIT_AS);
	r->limit_data = limit(task, LIMIT_DATA);
	r->limit_memlock = limit(task, LIMIT_MEMLOCK);
	SUBMIT(r);
	return 0;
}
