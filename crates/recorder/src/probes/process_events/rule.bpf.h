/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * Which processes are targets besides those that user space put into the map: the rule that was asked for. It is looked
 * at where a process can begin to fit: at fork, exec, a new name, a move into a cgroup.
 */
#ifndef MTRACE_RULE_H
#define MTRACE_RULE_H

#include "mtrace.bpf.h"

/* A task is in one group of each hierarchy; there are at most as many as controllers, and named ones. */
#define MAX_HIERARCHIES 24
#define MAX_DEPTH 32

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct mt_rule);
} rule SEC(".maps");

/* Numbers of kernfs nodes are those of one hierarchy only. */
struct group_key {
	u64 id;
	u32 hierarchy;
	u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct group_key);
	__type(value, u32);
} groups SEC(".maps");

static __always_inline struct mt_rule *the_rule(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&rule, &zero);
}

/* True for a group that was asked for, and for all below it. Not static, for the verifier: see take_stack; it takes
 * numbers only, so the callers read the pointers. */
__noinline __attribute__((unused)) u32 group_is_wanted(u64 group)
{
	struct cgroup *at = (struct cgroup *)group;
	struct cgroup_subsys_state *above;
	struct group_key key = {};

	key.hierarchy = BPF_CORE_READ(at, root, hierarchy_id);
	for (int i = 0; i < MAX_DEPTH; i++) {
		key.id = BPF_CORE_READ(at, kn, id);
		if (bpf_map_lookup_elem(&groups, &key))
			return 1;
		above = BPF_CORE_READ(at, self.parent);
		if (!above)
			return 0;
		at = BPF_CORE_READ(above, cgroup);
	}
	return 0;
}

/* True if one of these groups, a task's (task_struct.cgroups), was asked for, in whatever hierarchy. */
__noinline __attribute__((unused)) u32 one_is_wanted(u64 css_set)
{
	u64 head = css_set + bpf_core_field_offset(struct css_set, cgrp_links);
	struct list_head *at = BPF_CORE_READ((struct css_set *)css_set, cgrp_links.next);
	struct cgrp_cset_link *link;

	for (int i = 0; i < MAX_HIERARCHIES; i++) {
		if (!at || (u64)at == head)
			return 0;
		link = (void *)at - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link);
		if (group_is_wanted((u64)BPF_CORE_READ(link, cgrp)))
			return 1;
		at = BPF_CORE_READ(at, next);
	}
	return 0;
}

static __always_inline bool is_text(const char *a, const char *b, int bytes)
{
	for (int i = 0; i < bytes; i++) {
		if (a[i] != b[i])
			return false;
		if (!a[i])
			return true;
	}
	return true;
}

/* True if the executable is the file that was asked for: by its inode and name. The device is left out: what stat(2)
 * says of it is not what the kernel has on overlayfs and btrfs. */
static __always_inline bool runs_wanted_file(struct mt_rule *r, struct task_struct *task)
{
	struct file *file = BPF_CORE_READ(task, mm, exe_file);
	const unsigned char *name;
	char buf[MT_RULE_NAME] = {};

	if (!r->exe_inode || !file || BPF_CORE_READ(file, f_inode, i_ino) != r->exe_inode)
		return false;
	name = BPF_CORE_READ(file, f_path.dentry, d_name.name);
	bpf_probe_read_kernel_str(buf, sizeof(buf), name);
	return is_text(buf, r->exe_name, sizeof(buf));
}

/* Whether a task fits by what it is: after a fork, an exec or a new name (which the kernel has not set yet). */
static __always_inline bool fits(struct mt_rule *r, struct task_struct *task, const char *comm)
{
	char name[16] = {};

	switch (r->kind) {
	case MT_BY_COMM:
		if (comm)
			return is_text(comm, r->comm, sizeof(r->comm));
		bpf_probe_read_kernel_str(name, sizeof(name), task->comm);
		return is_text(name, r->comm, sizeof(r->comm));
	case MT_BY_EXE:
		return runs_wanted_file(r, task);
	case MT_BY_CGROUP:
		return one_is_wanted((u64)BPF_CORE_READ(task, cgroups));
	case MT_BY_ALL:
		return true;
	}
	return false;
}

/* Makes a process a target; null if it is the recorder, or there is no room. */
static __always_inline struct mt_target *adopt(u32 pid)
{
	struct mt_config *c = settings();
	struct mt_target fresh = {};

	if (!c || pid == c->recorder_pid)
		return 0;
	fresh.image = new_image();
	if (bpf_map_update_elem(&targets, &pid, &fresh, BPF_NOEXIST))
		count(MT_OWN_0);
	return bpf_map_lookup_elem(&targets, &pid);
}

#endif
