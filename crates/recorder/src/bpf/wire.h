/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * What travels through the ring buffer. This file is the truth; probes/wire.rs decodes it by hand.
 * Event numbers are never reused. All integers are little endian, all structs have no padding. System calls have the
 * numbers of the host's architecture.
 */
#ifndef MTRACE_WIRE_H
#define MTRACE_WIRE_H

enum mt_event {
	MT_STACK = 1,
	MT_FILE = 2,
	MT_PROCESS = 3,
	MT_MEMORY_CALL = 4,
	MT_IO_CALL = 5,
	MT_FAULT = 6,
	MT_GC = 7,
	MT_OFF_CPU = 8,
	MT_REFUSAL = 9,
	MT_FAULT_RUN = 10,
	MT_FAULT_BATCHED = 11,
	MT_RECLAIM = 12,
	MT_OOM_KILL = 20,
	MT_LOCK_WAIT = 21,
	MT_THROTTLE = 22,
	MT_FAULT_COUNT = 40,
	MT_GO_MEMORY = 60,
	MT_JVM = 61,
	MT_COLLAPSE = 80,
};

/* Begins every record. */
struct mt_header {
	u16 event;
	u16 detail; /* meaning by event */
	u32 pid;
	u32 tid;
	u32 aux; /* meaning by event */
	u64 ts;  /* CLOCK_MONOTONIC, ns */
};

#define MT_MAX_FRAMES 127

/* detail: number of frames. aux: image. Sent once per stack, before the first record that names it.
 * top: where the return address is, should the innermost function have no frame of its own: the word on top of the
 * stack if it follows a call instruction, on arm64 the link register; else 0. User space decides by the unwind tables. */
struct mt_stack {
	struct mt_header h;
	u64 hash;
	u64 top;
	u64 ips[MT_MAX_FRAMES + 1]; /* one spare: the verifier wants a power of two */
};

/* Instead of a stack's hash. */
enum mt_no_stack {
	MT_NO_STACK_UNREADABLE = 0,
	MT_NO_STACK_LOST = 1,
};

#define MT_FILE_NAME 64

/* detail: length of the name without its NUL. */
struct mt_file {
	struct mt_header h;
	u64 dev;
	u64 inode;
	char name[MT_FILE_NAME];
};

enum mt_process_detail {
	MT_EXEC = 1,
	MT_FORK = 2,
	MT_VFORK = 3,
	MT_THREAD = 4,
	MT_NAME = 5,
	MT_THREAD_EXIT = 6,
	MT_EXIT = 7,
	MT_CGROUP = 8,
};

enum mt_process_flags {
	MT_OTHER_CGROUP = 1,    /* fork, vfork: the child was born into another group than its parent's */
	MT_OTHER_HIERARCHY = 2, /* cgroup: not the hierarchy by which processes are called */
};

#define MT_PATH 512

/* aux: parent (fork, vfork) or creator (thread). The path is sent without its NUL: with an exec what was given to
 * execve(2), with cgroup that of the group that the process was moved to. */
struct mt_process {
	struct mt_header h;
	s32 status;
	u32 image; /* exec, fork, vfork, and name and cgroup where that made it a target; 0 elsewhere */
	char comm[16];
	u64 code_addr; /* exec only: where the executable's first executable segment begins (mm->start_code) */
	u64 dev;       /* exec only: of the executable, with inode */
	u64 inode;
	u32 path_bytes;
	u32 flags;
	u32 ns_pid; /* of process and thread in the innermost pid namespace that the process is in */
	u32 ns_tid;
	char path[MT_PATH];
};

/* detail: system call. aux: bit 0: dev and inode are valid. Of the calls that copy the address
 * space args[3] holds the flags, the others nothing. */
struct mt_memory_call {
	struct mt_header h;
	u64 dur;
	s64 ret;
	u64 args[6];
	u64 stack;
	u64 dev;
	u64 inode;
};

enum mt_io_aux {
	MT_IO_HAS_MODE = 1,
	MT_IO_SOCKET = 2,
	MT_IO_HAS_BYTE = 4, /* the byte itself: bits 8 to 15 */
};

/* detail: system call. */
struct mt_io_call {
	struct mt_header h;
	u64 dur;
	s64 ret;
	s64 fd;
};

enum mt_fault_detail {
	MT_FAULT_MAJOR = 1,
	MT_FAULT_HAS_START = 2,
	MT_FAULT_WEIGHT_SHIFT = 8, /* from here on: log2 of the faults that each fault of the record stands for */
	MT_FAULT_MAX_SHIFT = 15,
	MT_FAULT_NONE = 16,
};

