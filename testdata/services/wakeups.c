/*
 * wakeups: threads that wait, for known reasons.
 *
 *     wakeups handover N   one thread wakes another N times; between them it sleeps 5 ms
 *     wakeups crowd N      N threads share CPU 0: each computes 4 ms and sleeps 1 ms, fifty times
 *     wakeups pingpong N   two threads on CPU 0 wake each other N times: N context switches and nothing else
 *
 * Prints one line of JSON per thread, for pingpong the nanoseconds of a switch. run_delay_ns is the kernel's own count of its wait for a CPU,
 * from its creation on.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Work that waits to be done. System calls without the C library's own functions around them, which have no frame
 * pointers: the stacks are to be whole. */
static int work;
static long rounds;

static long run_delay(void)
{
	long on_cpu = 0, delay = 0;
	FILE *f = fopen("/proc/thread-self/schedstat", "r");

	if (!f || fscanf(f, "%ld %ld", &on_cpu, &delay) != 2)
		delay = -1;
	if (f)
		fclose(f);
	return delay;
}

static __attribute__((noinline)) void waits_for_work(void)
{
	while (!__atomic_load_n(&work, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &work, FUTEX_WAIT, 0, NULL, NULL, 0);
	__atomic_fetch_sub(&work, 1, __ATOMIC_SEQ_CST);
}

static void *waiter(void *unused)
{
	printf("{\"waiter\": %d}\n", gettid());
	for (long i = 0; i < rounds; i++)
		waits_for_work();
	return unused;
}

static void *waker(void *unused)
{
	struct timespec nap = { .tv_nsec = 5000000 };

	printf("{\"waker\": %d}\n", gettid());
	for (long i = 0; i < rounds; i++) {
		syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &nap, NULL);
		__atomic_fetch_add(&work, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &work, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	return unused;
}

static void compute(long ms)
{
	struct timespec from, now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	do
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < ms);
}

static void *member(void *unused)
{
	for (int i = 0; i < 50; i++) {
		compute(4);
		usleep(1000);
	}
	printf("{\"member\": %d, \"run_delay_ns\": %ld}\n", gettid(), run_delay());
	return unused;
}

static int turn;
static const int sides[] = { 0, 1 };

static void *player(void *side)
{
	const int me = *(const int *)side;

	for (long i = 0; i < rounds; i++) {
		while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) != me)
			syscall(SYS_futex, &turn, FUTEX_WAIT, !me, NULL, NULL, 0);
		__atomic_store_n(&turn, !me, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &turn, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	return NULL;
}

static long monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void on_one_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		exit(1);
}

static int pingpong(long switches)
{
	pthread_t other;
	long from;

	on_one_cpu();
	rounds = switches / 2;
	from = monotonic_ns();
	pthread_create(&other, NULL, player, (void *)&sides[1]);
	player((void *)&sides[0]);
	pthread_join(other, NULL);
	printf("{\"switches\": %ld, \"ns\": %.1f}\n", rounds * 2, (double)(monotonic_ns() - from) / (rounds * 2));
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	long n = argc > 2 ? atol(argv[2]) : 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && n >= 2 && !strcmp(argv[1], "pingpong"))
		return pingpong(n);
	if (argc < 3 || n < 1 || n > 1000)
		return 2;
	if (!strcmp(argv[1], "handover")) {
		rounds = n;
		pthread_create(&threads[0], NULL, waiter, NULL);
		pthread_create(&threads[1], NULL, waker, NULL);
		n = 2;
	} else {
		if (n > 64)
			return 2;
		on_one_cpu();
		for (long i = 0; i < n; i++)
			pthread_create(&threads[i], NULL, member, NULL);
	}
	for (long i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
