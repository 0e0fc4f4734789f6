// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// Collections, memory pools, safepoints and VM operations of HotSpot, by its USDT probes.
// Begin and end of each come on the same thread; what begins is kept until its end.
/* The registers have their names of the kernel in vmlinux_min.h. */
#define __VMLINUX_H__
#include "mtrace.bpf.h"
/* The probes of one libjvm.so have one place each, and several JVM builds may run on a host. */
#define BPF_USDT_MAX_SPEC_CNT 128
#include <bpf/usdt.bpf.h>

struct open_key {
	u32 tid;
	u32 which;
	u64 what; /* pool: address of its name */
};

struct open_value {
	u64 ts;
	u64 used;
	u64 committed;
	u64 full;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct open_key);
	__type(value, struct open_value);
} open SEC(".maps");

static __always_inline int begin(u32 which, u64 what, u64 used, u64 committed, u64 full)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct open_key key = { .tid = (u32)pid_tgid, .which = which, .what = what };
	struct open_value value = { .used = used, .committed = committed, .full = full };

	if (!target_of(pid_tgid >> 32))
		return 0;
	value.ts = bpf_ktime_get_ns();
	bpf_map_update_elem(&open, &key, &value, BPF_ANY);
	return 0;
}

/* HotSpot passes texts as an address and a length, without a NUL at their end. */
static __always_inline void read_text(char *to, u64 from, u64 len)
{
	to[0] = 0;
	if (len > MT_JVM_TEXT - 1)
		len = MT_JVM_TEXT - 1;
	barrier_var(len);
	len &= MT_JVM_TEXT - 1;
	if (bpf_probe_read_user(to, len, (void *)from))
		len = 0;
	to[len & (MT_JVM_TEXT - 1)] = 0;
}

static __always_inline struct mt_jvm *end(u32 which, u64 what)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct open_key key = { .tid = (u32)pid_tgid, .which = which, .what = what };
	struct open_value *found, value = {};
	u64 now = bpf_ktime_get_ns();
	struct mt_jvm *r;

	if (!target_of(pid_tgid >> 32))
		return 0;
	found = bpf_map_lookup_elem(&open, &key);
	if (found) {
		value = *found;
		bpf_map_delete_elem(&open, &key);
	} else {
		count(MT_NO_START);
	}
	count(MT_SEEN);
	r = RESERVE(struct mt_jvm);
	if (!r)
		return 0;
	fill_header(&r->h, MT_JVM, which, pid_tgid, found ? MT_JVM_HAS_START : 0, found ? value.ts : now);
	r->dur = found ? now - value.ts : 0;
	r->full = value.full;
	r->used_before = value.used;
	r->committed_before = value.committed;
	r->used_after = 0;
	r->committed_after = 0;
	r->max = 0;
	r->name[0] = 0;
	r->pool[0] = 0;
	return r;
}

SEC("usdt")
int BPF_USDT(jvm_gc_begin, long full)
{
	return begin(MT_JVM_GC, 0, 0, 0, full & 1);
}

SEC("usdt")
int BPF_USDT(jvm_gc_end)
{
	struct mt_jvm *r = end(MT_JVM_GC, 0);

	if (r)
		SUBMIT(r);
	return 0;
}

SEC("usdt")
int BPF_USDT(jvm_pool_begin, long manager, long manager_len, long pool, long pool_len, long init, long used,
	     long committed)
{
	return begin(MT_JVM_POOL, pool, used, committed, 0);
}

SEC("usdt")
int BPF_USDT(jvm_pool_end, long manager, long manager_len, long pool, long pool_len, long init, long used,
	     long committed, long max)
{
	struct mt_jvm *r = end(MT_JVM_POOL, pool);

	if (!r)
		return 0;
	r->used_after = used;
	r->committed_after = committed;
	r->max = max;
	read_text(r->name, manager, manager_len);
	read_text(r->pool, pool, pool_len);
	SUBMIT(r);
	return 0;
}

SEC("usdt")
int BPF_USDT(jvm_safepoint_begin)
{
	return begin(MT_JVM_SAFEPOINT, 0, 0, 0, 0);
}

SEC("usdt")
int BPF_USDT(jvm_safepoint_end)
{
	struct mt_jvm *r = end(MT_JVM_SAFEPOINT, 0);

	if (r)
		SUBMIT(r);
	return 0;
}

SEC("usdt")
int BPF_USDT(jvm_vm_operation_begin)
{
	return begin(MT_JVM_VM_OPERATION, 0, 0, 0, 0);
}

SEC("usdt")
int BPF_USDT(jvm_vm_operation_end, long name, long name_len)
{
	struct mt_jvm *r = end(MT_JVM_VM_OPERATION, 0);

	if (!r)
		return 0;
	read_text(r->name, name, name_len);
	SUBMIT(r);
	return 0;
}
