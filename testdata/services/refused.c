/*
 * refused: mappings that the kernel refuses, each for one known reason.
 *
 *     refused maps      alternating protections until vm.max_map_count
 *     refused as        RLIMIT_AS of 1 GiB, then 2 GiB asked for
 *     refused data      RLIMIT_DATA of 256 MiB, then 512 MiB of private writable memory asked for
 *     refused huge      one writable mapping of 64 TiB (more than RAM and swap)
 *     refused none      the same calls within the limits: nothing fails
 *
 * Prints one line of JSON: the number of refused calls and the mappings at the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

static long refused;

static __attribute__((noinline)) char *reserve(size_t bytes)
{
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		refused += errno == ENOMEM;
		return NULL;
	}
	return memory;
}

static __attribute__((noinline)) void split_mapping(char *memory, size_t pages)
{
	/* Every second page read-only: each call makes two more VMAs. */
	for (size_t i = 1; i < pages; i += 2)
		if (mprotect(memory + i * 4096, 4096, PROT_READ)) {
			refused += errno == ENOMEM;
			if (refused > 100)
				return;
		}
}

static void limit(int resource, rlim_t bytes)
{
	struct rlimit r = { bytes, bytes };
	if (setrlimit(resource, &r)) {
		fprintf(stderr, "refused: setrlimit: %s\n", strerror(errno));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	size_t gib = (size_t)1 << 30;
	if (!strcmp(how, "maps")) {
		char *memory = reserve(140000 * (size_t)4096);
		if (memory)
			split_mapping(memory, 140000);
	} else if (!strcmp(how, "as")) {
		limit(RLIMIT_AS, gib);
		reserve(2 * gib);
	} else if (!strcmp(how, "data")) {
		limit(RLIMIT_DATA, gib / 4);
		reserve(gib / 2);
	} else if (!strcmp(how, "huge")) {
		reserve((size_t)64 << 40);
	} else if (!strcmp(how, "none")) {
		char *memory = reserve(gib);
		if (memory)
			split_mapping(memory, 1000);
	} else {
		fputs("usage: refused maps|as|data|huge|none\n", stderr);
		return 2;
	}
	printf("{\"how\":\"%s\",\"refused\":%ld}\n", how, refused);
	return 0;
}
