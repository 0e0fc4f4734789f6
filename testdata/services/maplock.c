/* Threads that map and unmap while somebody holds the lock of the address space (mmap_lock).
 *
 *   maplock MIB SECONDS alone      nobody holds it for long
 *   maplock MIB SECONDS reprotect  a thread of its own changes the protection of MIB touched MiB again and again
 *
 * For a foreign holder run it `alone` and read its smaps_rollup meanwhile. Prints one JSON line.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static char *heap;
static size_t heap_bytes;
static atomic_int done;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static __attribute__((noinline)) void *map_buffer(void)
{
	char *buffer = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buffer == MAP_FAILED)
		abort();
	buffer[0] = 1;
	return buffer;
}

static __attribute__((noinline)) void unmap_buffer(void *buffer)
{
	if (munmap(buffer, 65536))
		abort();
}

static __attribute__((noinline)) void reprotect_heap(int protection)
{
	if (mprotect(heap, heap_bytes, protection))
		abort();
}

static void *reprotect(void *unused)
{
	while (!done) {
		reprotect_heap(PROT_READ);
		reprotect_heap(PROT_READ | PROT_WRITE);
		usleep(2000);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t holder;
	double begin, longest = 0;
	long maps = 0;
	int holds;

	if (argc != 4)
		return 2;
	heap_bytes = (size_t)atol(argv[1]) << 20;
	holds = !strcmp(argv[3], "reprotect");
	heap = mmap(0, heap_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heap == MAP_FAILED)
		return 1;
	madvise(heap, heap_bytes, MADV_NOHUGEPAGE);
	memset(heap, 1, heap_bytes);
	printf("{\"ready\": true}\n");
	fflush(stdout);
	if (holds && pthread_create(&holder, 0, reprotect, 0))
		return 1;
	begin = now();
	while (now() - begin < atof(argv[2])) {
		double before = now(), took;
		void *buffer = map_buffer();

		unmap_buffer(buffer);
		took = now() - before;
		longest = took > longest ? took : longest;
		maps++;
		usleep(500);
	}
	done = 1;
	if (holds)
		pthread_join(holder, 0);
	printf("{\"maps\": %ld, \"longest_ms\": %.3f}\n", maps, longest * 1e3);
	return 0;
}
