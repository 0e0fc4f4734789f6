/*
 * filescan: reads a mapped file from end to end, round after round.
 *
 *     filescan FILE MIB ROUNDS
 *
 * Writes MIB MiB into FILE first. In a memory cgroup whose limit is below that, every round has to read the file anew, and
 * each read makes room before: reclaim, and major faults on the same pages again. With a higher limit the rounds after
 * the first find everything in the page cache. Prints one line of JSON with getrusage's counts of the rounds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static void fail(const char *what)
{
	fprintf(stderr, "filescan: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void fill(int fd, size_t bytes)
{
	static char block[1 << 16];

	memset(block, 'x', sizeof(block));
	for (size_t done = 0; done < bytes; done += sizeof(block))
		if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block))
			fail("write");
	if (fsync(fd))
		fail("fsync");
	/* A cold file: what has just been written is in the page cache still. */
	if ((errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)))
		fail("posix_fadvise");
}

__attribute__((noinline)) static unsigned long scan_file(const volatile unsigned char *base, size_t bytes)
{
	unsigned long sum = 0;

	for (size_t at = 0; at < bytes; at += 4096)
		sum += base[at];
	return sum;
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fputs("usage: filescan FILE MIB ROUNDS\n", stderr);
		return 2;
	}
	size_t bytes = strtoul(argv[2], NULL, 10) << 20;
	long rounds = strtol(argv[3], NULL, 10);
	int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		fail(argv[1]);
	fill(fd, bytes);
	unsigned char *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		fail("mmap");

	struct rusage before, after;
	unsigned long sum = 0;
	getrusage(RUSAGE_SELF, &before);
	for (long i = 0; i < rounds; i++)
		sum += scan_file(base, bytes);
	getrusage(RUSAGE_SELF, &after);
	printf("{\"pid\":%d,\"pages\":%zu,\"sum\":%lu,\"minflt\":%ld,\"majflt\":%ld}\n", getpid(),
	       bytes / 4096 * (size_t)rounds, sum, after.ru_minflt - before.ru_minflt,
	       after.ru_majflt - before.ru_majflt);
	return 0;
}
