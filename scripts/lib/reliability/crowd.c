/*
 * Targets of scripts/reliability. Every mode is bounded and ends by itself; what it did is printed as one line of JSON,
 * counted by the kernel's getrusage or by itself.
 *
 *     crowd forks N PARALLEL    N children that exit at once, at most PARALLEL at a time
 *     crowd spawns N PARALLEL   the same, but each executes this program (`leaf`)
 *     crowd execs N             executes itself N times, one after the other
 *     crowd herd N              N children that live at the same time
 *     crowd threads N           N threads that live at the same time; each maps, touches and unmaps a page
 *     crowd churn N             N threads one after the other, each as above
 *     crowd calls N             N times: drops a page and touches it again
 *     crowd window PAGES        says ready, waits for a line; touches PAGES pages one by one; says its count; waits
 *     crowd leaf                nothing
 *     crowd nap MS              ends after MS ms
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
/* Whatever happens to the script, nothing stays. */
#define LIFETIME_SECONDS 240

static void fail(const char *what)
{
	fprintf(stderr, "crowd: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long faults_of(int who)
{
	struct rusage usage;

	getrusage(who, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static void say(long n)
{
	printf("{\"pid\":%d,\"n\":%ld,\"faults\":%ld}\n", getpid(), n,
	       faults_of(RUSAGE_SELF) + faults_of(RUSAGE_CHILDREN));
	fflush(stdout);
}

static char *map(long pages)
{
	char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap");
	madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
	return p;
}

static void wait_for_one(void)
{
	int status;

	if (wait(&status) < 0 || status)
		fail("a child failed");
}

static void children(char *self, long n, long parallel, int exec)
{
	long alive = 0;

	for (long i = 0; i < n; i++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (!child) {
			alarm(LIFETIME_SECONDS);
			if (exec)
				execl(self, self, "leaf", (char *)NULL);
			_exit(exec ? 1 : 0);
		}
		if (++alive >= parallel) {
			wait_for_one();
			alive--;
		}
	}
	while (alive--)
		wait_for_one();
}

/* Each waits for the end of a pipe that the parent holds. */
static void herd(long n)
{
	int ends[2];
	char byte;

	if (pipe(ends))
		fail("pipe");
	for (long i = 0; i < n; i++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (!child) {
			alarm(LIFETIME_SECONDS);
			close(ends[1]);
			_exit(read(ends[0], &byte, 1) != 0);
		}
	}
	close(ends[1]);
	while (n--)
		wait_for_one();
}

static void *touch_one(void *barrier)
{
	char *p = map(1);

	*(volatile char *)p = 1;
	munmap(p, PAGE);
	if (barrier)
		pthread_barrier_wait(barrier);
	return NULL;
}

static void threads(long n, int together)
{
	pthread_t *all = calloc(n, sizeof(*all));
	pthread_barrier_t barrier;
	pthread_attr_t small;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 * 1024);
	pthread_barrier_init(&barrier, NULL, together ? n + 1 : 1);
	for (long i = 0; i < n; i++) {
		if ((errno = pthread_create(&all[i], &small, touch_one, together ? &barrier : NULL)))
			fail("pthread_create");
		if (!together)
			pthread_join(all[i], NULL);
	}
	if (!together)
		return;
	pthread_barrier_wait(&barrier);
	for (long i = 0; i < n; i++)
		pthread_join(all[i], NULL);
}

static void calls(long n)
{
	char *p = map(1);

	for (long i = 0; i < n; i++) {
		*(volatile char *)p = 1;
		if (madvise(p, PAGE, MADV_DONTNEED))
			fail("madvise");
	}
}

static void window(long pages)
{
	char line[16];
	volatile char *p = map(pages);
	long before, after;

	/* Everything that the window uses has been used before it. */
	now();
	faults_of(RUSAGE_SELF);
	printf("ready\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		fail("no go-ahead");
	now();
	before = faults_of(RUSAGE_SELF);
	long long from = now();
	for (long i = 0; i < pages; i++)
		p[i * PAGE] = 1;
	long long to = now();
	after = faults_of(RUSAGE_SELF);
	printf("{\"pid\":%d,\"from\":%lld,\"to\":%lld,\"faults\":%ld}\n", getpid(), from, to, after - before);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		fail("no end");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	long n = argc > 2 ? atol(argv[2]) : 0;

	alarm(LIFETIME_SECONDS);
	if (!strcmp(mode, "leaf"))
		return 0;
	if (!strcmp(mode, "nap"))
		return usleep(n * 1000);
	if (!strcmp(mode, "window")) {
		window(n);
		return 0;
	}
	if (!strcmp(mode, "execs")) {
		char rest[32];

		if (n <= 0) {
			say(0);
			return 0;
		}
		snprintf(rest, sizeof(rest), "%ld", n - 1);
		execl(argv[0], argv[0], "execs", rest, (char *)NULL);
		fail("exec");
	}
	if (!strcmp(mode, "forks") || !strcmp(mode, "spawns"))
		children(argv[0], n, argc > 3 ? atol(argv[3]) : 1, mode[0] == 's');
	else if (!strcmp(mode, "threads") || !strcmp(mode, "churn"))
		threads(n, mode[0] == 't');
	else if (!strcmp(mode, "herd"))
		herd(n);
	else if (!strcmp(mode, "calls"))
		calls(n);
	else
		return 2;
	say(n);
	return 0;
}