/* aux: error code, if the start was seen. ts: start, else the end. */
struct mt_fault {
	struct mt_header h;
	u64 dur;
	u64 addr;
	u64 ip;
	u64 stack;
};

/* Buckets of service times: below 2^8 ns, below 2^9, …, below 2^22, the rest. */
#define MT_FAULT_BUCKETS 16

/* Faults of one thread at pages at equal distances, that differ in nothing else. detail: MT_FAULT_MAJOR. aux: error
 * code. ts: start of the first. */
struct mt_fault_run {
	struct mt_header h;
	u64 span; /* start of the first to end of the last */
	u64 addr; /* of the first */
	u64 ip;
	u64 stack;
	s64 stride; /* pages from one to the next */
	u64 count;
	u64 sum; /* of the service times, and the least and the greatest */
	u64 min;
	u64 max;
	u32 histogram[MT_FAULT_BUCKETS];
};

#define MT_FAULT_BATCH 32

struct mt_fault_entry {
	u64 addr;
	u32 after; /* start, ns after the header's time */
	u32 dur;
};

/* Faults that differ in time and address only, one by one. detail and aux as above. */
struct mt_fault_batch {
	struct mt_header h;
	u64 ip;
	u64 stack;
	u64 count;
	struct mt_fault_entry entries[MT_FAULT_BATCH];
};

/* The kernel's own counts of the faults of a process that has ended, all threads. pid: the process. ts: its end. */
struct mt_fault_count {
	struct mt_header h;
	u64 minor;
	u64 major;
};

enum mt_reclaim_detail {
	MT_RECLAIM_DIRECT = 1,
	MT_RECLAIM_MEMCG = 2,
	MT_RECLAIM_COMPACTION = 3,
};

/* aux: order. Compaction: neither order nor pages. */
struct mt_reclaim {
	struct mt_header h;
	u64 dur;
	u64 pages; /* freed */
	u64 stack;
};

#define MT_OOM_LEVELS 8
#define MT_OOM_NAME 64
#define MT_OOM_FRAMES 32
#define MT_NOT_MEASURED (~0ULL)

/* pid and tid: the victim's. aux: its oom_score_adj. ts: of the choice. What was not measured is MT_NOT_MEASURED. */
struct mt_oom_kill {
	struct mt_header h;
	u32 by_pid; /* the thread that wanted memory, and chose */
	u32 by_tid;
	char comm[16]; /* the victim's */
	char by_comm[16];
	u64 by_stack;
	u64 total_vm; /* pages from here on */
	u64 anon;
	u64 file;
	u64 shmem;
	u64 swap;
	u64 page_table_bytes;
	/* Of the victim's memory cgroups, the one whose usage is nearest to its limit. */
	u64 usage;
	u64 limit;
	u32 levels; /* names that are valid: the group's own, its parent's, … */
	u32 frames; /* of the kernel stack */
	char names[MT_OOM_LEVELS][MT_OOM_NAME];
	u64 kernel_ips[MT_OOM_FRAMES];
};

enum mt_collapse_detail {
	MT_COLLAPSE_BY_KHUGEPAGED = 1,
	MT_COLLAPSE_BY_OTHER = 2,
	MT_COLLAPSE_OF_FILE = 4,
};

/* pid: whose memory it is. tid: the thread that did it. aux: the kernel's enum scan_result. ts: the end. What was not
 * measured is MT_NOT_MEASURED. */
struct mt_collapse {
	struct mt_header h;
	u64 new_pages;
	u64 copy;
	u64 addr;
};

enum mt_lock_wait_detail {
	MT_LOCK_WRITE = 1,
	MT_LOCK_HELD_BY_READER = 2, /* the holder read-locked it last, and may have left since */
	MT_LOCK_HELD_BY_RECORDER = 4,
};

/* aux: the holder's thread when the wait began, 0 if unknown. */
struct mt_lock_wait {
	struct mt_header h;
	u64 dur;
	u64 stack;
	u32 holder_pid;
	u32 unused;
	char holder_comm[16];
};

enum mt_throttle_detail {
	MT_THROTTLE_MEMORY_HIGH = 1,
	MT_THROTTLE_VMSCAN = 2,
};

/* aux: the kernel's reason (vmscan), else 0. */
struct mt_throttle {
	struct mt_header h;
	u64 dur;
	u64 stack;
};

/* detail: 1 cycle start, 2 mark termination, 3 sweep, 4 stop the world, 5 start the world. aux: first argument. */
struct mt_gc {
	struct mt_header h;
};

enum mt_go_memory_detail {
	MT_GO_MARK_ASSIST = 1,
	MT_GO_PARK_ASSIST = 2,
	MT_GO_HEAP_GROWTH = 3,
	MT_GO_SCAVENGE = 4,
	MT_GO_SET_GC_PERCENT = 5,
	MT_GO_SET_MEMORY_LIMIT = 6,
};

