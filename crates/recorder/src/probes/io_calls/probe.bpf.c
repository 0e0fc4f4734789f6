// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// File and network calls, and the first byte of what goes over a socket.
#include "mtrace.bpf.h"

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define IOVECS 4

enum role { NONE, OPEN, READ, READ_VECTOR, READ_MESSAGE, WRITE, WRITE_VECTOR, WRITE_MESSAGE, OTHER };

struct iovec {
	u64 base;
	u64 len;
};

/* struct user_msghdr, include/linux/socket.h: ABI */
struct message {
	u64 name;
	u32 name_bytes;
	u32 padding;
	u64 iov;
	u64 iov_len;
};

struct noted {
	u32 aux;
	u32 unused;
	u64 data; /* buffer, iovec array or message */
	u64 iovecs;
	s64 fd;
};

#include "syscall_pair.bpf.h"

/* sendmmsg, recvmmsg, sendfile, splice and io_uring are not covered. */
static __always_inline enum role role_of(long nr)
{
	switch (nr) {
	case NR_OPEN:
	case NR_CREAT:
	case NR_OPENAT:
	case NR_OPENAT2:
		return OPEN;
	case NR_READ:
	case NR_PREAD64:
	case NR_RECVFROM:
		return READ;
	case NR_READV:
	case NR_PREADV:
	case NR_PREADV2:
		return READ_VECTOR;
	case NR_RECVMSG:
		return READ_MESSAGE;
	case NR_WRITE:
	case NR_PWRITE64:
	case NR_SENDTO:
		return WRITE;
	case NR_WRITEV:
	case NR_PWRITEV:
	case NR_PWRITEV2:
		return WRITE_VECTOR;
	case NR_SENDMSG:
		return WRITE_MESSAGE;
	case NR_CLOSE:
	case NR_CONNECT:
	case NR_ACCEPT:
	case NR_LISTEN:
	case NR_FSYNC:
	case NR_FDATASYNC:
	case NR_ACCEPT4:
		return OTHER;
	}
	return NONE;
}

/* The first byte of the data, as the aux bits of the record; 0 if there is none or it is not readable. */
static __always_inline u32 first_byte(enum role role, u64 data, u64 iovecs)
{
	struct message m = {};
	struct iovec v;
	u8 byte;

	if (role == READ_MESSAGE || role == WRITE_MESSAGE) {
		if (bpf_probe_read_user(&m, sizeof(m), (void *)data))
			return 0;
		data = m.iov;
		iovecs = m.iov_len;
	}
	if (role != READ && role != WRITE) {
		u64 found = 0;

		for (u32 i = 0; i < IOVECS; i++) {
			if (i >= iovecs || bpf_probe_read_user(&v, sizeof(v), (void *)(data + i * sizeof(v))))
				return 0;
			if (v.len) {
				found = v.base;
				break;
			}
		}
		data = found;
	}
	if (!data || bpf_probe_read_user(&byte, 1, (void *)data))
		return 0;
	return MT_IO_HAS_BYTE | (u32)byte << 8;
}

/* As first_byte, and tells the fault probe that a fault on this CPU is ours. */
static __always_inline u32 peek(enum role role, u64 data, u64 iovecs)
{
	struct scratch *s = my_scratch();
	u32 aux;

	if (!s)
		return 0;
	s->reading_user_memory = 1;
	aux = first_byte(role, data, iovecs);
	s->reading_user_memory = 0;
	return aux;
}

static __always_inline u32 socket_bits(int fd)
{
	struct file *file = file_of(fd);
	u16 mode;

	if (!file)
		return 0;
	mode = BPF_CORE_READ(file, f_inode, i_mode);
	return MT_IO_HAS_MODE | ((mode & S_IFMT) == S_IFSOCK ? MT_IO_SOCKET : 0);
}

