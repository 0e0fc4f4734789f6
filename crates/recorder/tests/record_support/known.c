/* A program that does a known number of things and says so in one line of JSON.
 *
 *     known faults PAGES       touches PAGES pages from each of two places, then prints the window and getrusage's count
 *     known fork N             forks N children; each executes `known faults 100` and is waited for
 *     known callers PAGES      touches PAGES pages through the same three frames, the first one for one caller and the
 *                              rest for another
 *     known twins PAGES A B    touches PAGES pages, A of them for one caller and B for another in turn, with the same registers
 *     known touch PAGES        touches PAGES pages and says nothing
 *     known loop               touches pages until it is killed
 *     known wait               waits for a byte on its standard input, then touches 100 pages
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define PAGE 4096L

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static char *map(long pages)
{
	char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || madvise(p, pages * PAGE, MADV_NOHUGEPAGE))
		_exit(3);
	return p;
}

/* The asm keeps a frame in each: without something after the call the compiler jumps instead of calling. */
#define KEEP() __asm__ volatile("" ::: "memory")

NOINLINE void leaf_touch(volatile char *p, long pages)
{
	for (long i = 0; i < pages; i++)
		p[i * PAGE] = 1;
}

NOINLINE void library_touch(char *p, long pages)
{
	for (long i = 0; i < pages; i++)
		memset(p + i * PAGE, 1, 512);
	KEEP();
}

NOINLINE void a_inner(char *p, long pages) { leaf_touch(p, pages); KEEP(); }
NOINLINE void a_outer(char *p, long pages) { a_inner(p, pages); KEEP(); }
NOINLINE void b_innermost(char *p, long pages) { library_touch(p, pages); KEEP(); }
NOINLINE void b_inner(char *p, long pages) { b_innermost(p, pages); KEEP(); }
NOINLINE void b_outer(char *p, long pages) { b_inner(p, pages); KEEP(); }

static int faults(long pages)
{
	struct rusage before, after;
	char *a = map(pages), *b = map(pages), warm[4096];

	/* Everything that the window uses has been used before it: stack, vdso, memset. */
	memset(warm, 1, sizeof(warm));
	library_touch(warm, 1);
	getrusage(RUSAGE_SELF, &before);
	getrusage(RUSAGE_SELF, &after);
	now();
	getrusage(RUSAGE_SELF, &before);
	long long from = now();
	/* Alternating: a stack must not be taken for the one before it. */
	for (long i = 0; i < pages; i += 10) {
		long n = pages - i < 10 ? pages - i : 10;
		a_outer(a + i * PAGE, n);
		b_outer(b + i * PAGE, n);
	}
	long long to = now();
	getrusage(RUSAGE_SELF, &after);
	printf("{\"pid\":%d,\"from\":%lld,\"to\":%lld,\"minflt\":%ld,\"majflt\":%ld,\"pages\":%ld,"
	       "\"a\":%lu,\"b\":%lu}\n",
	       getpid(), from, to, after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt, pages,
	       (unsigned long)a, (unsigned long)b);
	return 0;
}

/* The same depth and the same frames below: only the outermost return address differs. */
NOINLINE void warm_up(char *p, long from, long to)
{
	for (long i = from; i < to; i++)
		a_outer(p + i * PAGE, 1);
	KEEP();
}

NOINLINE void serve(char *p, long from, long to)
{
	for (long i = from; i < to; i++)
		a_outer(p + i * PAGE, 1);
	KEEP();
}

NOINLINE static int callers(long pages)
{
	char *p = map(pages);

	warm_up(p, 0, 1);
	serve(p, 1, pages / 2);
	warm_up(p, pages / 2, pages / 2 + 1);
	serve(p, pages / 2 + 1, pages);
	printf("{\"pid\":%d,\"pages\":%ld,\"a\":%lu}\n", getpid(), pages, (unsigned long)p);
	return 0;
}

/* Which of the two it is, no register tells: all state is in memory, and what leads to them is overwritten. */
static char *volatile next_page;

NOINLINE void touch_next(void)
{
	char *p = next_page;

	next_page = p + PAGE;
	*p = 1;
	KEEP();
}

NOINLINE void first_twin(void) { touch_next(); KEEP(); }
NOINLINE void second_twin(void) { touch_next(); KEEP(); }

NOINLINE static int twins(long pages, long first, long second)
{
	char *p = map(pages);
	void (**caller)(void) = malloc(pages * sizeof(*caller));

	for (long i = 0; i < pages; i++)
		caller[i] = i % (first + second) < first ? first_twin : second_twin;
	next_page = p;
	for (long i = 0; i < pages; i++)
		caller[i]();
	printf("{\"pid\":%d,\"pages\":%ld,\"a\":%lu}\n", getpid(), pages, (unsigned long)p);
	return 0;
}

static int children(char *self, long n)
{
	for (long i = 0; i < n; i++) {
		pid_t child = fork();
		if (child == 0) {
			execl(self, self, "faults", "100", (char *)NULL);
			_exit(4);
		}
		int status;
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			return 5;
	}
	return 7;
}

int main(int argc, char **argv)
{
	long n = argc > 2 ? atol(argv[2]) : 0;
	if (argc > 1 && !strcmp(argv[1], "faults"))
		return faults(n);
	if (argc > 1 && !strcmp(argv[1], "fork"))
		return children(argv[0], n);
	if (argc > 1 && !strcmp(argv[1], "callers"))
		return callers(n);
	if (argc > 1 && !strcmp(argv[1], "twins"))
		return argc > 4 ? twins(n, atol(argv[3]), atol(argv[4])) : 8;
	if (argc > 1 && !strcmp(argv[1], "touch")) {
		a_outer(map(n), n);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "wait")) {
		char byte, *p = map(100);

		if (read(0, &byte, 1) != 1)
			return 6;
		a_outer(p, 100);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "loop")) {
		for (;;) {
			char *p = map(1024);
			a_outer(p, 1024);
			munmap(p, 1024 * PAGE);
			usleep(1000);
		}
	}
	return 2;
}
