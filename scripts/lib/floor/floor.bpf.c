// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
// The hooks of the fault probe with nothing behind them: what attaching alone costs.
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("tp_btf/page_fault_user")
int BPF_PROG(floor_start, unsigned long addr, struct pt_regs *regs, unsigned long error_code)
{
	return 0;
}

SEC("perf_event")
int floor_end(void *ctx)
{
	return 0;
}
