/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * What the probes share: maps (created by user space and handed to every object), the target filter, counters,
 * sending, and user stacks. Programs run with preemption off (raw tracepoints, kprobes, uprobes and software events
 * alike), so per-CPU scratch space cannot be taken over by another thread in the middle. Those of fentry and fexit can
 * be preempted: a probe that has some defines MTRACE_PREEMPTIBLE, gets scratch space of its own, and takes its stacks
 * with take_stack_alone.
 */
#ifndef MTRACE_BPF_H
#define MTRACE_BPF_H

#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "arch.bpf.h"
#include <bpf/bpf_tracing.h>
#include "wire.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

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
	__uint(max_entries, 8192); /* likewise */
	__type(key, u32);
	__type(value, struct mt_target);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, u32);
} seen_stacks SEC(".maps");

#define WINDOW_WORDS 64

struct scratch {
	u64 reading_user_memory;
	u64 last_stack; /* hash of a stack that has been sent */
	u64 last_word;	/* on top of a stack of the image, and what it is: see return_address_on_top */
	u64 last_image;
	u64 last_top;
	u64 records;
	u64 window_addr; /* part of a user stack, read at once */
	u64 window_words;
	u64 window[WINDOW_WORDS];
	u64 spare; /* index + 1 stays inside for the verifier */
	struct mt_stack stack;
	struct mt_fault_batch batch;
#ifdef MTRACE_PREEMPTIBLE
	u64 busy; /* see take_stack_alone; at the end: the size of the shared form is known to user space */
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
#ifdef MTRACE_PREEMPTIBLE
} own_scratch SEC(".maps"); /* user space shares maps by their names */
#define SCRATCH own_scratch
#else
} scratch SEC(".maps");
#define SCRATCH scratch
#endif

/* How often the mappings of an address space have changed, by the number of its image (modulo the size: two that share
 * an element only break each other's runs of faults). */
#define EPOCHS 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EPOCHS);
	__type(key, u32);
	__type(value, u32);
} epochs SEC(".maps");

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
#ifdef MTRACE_PREEMPTIBLE
		__sync_fetch_and_add(&c[which], n);
#else
		c[which] += n;
#endif
}

static __always_inline void count(u32 which)
{
	count_by(which, 1);
}

static __always_inline u32 epoch_of(u32 image)
{
	u32 key = image & (EPOCHS - 1);
	u32 *epoch = bpf_map_lookup_elem(&epochs, &key);

	return epoch ? *(volatile u32 *)epoch : 0;
}

/* The mappings of an address space have changed, or it is gone. */
static __always_inline void next_epoch(u32 image)
{
	u32 key = image & (EPOCHS - 1);
	u32 *epoch = bpf_map_lookup_elem(&epochs, &key);

	if (epoch)
		__sync_fetch_and_add(epoch, 1);
}

static __always_inline struct mt_config *settings(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

/* Where the architecture has pages of several sizes. */
#ifndef PAGE_SHIFT
static __always_inline u32 page_shift(void)
{
	struct mt_config *c = settings();

	return c ? c->page_shift & 31 : 12;
}
#define PAGE_SHIFT page_shift()
#endif

static __always_inline struct scratch *my_scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&SCRATCH, &zero);
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
 * ring fills up, which is looked at now and then. */