enum mt_go_memory_aux {
	MT_GO_HAS_START = 1,
};

/* ts: entry, else the return. */
struct mt_go_memory {
	struct mt_header h;
	u64 dur;
	u64 arg;    /* the second argument (after the receiver); 0 without a start */
	u64 result; /* the first result; settings: the first argument */
	u64 stack;
};

enum mt_jvm_detail {
	MT_JVM_GC = 1,
	MT_JVM_POOL = 2,
	MT_JVM_SAFEPOINT = 3,
	MT_JVM_VM_OPERATION = 4,
};

enum mt_jvm_aux {
	MT_JVM_HAS_START = 1,
};

#define MT_JVM_TEXT 64 /* a power of two */

/* ts: begin, else the end. Texts end with NUL; empty where there is none. */
struct mt_jvm {
	struct mt_header h;
	u64 dur;
	u64 full;
	u64 used_before;
	u64 committed_before;
	u64 used_after;
	u64 committed_after;
	u64 max;
	char name[MT_JVM_TEXT];
	char pool[MT_JVM_TEXT];
};

enum mt_off_cpu_aux {
	MT_WAKER_THREAD = 1,
	MT_WAKER_INTERRUPT = 2,
	MT_WAKER_CONTEXT = 3, /* mask of the above; 0: nobody saw it woken */
	MT_OFF_HAS_STACK = 4,
};

/* detail: 0 runnable, 1 sleeping, 2 uninterruptible, 3 other. ts: when it left the CPU. */
struct mt_off_cpu {
	struct mt_header h;
	u64 dur;
	u64 runnable; /* when it was woken; 0: nobody saw it */
	u64 waker;    /* process << 32 | thread that ran where it was woken; 0: none */
	u64 stack;
	s64 syscall; /* numbered as x86-64 does; -1: in none */
};

/* detail: system call. ts: its exit. Limits in bytes, ~0 for none. */
struct mt_refusal {
	struct mt_header h;
	u64 vmas;
	u64 mapped_pages;
	u64 data_pages;
	u64 locked_pages;
	u64 limit_as;
	u64 limit_data;
	u64 limit_memlock;
};

/* Counters of a probe: one array of u64 per CPU. The first ones mean the same for every probe:
 * MT_SEEN is the sum of the records sent and of RING_FULL, NO_STATE and OVER_LIMIT; the STACK_ ones and NO_START are
 * records that were sent with a part missing. */
enum mt_counter {
	MT_SEEN = 0,
	MT_RING_FULL = 1,
	MT_NO_STATE = 2,
	MT_OVER_LIMIT = 3,
	MT_STACK_UNREADABLE = 4,
	MT_STACK_LOST = 5,
	MT_NO_START = 6,
	MT_OWN_0 = 8, /* from here: what the probe ignores by design, see its mod.rs */
	MT_OWN_1 = 9,
	MT_OWN_2 = 10,
	MT_OWN_3 = 11,
	MT_COUNTERS = 16,
};

/* Settings, written once before the programs are attached. */
struct mt_config {
	u64 off_cpu_min_ns;
	u64 io_calls_per_process;
	u64 ring_wakeup_bytes;
	u64 slow_fault_ns; /* slower faults are sent one by one */
	u32 recorder_pid;
	u32 next_image; /* number of the next address space, see mt_target */
	u32 page_shift; /* where the architecture does not say it */
	u32 unused;
};

enum mt_rule_kind {
	MT_BY_COMM = 1,
	MT_BY_EXE = 2,
	MT_BY_CGROUP = 3,
	MT_BY_ALL = 4,
};

#define MT_RULE_NAME 64
#define MT_RULE_PATH 256

/* Which processes become targets by themselves. Written once before the programs are attached; all zero: none. */
struct mt_rule {
	u32 kind;
	u32 hierarchy; /* moves within this one are recorded: its groups are the targets' names */
	char comm[16];
	u64 exe_inode;		     /* 0: by path only */
	char exe_name[MT_RULE_NAME]; /* last component, cut off */
	char exe_path[MT_RULE_PATH]; /* as it may be given to execve(2) */
};

enum mt_target_flags {
	MT_TARGET_WAITS_FOR_EXEC = 1, /* launched by us, still our own code: nothing is recorded yet */
};

/* Value of the map of targets; the key is the thread group. */
struct mt_target {
	u32 flags;
	u32 image; /* number of the address space, new at each fork and exec: an address means something else in each */
	u32 exited;
	u32 unused;
	u64 io_calls;
};

#endif
