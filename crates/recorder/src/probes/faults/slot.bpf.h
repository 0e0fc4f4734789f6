/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * What is known of the faults of one CPU: the fault that is being served, the contexts of the last ones, and the faults
 * of these contexts that have not been sent yet, either added up (a run) or one by one (a batch).
 *
 * Per CPU and not per thread: an array's element costs nothing to find, task storage costs two calls a fault. A thread
 * that leaves the CPU in the middle of a fault takes the start with it (`parked`).
 */
#ifndef MTRACE_SLOT_BPF_H
#define MTRACE_SLOT_BPF_H

#include "mtrace.bpf.h"

/* A run or batch is sent when it is this old: what it says of a moment in time is at most so far off. */
#define RUN_MAX_NS 1000000
/* Pages between neighbours of a run: up to a huge page. */
#define STRIDE_MAX 512

/* Contexts kept at a time, found by the instruction and the kind of access: a copy faults on both of its sides in turn,
 * an unrolled loop at each of its stores. */
#define WAYS 4

enum mode { RUNS, EVERY };

/* The stack of the fault that is being served: to be walked, that of the one before, or the latter to be confirmed. */
enum { WALKED, REUSED, CHECKED };

/* Faults between two walks that may take over a stack: on average a CONFIRMED-th of those that have been confirmed to
 * have it, and MAX_REUSED at most. Each time that one is refuted it takes four times as many, so that where callers do
 * take turns every stack is walked before long. */
#define CONFIRMED 8
#define MAX_REUSED 8
#define MAX_REFUTED 20

/* A step that no registers take. */
#define NO_STEP 0x5555555555555555ULL

/* Faults of different weight are of different contexts: no run has both. */
#define WEIGHT_SHIFT 32

/* Where a fault comes from: the faults of a run differ in nothing but page and time. */
struct context {
	u64 ip; /* as the exception has it: a kernel address for a fault of the kernel */
	u64 user_ip;
	u64 leaf; /* REG_LEAF */
	u64 fp;
	u64 error_code; /* from WEIGHT_SHIFT on: log2 of the faults that this one stands for */
	u64 stack;	/* hash */
	u32 image;
	u32 epoch; /* see epochs in mtrace.bpf.h */
};

/* How a thread's registers change from one fault to the next, see may_reuse_stack. */
struct steps {
	u64 sum;  /* of the last fault's registers, weighted */
	u64 step; /* from the sum before */
	u64 agreed; /* faults that are confirmed to have the stack */
	u64 reused; /* faults since the last walk */
	u64 left;   /* that may take it over before the next walk */
	u64 refuted; /* walks that found another stack than was taken over */
};

/* A start whose thread has left the CPU. */
struct parked {
	u64 start;
	u64 addr;
	struct context context;
};

struct run {
	/* The context of the last fault here, and the thread it belongs to. */
	u64 owner;
	u64 next; /* page that continues the run */
	struct context context;
	struct steps steps;

	/* What has not been sent. */
	u64 count;
	u64 first; /* start of the first fault */
	u64 first_addr;
	u64 last_end;
	s64 stride; /* pages */
	u64 major;
	u64 sum;
	u64 min;
	u64 max;
	u32 histogram[MT_FAULT_BUCKETS];
	struct mt_fault_entry entries[MT_FAULT_BATCH];
};

struct slot {
	u64 busy; /* a program is changing what is below: flush, which comes by interrupt, must wait */
	u64 slow_ns;

	/* The fault that is being served. */
	u64 who; /* its thread; 0: none */
	u64 start;
	u64 addr;
	u64 way;
	u64 continues; /* it is the next one of the run */
	u64 stack_is; /* where its stack comes from */
	u64 stack;
	u64 skipped; /* the thread whose fault is left out, see sampling */

	struct run runs[WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

/* Not task storage: sched_switch runs with the run queue locked, where only preallocated memory is safe. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, u32);
	__type(value, struct parked);
} parked SEC(".maps");

/* log2 of the N of which one fault is recorded, each by its own throw of the dice; 0: all; MT_FAULT_NONE: none, while
 * the programs are attached or detached one after the other. User space changes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} sampling SEC(".maps");

static __always_inline u32 sampling_shift(void)
{
	u32 zero = 0, *shift = bpf_map_lookup_elem(&sampling, &zero);

	return shift ? *(volatile u32 *)shift & (MT_FAULT_NONE | MT_FAULT_MAX_SHIFT) : 0;
}

static __always_inline struct slot *my_slot(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&slots, &zero);
}

static __always_inline u64 way_of(u64 ip, u64 error_code)
{
	return ((ip ^ error_code << 40) * 0x9e3779b97f4a7c15ULL) >> 62;
}

static __always_inline struct run *run_at(struct slot *s, u64 way)
{
	/* For the verifier, which must see the limit. */
	barrier_var(way);
	return &s->runs[way & (WAYS - 1)];
}

static __always_inline void set_busy(struct slot *s, u64 busy)
{
	barrier();
	*(volatile u64 *)&s->busy = busy;
	barrier();
}

/* Counts n faults of which parts are missing. */
static __always_inline void count_stacks(u64 stack, u64 n)
{
	if (stack == MT_NO_STACK_UNREADABLE)
		count_by(MT_STACK_UNREADABLE, n);
	else if (stack == MT_NO_STACK_LOST)
		count_by(MT_STACK_LOST, n);
}

/* In a record's detail: how many faults each of its faults stands for. */
static __always_inline u16 weight_of(struct context *c)
{
	return (c->error_code >> WEIGHT_SHIFT) << MT_FAULT_WEIGHT_SHIFT;
}

/* Sends one fault. */
static __always_inline void send_one(u64 who, struct context *c, u64 start, u64 dur, u64 addr, u16 detail)
{
	struct mt_fault *r;

	count(MT_SEEN);
	r = RESERVE(struct mt_fault);
	if (!r)
		return;
	if (!(detail & MT_FAULT_HAS_START))
		count(MT_NO_START);
	count_stack(c->stack);
	fill_header(&r->h, MT_FAULT, detail | weight_of(c), who, c->error_code, start);
	r->dur = dur;
	r->addr = addr;
	r->ip = c->ip;
	r->stack = c->stack;
	SUBMIT(r);
}

static __always_inline void send_run(struct run *run)
{
	struct mt_fault_run *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);

