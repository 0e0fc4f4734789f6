/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * What the probes share: maps (created by user space and handed to every object), the target filter, counters,
 * sending, and user stacks. All programs here run with preemption off (raw tracepoints, uprobes and software events
 * alike), so per-CPU scratch space cannot be taken over by another thread in the middle.
 */
#ifndef MTRACE_BPF_H
#define MTRACE_BPF_H

#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "wire.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define TASK_SIZE_MAX (1ULL << 47)
#define USER_CS_32 0x23

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* the real size comes with the map that user space created */
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct mt_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct mt_target);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, u32);
} seen_stacks SEC(".maps");

struct scratch {
	u64 reading_user_memory;
	struct mt_stack stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/* Not shared: each probe counts for itself. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64[MT_COUNTERS]);
} counters SEC(".maps");

static __always_inline void count_by(u32 which, u64 n)
{
	u32 zero = 0;
	u64 *c = bpf_map_lookup_elem(&counters, &zero);

	if (c && which < MT_COUNTERS)
		c[which] += n;
}

static __always_inline void count(u32 which)
{
	count_by(which, 1);
}

static __always_inline struct mt_config *settings(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline struct scratch *my_scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* The target with this thread group, if it is one and if it is to be recorded already. */
static __always_inline struct mt_target *target_of(u32 pid)
{
	struct mt_target *t = bpf_map_lookup_elem(&targets, &pid);

	if (!t || t->flags & MT_TARGET_WAITS_FOR_EXEC)
		return 0;
	return t;
}

/* Waking the reader costs more than a record: it comes by itself every few milliseconds, and is woken only when the
 * ring fills up. */
static __always_inline u64 wakeup_flag(void)
{
	struct mt_config *c = settings();

	if (c && bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > c->ring_wakeup_bytes)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* A number for a new address space. */
static __always_inline u32 new_image(void)
{
	struct mt_config *c = settings();

	return c ? __sync_fetch_and_add(&c->next_image, 1) : 0;
}

static __always_inline void fill_header(struct mt_header *h, u16 event, u16 detail, u64 pid_tgid, u32 aux, u64 ts)
{
	h->event = event;
	h->detail = detail;
	h->pid = pid_tgid >> 32;
	h->tid = (u32)pid_tgid;
	h->aux = aux;
	h->ts = ts;
}

/* Reserves a record of the given type or counts that there was no room. */
#define RESERVE(type)                                                     \
	({                                                                \
		type *__r = bpf_ringbuf_reserve(&ring, sizeof(type), 0);  \
		if (!__r)                                                 \
			count(MT_RING_FULL);                              \
		__r;                                                      \
	})

#define SUBMIT(record) bpf_ringbuf_submit(record, wakeup_flag())

static __always_inline u64 mix(u64 h, u64 x)
{
	h = (h ^ x) * 0x9e3779b97f4a7c15ULL;
	return h ^ (h >> 29);
}

struct frame {
	u64 next;
	u64 ret;
};

/* Walks the frame pointers from bp, sends the stack if it is new, and returns its hash; 0 if there is none.
 *
 * Our own walk instead of bpf_get_stack: it hashes on the way and needs no callchain buffer. A frame pointer may
 * point to a lower address than the one before: Go's systemstack changes from the thread's stack to the goroutine's.
 * The hash covers the process and its image, because an address means something else elsewhere.
 * reading_user_memory tells the fault probe that a fault on this CPU is caused by us. */
static __always_inline u64 take_stack(u64 pid_tgid, u32 image, u64 ip, u64 bp)
{
	struct scratch *s = my_scratch();
	u32 n = 1, seen = 1;
	struct frame f;
	u64 h;

	if (!s || !ip || ip >= TASK_SIZE_MAX) {
		count(MT_STACK_UNREADABLE);
		return 0;
	}
	h = mix(mix(pid_tgid >> 32, image), ip);
	s->stack.ips[0] = ip;
	s->reading_user_memory = 1;
	for (int i = 1; i < MT_MAX_FRAMES; i++) {
		if (bp < 4096 || bp >= TASK_SIZE_MAX || bp & 7)
			break;
		if (bpf_probe_read_user(&f, sizeof(f), (void *)bp))
			break;
		if (f.ret < 4096 || f.ret >= TASK_SIZE_MAX)
			break;
		h = mix(h, f.ret);
		s->stack.ips[i] = f.ret;
		n = i + 1;
		if (f.next == bp)
			break;
		bp = f.next;
	}
	s->reading_user_memory = 0;
	if (!h)
		h = 1;
	if (bpf_map_lookup_elem(&seen_stacks, &h))
		return h;

	fill_header(&s->stack.h, MT_STACK, n, pid_tgid, image, 0);
	s->stack.hash = h;
	n &= MT_MAX_FRAMES;
	if (bpf_ringbuf_output(&ring, &s->stack, sizeof(struct mt_header) + 8 + n * 8, wakeup_flag())) {
		count(MT_STACK_LOST);
		return 0;
	}
	/* After sending: a stack that is not marked is only sent again, a marked one that was not sent is lost. */
	bpf_map_update_elem(&seen_stacks, &h, &seen, BPF_ANY);
	return h;
}

static __always_inline bool is_user_mode(u64 cs)
{
	return cs & 3;
}

/* The open file behind a descriptor of the current process; null if there is none. */
static __always_inline struct file *file_of(int fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(table, fd);
	struct file *file = 0;

	if (fd < 0 || (u32)fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), &slots[fd]);
	return file;
}

#endif
