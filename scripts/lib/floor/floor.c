// SPDX-License-Identifier: MIT OR Apache-2.0
// Attaches floor.bpf.o as the fault probe is attached, says "ready", and stays until its standard input ends.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void attach_everywhere(struct bpf_program *program, unsigned long long event)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = event, .sample_period = 1
	};

	for (int cpu = 0; cpu < libbpf_num_possible_cpus(); cpu++) {
		int fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);

		if (fd < 0)
			fail("perf_event_open");
		if (!bpf_program__attach_perf_event(program, fd))
			fail("attach to a software event");
	}
}

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 2 ? bpf_object__open(argv[1]) : NULL;

	if (!object || bpf_object__load(object))
		fail("usage: floor FLOOR.bpf.o; load it");
	if (!bpf_program__attach(bpf_object__find_program_by_name(object, "floor_start")))
		fail("attach floor_start");
	struct bpf_program *end = bpf_object__find_program_by_name(object, "floor_end");

	attach_everywhere(end, PERF_COUNT_SW_PAGE_FAULTS_MIN);
	attach_everywhere(end, PERF_COUNT_SW_PAGE_FAULTS_MAJ);
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
