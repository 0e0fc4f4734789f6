/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
 *
 * What bpf/usdt.bpf.h takes from <linux/errno.h>, which needs headers of the host's architecture that clang does not
 * look for when it compiles for BPF.
 */
#ifndef MTRACE_ERRNO_H
#define MTRACE_ERRNO_H

#define ENOENT 2
#define ESRCH 3
#define EINVAL 22

#endif
