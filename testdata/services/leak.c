/* Grows until somebody stops it: 1 MiB at a time, each touched and kept.
 *
 *   leak MIB PAUSE_MS [INDEX_MIB]     up to MIB; INDEX_MIB are mapped and touched first, by another function
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The call before it is no jump then. */
#define KEEP_FRAME __asm__ volatile("" ::: "memory")

static __attribute__((noinline)) char *map(size_t bytes)
{
	char *block = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (block == MAP_FAILED)
		abort();
	madvise(block, bytes, MADV_NOHUGEPAGE);
	return block;
}

static __attribute__((noinline)) void load_index(size_t bytes)
{
	memset(map(bytes), 1, bytes);
	KEEP_FRAME;
}

static __attribute__((noinline)) void remember_request(void)
{
	memset(map(1 << 20), 2, 1 << 20);
	KEEP_FRAME;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	if (argc > 3)
		load_index((size_t)atol(argv[3]) << 20);
	for (long i = 0; i < atol(argv[1]); i++) {
		remember_request();
		usleep(atol(argv[2]) * 1000);
	}
	printf("{\"mib\": %s}\n", argv[1]);
	return 0;
}
