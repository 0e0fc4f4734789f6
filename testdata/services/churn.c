/*
 * churn: purge-refault churn, or its control.
 *
 *     churn MIB ROUNDS [purge|keep]
 *
 * Maps MIB MiB once and writes one byte into every page in each round. With
 * "purge" the pages are given back by madvise(MADV_DONTNEED) after each round,
 * so that every round faults on all of them again; with "keep" only the first
 * round faults. Prints one line of JSON with getrusage's fault count.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "churn: %s: %s\n", what, strerror(errno));
	exit(1);
}

static __attribute__((noinline)) void fill_buffer(volatile char *memory, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 4096)
		memory[i] = 1;
}

static __attribute__((noinline)) void purge_buffer(char *memory, size_t bytes)
{
	if (madvise(memory, bytes, MADV_DONTNEED))
		fail("madvise");
}

int main(int argc, char **argv)
{
	long mib = argc > 1 ? atol(argv[1]) : 0, rounds = argc > 2 ? atol(argv[2]) : 0;
	if (mib < 1 || mib > 4096 || rounds < 1 || rounds > 100000) {
		fputs("usage: churn MIB ROUNDS [purge|keep]\n", stderr);
		return 2;
	}
	int purge = argc < 4 || !strcmp(argv[3], "purge");
	size_t bytes = (size_t)mib << 20;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	struct rusage before, after;
	getrusage(RUSAGE_SELF, &before);
	for (long i = 0; i < rounds; i++) {
		fill_buffer(memory, bytes);
		if (purge)
			purge_buffer(memory, bytes);
	}
	getrusage(RUSAGE_SELF, &after);
	printf("{\"pages\":%zu,\"rounds\":%ld,\"purge\":%d,\"minflt\":%ld}\n", bytes / 4096, rounds, purge,
	       after.ru_minflt - before.ru_minflt);
	return 0;
}