	count_by(MT_SEEN, run->count);
	if (!r) {
		count_by(MT_RING_FULL, run->count);
		return;
	}
	count_stacks(run->context.stack, run->count);
	fill_header(&r->h, MT_FAULT_RUN, weight_of(&run->context) | (run->major ? MT_FAULT_MAJOR : 0), run->owner,
		    run->context.error_code, run->first);
	r->span = run->last_end - run->first;
	r->addr = run->first_addr;
	r->ip = run->context.ip;
	r->stack = run->context.stack;
	r->stride = run->stride;
	r->count = run->count;
	r->sum = run->sum;
	r->min = run->min;
	r->max = run->max;
	__builtin_memcpy(r->histogram, run->histogram, sizeof(r->histogram));
	SUBMIT(r);
}

static __always_inline void send_batch(struct run *run)
{
	struct scratch *sc = my_scratch();
	u32 n = run->count;
	struct mt_fault_batch *b;

	if (!sc)
		return;
	count_by(MT_SEEN, n);
	/* The record's head is put right in front of the entries: one copy into the ring. */
	b = &sc->batch;
	fill_header(&b->h, MT_FAULT_BATCHED, weight_of(&run->context) | (run->major ? MT_FAULT_MAJOR : 0), run->owner,
		    run->context.error_code, run->first);
	b->ip = run->context.ip;
	b->stack = run->context.stack;
	b->count = n;
	__builtin_memcpy(b->entries, run->entries, sizeof(b->entries));
	n &= MT_FAULT_BATCH * 2 - 1;
	if (n > MT_FAULT_BATCH)
		n = MT_FAULT_BATCH;
	if (bpf_ringbuf_output(&ring, b, __builtin_offsetof(struct mt_fault_batch, entries) + n * sizeof(b->entries[0]),
			       wakeup_flag())) {
		count_by(MT_RING_FULL, n);
		return;
	}
	count_stacks(run->context.stack, n);
}

/* Sends what has not been sent. The context stays: it is the next fault's, too, more often than not. */
static __always_inline void flush(struct run *run, enum mode mode)
{
	if (!run->count)
		return;
	if (mode == EVERY)
		send_batch(run);
	else if (run->count == 1)
		send_one(run->owner, &run->context, run->first, run->sum, run->first_addr,
			 MT_FAULT_HAS_START | (run->major ? MT_FAULT_MAJOR : 0));
	else
		send_run(run);
	run->count = 0;
}

/* floor(log2(ns)) - 7, but not less than 0 and not more than the last bucket. */
static __always_inline u32 bucket_of(u64 ns)
{
	u64 x = ns >> 8;
	u32 b = 1;

	if (!x)
		return 0;
	if (x >= 1 << (MT_FAULT_BUCKETS - 2))
		return MT_FAULT_BUCKETS - 1;
	if (x >= 256) {
		x >>= 8;
		b += 8;
	}
	if (x >= 16) {
		x >>= 4;
		b += 4;
	}
	if (x >= 4) {
		x >>= 2;
		b += 2;
	}
	return x >= 2 ? b + 1 : b;
}

static __always_inline void begin_run(struct run *run, struct slot *s, bool major)
{
	run->first = s->start;
	run->first_addr = s->addr;
	run->stride = 1;
	run->major = major;
	run->sum = 0;
	run->min = ~0ULL;
	run->max = 0;
	__builtin_memset(run->histogram, 0, sizeof(run->histogram));
}

/* Too long ago for the fault that is being served: a run tells of one moment. */
static __always_inline bool is_old(struct slot *s, struct run *run)
{
	return s->start - run->first > RUN_MAX_NS;
}

/* Adds the fault that has ended to the run; it fits. */
static __always_inline void add_to_run(struct run *run, struct slot *s, u64 now, u64 dur)
{
	run->count++;
	run->last_end = now;
	run->sum += dur;
	if (dur < run->min)
		run->min = dur;
	if (dur > run->max)
		run->max = dur;
	run->histogram[bucket_of(dur) & (MT_FAULT_BUCKETS - 1)]++;
	run->next = (s->addr >> PAGE_SHIFT) + run->stride;
	if (now - run->first > RUN_MAX_NS)
		flush(run, RUNS);
}

static __always_inline void add_to_batch(struct run *run, struct slot *s, u64 now, u64 dur)
{
	u64 n = run->count & (MT_FAULT_BATCH - 1);
	struct mt_fault_entry *e = &run->entries[n];

	e->addr = s->addr;
	e->after = s->start - run->first;
	e->dur = dur;
	run->count = n + 1;
	if (n + 1 == MT_FAULT_BATCH || now - run->first > RUN_MAX_NS)
		flush(run, EVERY);
}

#endif