static __always_inline u64 wakeup_flag(void)
{
	struct scratch *s = my_scratch();
	struct mt_config *c;

	if (!s || s->records++ & 15)
		return BPF_RB_NO_WAKEUP;
	c = settings();
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
#define SUBMIT_NOW(record) bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP)

static __always_inline u64 mix(u64 h, u64 x)
{
	h = (h ^ x) * 0x9e3779b97f4a7c15ULL;
	return h ^ (h >> 29);
}

/* Reads the part of the user stack that begins at addr, up to the end of its page: the next one is perhaps not there, and
 * to find that out costs as much as a fault. */
static __always_inline bool open_window(struct scratch *s, u64 addr)
{
	u64 bytes = 4096 - (addr & 4095);

	if (bytes > sizeof(s->window))
		bytes = sizeof(s->window);
	if (bytes < 16)
		bytes = 16;
	s->window_addr = addr;
	s->window_words = bytes >> 3;
	if (!bpf_probe_read_user(s->window, bytes, (void *)addr))
		return true;
	s->window_words = 0;
	return false;
}

/* Perhaps the caller's address, should the innermost function have no frame; else 0. Stale return addresses pass too:
 * whether it has one is for user space to say. */
#ifdef HAS_LINK_REGISTER
static __always_inline u64 return_address_of_leaf(struct scratch *s, u32 image, u64 link)
{
	link = RETURN_ADDRESS(link);
	s->window_words = 0;
	return link >= 4096 && link < TASK_SIZE_MAX ? link : 0;
}
#else
/* The word on top of the stack if it follows a call instruction. */
static __always_inline u64 return_address_on_top(struct scratch *s, u32 image)
{
	u64 word = s->window[0];

	/* That it does not is worth knowing, too: a number there is no address, and reading at it a page fault of its own. */
	if (word == s->last_word && image == s->last_image)
		return s->last_top;
	s->last_top = follows_call(word) ? word : 0;
	s->last_word = word;
	s->last_image = image;
	return s->last_top;
}

static __always_inline u64 return_address_of_leaf(struct scratch *s, u32 image, u64 sp)
{
	return open_window(s, sp & ~7ULL) ? return_address_on_top(s, image) : 0;
}
#endif

/* Where a walk has come to. */
struct walk {
	u64 bp;
	u64 h;
	u64 n; /* frames, the first included */
};

/* The caller of the frame that the walk has come to, the i-th; 1 ends it. */
static __always_inline long walk_frame(struct scratch *s, struct walk *w, u32 i)
{
	u64 at, ret, next, bp = w->bp;

	if (bp < 4096 || bp >= TASK_SIZE_MAX || bp & 7)
		return 1;
	at = (bp - s->window_addr) >> 3;
	if (at + 1 >= s->window_words) {
		if (!open_window(s, bp))
			return 1;
		at = 0;
	}
	/* Again, for the verifier: it does not follow the comparison through the subtraction. */
	barrier_var(at);
	at &= WINDOW_WORDS - 1;
	next = s->window[at];
	ret = RETURN_ADDRESS(*(&s->window[at] + 1));
	if (ret < 4096 || ret >= TASK_SIZE_MAX)
		return 1;
	w->h = mix(w->h, ret);
	/* Not by a count in w: that would be another state for the verifier at each step. */
	s->stack.ips[i & MT_MAX_FRAMES] = ret;
	w->n = i + 1;
	w->bp = next;
	return next == bp;
}

static long walk_on(u32 i, struct walk *w)
{
	struct scratch *s = my_scratch();

	return s ? walk_frame(s, w, i + 1) : 1;
}

/* Of the kernel's own enum, to ask whether it has the helper. */
enum bpf_func_id___loop {
	BPF_FUNC_loop___since_5_17 = 181,
};

/* Walks the frame pointers from bp (leaf: see REG_LEAF), sends the stack if it is new, and returns its hash or why there is none.
 *
 * Our own walk instead of bpf_get_stack: it reads many frames at once, hashes on the way and needs no callchain
 * buffer. A frame pointer may point to a lower address than the one before: Go's systemstack changes from the thread's
 * stack to the goroutine's. The hash covers the process and its image, because an address means something else
 * elsewhere. reading_user_memory tells the fault probe that a fault on this CPU is caused by us. */
/* Not static: the verifier then looks at it once for each program and not once for every path to every call, which is the
 * difference between milliseconds and half a second in loading the probe of faults. bpf_loop likewise: a loop of its own
 * takes the verifier 45 ms, for each of two dozen programs. */
__noinline __attribute__((unused)) u64 take_stack(u64 pid_tgid, u32 image, u64 ip, u64 leaf, u64 bp)
{
	struct scratch *s = my_scratch();
	struct walk w = { .bp = bp, .n = 1 };
	u32 n, seen = 1;
	u64 h;

	if (!s || !ip || ip >= TASK_SIZE_MAX)
		return MT_NO_STACK_UNREADABLE;
	s->reading_user_memory = 1;
	s->stack.top = return_address_of_leaf(s, image, leaf);
	s->stack.ips[0] = ip;
	w.h = mix(mix(mix(pid_tgid >> 32, image), ip), s->stack.top);
	if (bpf_core_enum_value_exists(enum bpf_func_id___loop, BPF_FUNC_loop___since_5_17)) {
		bpf_loop(MT_MAX_FRAMES - 1, walk_on, &w, 0);
	} else {
		for (int i = 1; i < MT_MAX_FRAMES; i++)
			if (walk_frame(s, &w, i))
				break;
	}
	s->reading_user_memory = 0;
	h = w.h;
	n = w.n;
	if (h <= MT_NO_STACK_LOST)
		h = MT_NO_STACK_LOST + 1;
	if (h == s->last_stack)
		return h;
	if (bpf_map_lookup_elem(&seen_stacks, &h)) {
		s->last_stack = h;
		return h;
	}

	fill_header(&s->stack.h, MT_STACK, n, pid_tgid, image, 0);
	s->stack.hash = h;
	n &= MT_MAX_FRAMES;
	if (bpf_ringbuf_output(&ring, &s->stack, __builtin_offsetof(struct mt_stack, ips) + n * 8, wakeup_flag()))
		return MT_NO_STACK_LOST;
	/* After sending: a stack that is not marked is only sent again, a marked one that was not sent is lost. */
	bpf_map_update_elem(&seen_stacks, &h, &seen, BPF_ANY);
	return h;
}

#ifdef MTRACE_PREEMPTIBLE
/* The same where another thread may come in between; a stack that it wants meanwhile is lost, and counted. */
static __always_inline u64 take_stack_alone(u64 pid_tgid, u32 image, struct pt_regs *user)
{
	struct scratch *s = my_scratch();
	u64 stack;

	if (!s || __sync_lock_test_and_set(&s->busy, 1))
		return MT_NO_STACK_LOST;
	stack = take_stack(pid_tgid, image, REG_IP(user), REG_LEAF(user), REG_FP(user));
	__sync_lock_test_and_set(&s->busy, 0);
	return stack;
}
#endif

/* For a record that is sent: a part of it may be missing. */
static __always_inline void count_stack(u64 stack)
{
	if (stack == MT_NO_STACK_UNREADABLE)
		count(MT_STACK_UNREADABLE);
	else if (stack == MT_NO_STACK_LOST)
		count(MT_STACK_LOST);
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
