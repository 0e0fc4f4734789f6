/*
 * faultloop: nothing but first-touch page faults.
 *
 *     faultloop MIB ROUNDS [seq|random] [verbose]
 *
 * Each round maps MIB MiB of anonymous private memory, writes one byte into
 * every page once (in order, or in a fixed pseudo-random order) and unmaps it.
 * Prints one line of JSON; the fault counts are getrusage's over the rounds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "faultloop: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(void)
{
	fputs("usage: faultloop MIB ROUNDS [seq|random] [verbose]\n", stderr);
	exit(2);
}

/* A whole number from 1 to max. */
static long number(const char *text, long max)
{
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < 1 || value > max)
		usage();
	return value;
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Page `stride * i mod pages` is the i-th: each once, as stride and pages have no common divisor. */
__attribute__((noinline)) static void touch_pages(volatile char *base, size_t pages, size_t stride,
						  size_t page_bytes)
{
	size_t page = 0;
	for (size_t i = 0; i < pages; i++) {
		base[page * page_bytes] = 1;
		page += stride;
		if (page >= pages)
			page -= pages;
	}
}

static size_t gcd(size_t a, size_t b)
{
	while (b) {
		size_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

/* About 0.618 of the pages: neighbours in time are far apart in space. */
static size_t random_stride(size_t pages)
{
	size_t stride = pages * 618 / 1000 + 1;
	while (gcd(stride, pages) != 1)
		stride++;
	return stride % pages ? stride % pages : 1;
}

__attribute__((noinline)) static void one_round(size_t bytes, size_t stride, size_t page_bytes)
{
	char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		fail("mmap");
	/* One fault a page, whatever the host does about huge pages. EINVAL: a kernel without them. */
	if (madvise(base, bytes, MADV_NOHUGEPAGE) && errno != EINVAL)
		fail("madvise");
	touch_pages(base, bytes / page_bytes, stride, page_bytes);
	if (munmap(base, bytes))
		fail("munmap");
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc > 5)
		usage();
	size_t bytes = (size_t)number(argv[1], 1 << 20) << 20;
	long rounds = number(argv[2], 1000000000);
	bool verbose = false, random = false;
	for (int i = 3; i < argc; i++) {
		if (!strcmp(argv[i], "random"))
			random = true;
		else if (!strcmp(argv[i], "verbose"))
			verbose = true;
		else if (strcmp(argv[i], "seq"))
			usage();
	}
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t pages = bytes / page_bytes;
	size_t stride = random ? random_stride(pages) : 1;

	/* stdio's first use allocates: not within the counts. */
	if (verbose)
		fprintf(stderr, "faultloop: pid %d, %zu pages a round, %ld rounds\n", getpid(), pages, rounds);
	struct rusage before, after;
	getrusage(RUSAGE_SELF, &before);
	int64_t start = now_ns();
	for (long i = 0; i < rounds; i++) {
		int64_t round_start = now_ns();
		one_round(bytes, stride, page_bytes);
		if (verbose)
			fprintf(stderr, "faultloop: round %ld: %.1f ns per page\n", i + 1,
				(double)(now_ns() - round_start) / (double)pages);
	}
	int64_t elapsed = now_ns() - start;
	getrusage(RUSAGE_SELF, &after);

	double touched = (double)pages * (double)rounds;
	printf("{\"pid\":%d,\"order\":\"%s\",\"rounds\":%ld,\"pages\":%.0f,\"seconds\":%.6f,"
	       "\"ns_per_fault\":%.1f,\"minflt\":%ld,\"majflt\":%ld}\n",
	       getpid(), random ? "random" : "seq", rounds, touched, (double)elapsed / 1e9,
	       (double)elapsed / touched, after.ru_minflt - before.ru_minflt,
	       after.ru_majflt - before.ru_majflt);
	return 0;
}
