/* Sparse memory, one small page in each range of a huge page, that becomes huge pages.
 *
 *     thp madvise RANGES [AFTER [BEFORE]]      the program asks for it: MADV_COLLAPSE (Linux 6.1)
 *     thp khugepaged RANGES [AFTER [BEFORE]]   khugepaged does it; gives up after 60 s
 *     thp shared RANGES [AFTER [BEFORE]]       MADV_COLLAPSE of shared memory
 *
 * Sleeps BEFORE seconds with its memory sparse, prints one line of JSON when it is done, with what the kernel says of the
 * process before and after, and stays for AFTER seconds. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2UL << 20)
#define GIVE_UP_SECONDS 60

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct memory {
	long rss_kb, anon_kb, huge_kb;
};

/* The file is there since 4.14. */
static struct memory now(void)
{
	struct memory m = {-1, -1, -1};
	char line[256];
	FILE *f = fopen("/proc/self/smaps_rollup", "r");

	while (f && fgets(line, sizeof(line), f)) {
		sscanf(line, "Rss: %ld", &m.rss_kb);
		sscanf(line, "Anonymous: %ld", &m.anon_kb);
		sscanf(line, "AnonHugePages: %ld", &m.huge_kb);
	}
	if (f)
		fclose(f);
	return m;
}

/* Aligned, and of small pages only, whatever the host's setting is. */
static char *map_sparse(size_t ranges, int flags)
{
	char *all = mmap(0, (ranges + 1) * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	char *start = (char *)(((unsigned long)all + HUGE - 1) & ~(HUGE - 1));

	if (all == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	madvise(all, (ranges + 1) * HUGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < ranges; i++)
		start[i * HUGE] = 1;
	return start;
}

static void wait_for_khugepaged(long huge_kb)
{
	struct timespec nap = {0, 20000000};

	for (int i = 0; i < GIVE_UP_SECONDS * 50 && now().huge_kb < huge_kb; i++)
		nanosleep(&nap, 0);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "madvise";
	size_t ranges = argc > 2 ? strtoul(argv[2], 0, 0) : 16;
	unsigned stay = argc > 3 ? strtoul(argv[3], 0, 0) : 0, wait = argc > 4 ? strtoul(argv[4], 0, 0) : 0;
	int flags = MAP_ANONYMOUS | (strcmp(mode, "shared") ? MAP_PRIVATE : MAP_SHARED);
	char *start = map_sparse(ranges, flags);
	struct memory before = now(), after;
	int error = 0;

	sleep(wait);
	/* From here on khugepaged may have it. */
	madvise(start, ranges * HUGE, MADV_HUGEPAGE);
	if (!strcmp(mode, "khugepaged"))
		wait_for_khugepaged(ranges * (HUGE >> 10));
	else if (madvise(start, ranges * HUGE, MADV_COLLAPSE))
		error = errno;
	after = now();
	printf("{\"pid\": %d, \"ranges\": %zu, \"errno\": %d, \"rss_kb\": [%ld, %ld], \"anon_kb\": [%ld, %ld], "
	       "\"huge_kb\": [%ld, %ld]}\n",
	       getpid(), ranges, error, before.rss_kb, after.rss_kb, before.anon_kb, after.anon_kb, before.huge_kb,
	       after.huge_kb);
	fflush(stdout);
	sleep(stay);
	return error != 0;
}
