/* Threads that map and unmap while somebody holds the lock of the address space (mmap_lock).
 *
 *   maplock MIB SECONDS alone      nobody holds it for long
 *   maplock MIB SECONDS reprotect  a thread of its own changes the protection of MIB touched MiB again and again
 *
 *   maplock read SECONDS PID       a foreign holder: reads the smaps_rollup of that process again and again
 *
 * Prints JSON lines.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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
		usleep(100);
	}
	return unused;
}

static int read_smaps(double seconds, const char *pid)
{
	double end = now() + seconds;
	char path[64], text[4096];
	long readings = 0;

	/* As a monitoring agent that is another program. */
	prctl(PR_SET_NAME, "smaps-agent");
	snprintf(path, sizeof(path), "/proc/%s/smaps_rollup", pid);
	for (; now() < end; readings++) {
		int fd = open(path, O_RDONLY);

		if (fd < 0 || read(fd, text, sizeof(text)) <= 0)
			break;
		close(fd);
	}
	printf("{\"readings\": %ld}\n", readings);
	return readings == 0;
}

int main(int argc, char **argv)
{
	pthread_t holder;
	double begin, longest = 0;
	long maps = 0;
	int holds;

	if (argc != 4)
		return 2;
	if (!strcmp(argv[1], "read"))
		return read_smaps(atof(argv[2]), argv[3]);
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
		usleep(200);
	}
	done = 1;
	if (holds)
		pthread_join(holder, 0);
	printf("{\"maps\": %ld, \"longest_ms\": %.3f}\n", maps, longest * 1e3);
	return 0;
}