static __always_inline bool over_limit(struct mt_target *t)
{
	struct mt_config *c = settings();

	/* Not atomic: off by a few when threads race, which costs or grants a few rows and never the accounting. */
	t->io_calls++;
	return !c || t->io_calls > c->io_calls_per_process;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(io_enter, struct pt_regs *regs, long nr)
{
	enum role role = role_of(nr);
	struct mt_target *t;
	struct call *c;
	u64 pid_tgid;

	if (role == NONE)
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	t = caller(regs, pid_tgid);
	if (!t)
		return 0;
	if (over_limit(t)) {
		count(MT_SEEN);
		count(MT_OVER_LIMIT);
		return 0;
	}
	c = call_enters(nr);
	if (!c)
		return 0;
	c->noted.data = SYSCALL_ARG1(regs);
	c->noted.iovecs = SYSCALL_ARG2(regs);
	c->noted.fd = (int)SYSCALL_ARG0(regs);
	c->noted.aux = role == OPEN ? 0 : socket_bits(c->noted.fd);
	if (c->noted.aux & MT_IO_SOCKET && (role == WRITE || role == WRITE_VECTOR || role == WRITE_MESSAGE) &&
	    (role != WRITE || c->noted.iovecs))
		c->noted.aux |= peek(role, c->noted.data, c->noted.iovecs);
	c->ts = bpf_ktime_get_ns();
	c->pending = 1;
	return 0;
}

/* A server's threads block in accept and read when a recording begins: without these rows the connection, or the request,
 * that wakes each of them would be unknown. The arguments still stand in the registers. */
static __always_inline void began_before(struct mt_target *t, struct pt_regs *regs, enum role role, long ret, u64 now)
{
	struct mt_config *c = settings();
	bool reads = role == READ || role == READ_VECTOR || role == READ_MESSAGE;
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct mt_io_call *r;
	u32 aux;

	if (!c || t->io_calls >= c->io_calls_per_process || is_32_bit(REG_MODE(regs)))
		return;
	if (!reads && SYSCALL_NR(regs) != NR_ACCEPT && SYSCALL_NR(regs) != NR_ACCEPT4)
		return;
	count(MT_SEEN);
	aux = socket_bits((int)SYSCALL_ARG0(regs));
	if (aux & MT_IO_SOCKET && ret > 0 && reads)
		aux |= peek(role, SYSCALL_ARG1(regs), SYSCALL_ARG2(regs));
	r = RESERVE(struct mt_io_call);
	if (!r)
		return;
	count(MT_NO_START);
	fill_header(&r->h, MT_IO_CALL, SYSCALL_NR(regs), pid_tgid, aux, now);
	r->dur = 0;
	r->ret = ret;
	r->fd = (int)SYSCALL_ARG0(regs);
	SUBMIT(r);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(io_exit, struct pt_regs *regs, long ret)
{
	long nr = SYSCALL_NR(regs);
	enum role role = role_of(nr);
	struct mt_io_call *r;
	struct mt_target *t;
	struct call *c;
	u64 now, pid_tgid;

	if (role == NONE)
		return 0;
	now = bpf_ktime_get_ns();
	pid_tgid = bpf_get_current_pid_tgid();
	t = target_of(pid_tgid >> 32);
	if (!t)
		return 0;
	c = last_call();
	if (!c) {
		began_before(t, regs, role, ret, now);
		return 0;
	}
	if (!call_returns(c, nr))
		return 0;
	if (c->noted.aux & MT_IO_SOCKET && ret > 0 && (role == READ || role == READ_VECTOR || role == READ_MESSAGE))
		c->noted.aux |= peek(role, c->noted.data, c->noted.iovecs);
	r = RESERVE(struct mt_io_call);
	if (!r)
		return 0;
	fill_header(&r->h, MT_IO_CALL, nr, pid_tgid, c->noted.aux, c->ts);
	r->dur = now - c->ts;
	r->ret = ret;
	r->fd = c->noted.fd;
	SUBMIT(r);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(io_thread_exit, struct task_struct *task)
{
	return thread_exits(task);
}
