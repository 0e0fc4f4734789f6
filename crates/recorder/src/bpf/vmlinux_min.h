/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * The few kernel types that the probes read, by name. preserve_access_index makes every access a CO-RE relocation:
 * the order and the offsets below mean nothing, libbpf takes them from the BTF of the running kernel.
 * Written by hand for 5.15 ... 6.18 instead of vendoring a generated vmlinux.h of one kernel. What differs between
 * architectures is in arch.bpf.h.
 */
#ifndef MTRACE_VMLINUX_MIN_H
#define MTRACE_VMLINUX_MIN_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0

/* include/uapi/linux/bpf.h; only what is used */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
};

/* include/linux/cgroup_subsys.h; the number is that of the running kernel (bpf_core_enum_value) */
enum cgroup_subsys_id {
	memory_cgrp_id,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;

/* The low bits of the owner are flags (kernel/locking/rwsem.c). */
struct rw_semaphore {
	atomic64_t owner;
};

struct percpu_counter {
	s64 count;
};

struct page_counter {
	atomic64_t usage;
	unsigned long max;
};

struct list_head {
	struct list_head *next;
};

struct kernfs_node {
	const char *name;
	u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct list_head cgrp_links;
};

struct qstr {
	const unsigned char *name;
};

struct super_block {
	u32 s_dev;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct rlimit {
	unsigned long rlim_cur;
	unsigned long rlim_max;
};

struct cgrp_cset_link {
	struct cgroup *cgrp;
	struct list_head cgrp_link;
};

struct upid {
	int nr;
	void *ns; /* for its size */
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct mm_struct {
	int map_count;
	unsigned long total_vm;
	unsigned long data_vm;
	unsigned long locked_vm;
	unsigned long start_code;
	struct file *exe_file;
	struct rw_semaphore mmap_lock;
	atomic64_t pgtables_bytes;
	struct percpu_counter rss_stat[4];
	struct task_struct *owner; /* CONFIG_MEMCG */
};

/* Before 6.2 (f1a7941243c1 "mm: convert mm's rss stats into percpu_counter"). */
struct mm_rss_stat {
	atomic64_t count[4];
};

struct mm_struct___old_rss {
	struct mm_rss_stat rss_stat;
};

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
	short oom_score_adj;
	unsigned long min_flt; /* of the threads that are gone */
	unsigned long maj_flt;
	struct rlimit rlim[16];
};

struct task_struct {
	unsigned int __state;
	void *stack;
	int exit_code;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	char comm[16];
	struct files_struct *files;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct css_set *cgroups;
	struct pid *thread_pid;
	unsigned int memcg_nr_pages_over_high;
	unsigned long min_flt;
	unsigned long maj_flt;
};

/* Before 5.14 (2f064a59a11f "sched: Change task_struct::state") the field had no underscores. */
struct task_struct___old_state {
	long state;
};

/* 6.1 and 6.12 tell whether the range is writable, before what else the tracepoint tells; 6.18 does not. */
struct trace_event_raw_mm_khugepaged_scan_pmd {
	bool writable;
};

/* Came with MADV_COLLAPSE (6.1). From then on the scan of a file ends with the result of its collapse. */
struct collapse_control {
	bool is_khugepaged;
};

struct linux_binprm {
	const char *filename;
};

#pragma clang attribute pop

#endif
