// SPDX-License-Identifier: MIT OR Apache-2.0
// pace RATE SECONDS: touches fresh pages at a steady rate, out of order, so that no fault continues a run; prints a line of
// JSON with what it made.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGES 8192L
/* Has no divisor in common with PAGES, and is farther than the pages of a run are apart. */
#define SCATTER 4001L

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	long rate = argc > 2 ? atol(argv[1]) : 0, seconds = argc > 2 ? atol(argv[2]) : 0, made = 0;
	char *pages = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long long begin = now(), end = begin + seconds * 1000000000LL;

	if (rate <= 0 || seconds <= 0 || pages == MAP_FAILED || madvise(pages, PAGES * 4096, MADV_NOHUGEPAGE))
		return 2;
	for (long long t = begin; t < end; t = now()) {
		for (long due = (t - begin) / 1e9 * rate; made < due; made++) {
			if (made && made % PAGES == 0)
				madvise(pages, PAGES * 4096, MADV_DONTNEED);
			((volatile char *)pages)[made % PAGES * SCATTER % PAGES * 4096] = 1;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
	}
	printf("{\"faults\":%ld,\"seconds\":%.3f}\n", made, (now() - begin) / 1e9);
	return 0;
}
