/*
 * memcalls: a known number of each memory call, to check a recording with.
 *
 *     memcalls [FILE]          FILE: what the file mappings map; default: this program
 *
 * The main thread, two more threads and a forked child call mmap, munmap,
 * mremap, brk, mprotect and madvise, succeeding and failing on purpose, and
 * write to memory: fresh pages, copy-on-write pages, file pages. Every call goes
 * through counted(), which notes what the kernel really answered. One line of
 * JSON says what each of them did; then it waits for a byte (or the end) on
 * standard input, so that /proc/PID/maps can be read, and exits.
 *
 * The C library makes memory calls of its own. Those of the main thread between
 * its two marker calls, madvise(MARKER_ADDR, 0, MARKER_BEGIN or MARKER_END),
 * both of which fail with EINVAL, are exactly the counted ones. So are all calls
 * of the child and of each thread between theirs.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MARKER_BEGIN = 1000001, MARKER_END = 1000002 };
#define MARKER_ADDR 0x6d740000UL

enum call { MMAP, MUNMAP, MREMAP, BRK, MPROTECT, MADVISE, CALLS };
static const char *const call_names[CALLS] = { "mmap", "munmap", "mremap", "brk", "mprotect", "madvise" };
static const long call_numbers[CALLS] = { SYS_mmap,     SYS_munmap,   SYS_mremap,
					  SYS_brk,      SYS_mprotect, SYS_madvise };

enum { MAX_ERRNO = 134, THREADS = 2, STACK_BYTES = 256 << 10 };

/* What one thread did. */
struct actor {
	const char *role;
	pid_t pid, tid;
	long ok[CALLS];
	long failed[CALLS][MAX_ERRNO];
	long anon_write_pages; /* first touches by a write, anonymous private */
	long anon_read_pages;  /* first touches by a read: the zero page */
	long cow_pages;        /* writes to a present page shared with the parent or the zero page */
	long file_read_pages;  /* private file pages read; fault-around may need fewer faults */
	long file_cow_pages;   /* private file pages written */
	long shared_pages;     /* first touches of shared anonymous memory */
};

static size_t page;

static void fail(const char *what)
{
	fprintf(stderr, "memcalls: %s: %s\n", what, strerror(errno));
	_exit(1);
}

/*
 * One call, past the C library. brk does not return an error: it returns the
 * break, which is another than the one asked for when it failed; that is
 * counted as ENOMEM.
 */
__attribute__((noinline)) static long counted(struct actor *who, enum call call, unsigned long a,
					      unsigned long b, unsigned long c, unsigned long d, long e,
					      unsigned long f)
{
	long result = syscall(call_numbers[call], a, b, c, d, e, f);
	int error = result == -1 ? errno : 0;
	if (call == BRK && a && (unsigned long)result != a)
		error = ENOMEM;
	if (error)
		who->failed[call][error < MAX_ERRNO ? error : 0]++;
	else
		who->ok[call]++;
	errno = error;
	return result;
}

static char *do_mmap(struct actor *who, void *at, size_t bytes, int prot, int flags, int fd)
{
	return (char *)counted(who, MMAP, (unsigned long)at, bytes, prot, flags, fd, 0);
}

static char *anon(struct actor *who, size_t pages)
{
	char *base = do_mmap(who, NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (base == MAP_FAILED)
		fail("mmap");
	/* So that pages and faults are the same number. Fails on kernels without huge pages only. */
	counted(who, MADVISE, (unsigned long)base, pages * page, MADV_NOHUGEPAGE, 0, 0, 0);
	return base;
}

static long do_munmap(struct actor *who, void *at, size_t bytes)
{
	return counted(who, MUNMAP, (unsigned long)at, bytes, 0, 0, 0, 0);
}

static long do_mprotect(struct actor *who, void *at, size_t bytes, int prot)
{
	return counted(who, MPROTECT, (unsigned long)at, bytes, prot, 0, 0, 0);
}

static long do_madvise(struct actor *who, void *at, size_t bytes, int advice)
{
	return counted(who, MADVISE, (unsigned long)at, bytes, advice, 0, 0, 0);
}

static void marker(struct actor *who, int which)
{
	who->pid = getpid();
	who->tid = gettid();
	if (do_madvise(who, (void *)MARKER_ADDR, 0, which) != -1)
		fail("the marker call succeeded");
}

__attribute__((noinline)) static void write_pages(volatile char *base, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		base[i * page] = 1;
}

__attribute__((noinline)) static char read_pages(volatile const char *base, size_t pages)
{
	char sum = 0;
	for (size_t i = 0; i < pages; i++)
		sum ^= base[i * page];
	return sum;
}

/* Maps that stay until the exit: splits, merges, growth in place and by moving. */
static void shape_address_space(struct actor *who)
{
	/* One map cut into pieces: r, rw, none, rw, a hole, rw. */
	char *split = anon(who, 64);
	do_mprotect(who, split, 8 * page, PROT_READ);
	do_mprotect(who, split + 16 * page, 8 * page, PROT_NONE);
	do_munmap(who, split + 40 * page, 8 * page);
	write_pages(split + 48 * page, 16);
	who->anon_write_pages += 16;

	/* Cut and healed again: one map. */
	char *healed = anon(who, 32);
	do_mprotect(who, healed + 8 * page, 8 * page, PROT_READ);
	do_mprotect(who, healed + 8 * page, 8 * page, PROT_READ | PROT_WRITE);

	/* A map laid over the middle of another; the old pages are gone. */
	char *overlaid = anon(who, 32);
	write_pages(overlaid, 32);
	who->anon_write_pages += 32;
	if (do_mmap(who, overlaid + 8 * page, 8 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		    -1) == MAP_FAILED)
		fail("mmap over");

	/* Shrunk in place, then grown and moved onto a chosen place. */
	char *moved = anon(who, 32);
	write_pages(moved, 16);
	who->anon_write_pages += 16;
	if (counted(who, MREMAP, (unsigned long)moved, 32 * page, 16 * page, 0, 0, 0) == -1)
		fail("mremap shrink");
	char *target = do_mmap(who, NULL, 128 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (target == MAP_FAILED ||
	    counted(who, MREMAP, (unsigned long)moved, 16 * page, 64 * page, MREMAP_MAYMOVE | MREMAP_FIXED,
		    (long)(target + 32 * page), 0) == -1)
		fail("mremap move");
	write_pages(target + (32 + 16) * page, 48);
	who->anon_write_pages += 48;

	/* Purged and touched again: the same 16 pages, twice. */
	char *purged = anon(who, 16);
	write_pages(purged, 16);
	do_madvise(who, purged, 16 * page, MADV_DONTNEED);
	write_pages(purged, 16);
	who->anon_write_pages += 32;

	/* Read first (the zero page), then written (a copy of it). */
	char *zero = anon(who, 16);
	read_pages(zero, 16);
	write_pages(zero, 16);
	who->anon_read_pages += 16;
	who->cow_pages += 16;
}

/* Private and shared maps of a file, and shared anonymous memory. */
static void map_files(struct actor *who, int fd, size_t file_pages)
{
	size_t pages = file_pages < 4 ? file_pages : 4;
	char *shared = do_mmap(who, NULL, pages * page, PROT_READ, MAP_SHARED, fd);
	char *private = do_mmap(who, NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	if (shared == MAP_FAILED || private == MAP_FAILED)
		fail("mmap of the file");
	read_pages(shared, pages);
	read_pages(private, pages);
	who->file_read_pages += 2 * pages;
	write_pages(private, pages);
	who->file_cow_pages += pages;

	char *memory = do_mmap(who, NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	if (memory == MAP_FAILED)
		fail("mmap of shared memory");
	write_pages(memory, 8);
	who->shared_pages += 8;
}

/* The heap: asked for, grown, touched, shrunk. */
static void move_break(struct actor *who)
{
	unsigned long now = (unsigned long)counted(who, BRK, 0, 0, 0, 0, 0, 0);
	unsigned long base = (now + page - 1) / page * page;
	counted(who, BRK, base + 64 * page, 0, 0, 0, 0, 0);
	if (errno)
		fail("brk");
	write_pages((char *)base + page, 32);
	who->anon_write_pages += 32;
	counted(who, BRK, base + 40 * page, 0, 0, 0, 0, 0);
}

/* Calls that the kernel refuses, each for its own reason. */
static void provoke_errors(struct actor *who)
{
	const size_t huge = 1UL << 46; /* more than RAM and swap: the overcommit heuristic says no */
	char *room = anon(who, 8);

	do_mmap(who, NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);           /* EINVAL */
	do_mmap(who, NULL, page, PROT_READ, MAP_PRIVATE, -1);                        /* EBADF */
	do_munmap(who, room + 1, page);                                              /* EINVAL */
	do_mprotect(who, room + 1, page, PROT_READ);                                 /* EINVAL */
	do_madvise(who, room, page, 12345);                                          /* EINVAL */
	counted(who, MREMAP, (unsigned long)room, page, 2 * page, 0x40, 0, 0);       /* EINVAL */
	do_munmap(who, room, 8 * page);
	do_mprotect(who, room, page, PROT_READ);                                     /* ENOMEM: nothing there */
	do_madvise(who, room, page, MADV_WILLNEED);                                  /* ENOMEM: nothing there */

	/* Overcommit (not on hosts that allow everything): writable at once, then by mprotect. */
	char *map = do_mmap(who, NULL, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (map != MAP_FAILED)
		do_munmap(who, map, huge);
	map = do_mmap(who, NULL, huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (map != MAP_FAILED) {
		do_mprotect(who, map, huge, PROT_READ | PROT_WRITE);
		do_munmap(who, map, huge);
	}
}

/* Limits of the process itself: lowered, run into, put back. */
static void run_into_limit(struct actor *who, int resource)
{
	struct rlimit old, low;
	if (getrlimit(resource, &old))
		fail("getrlimit");
	low = old;
	low.rlim_cur = 4 << 20; /* less than is in use: nothing more is granted */
	if (setrlimit(resource, &low))
		fail("setrlimit");
	for (int i = 0; i < 3; i++)
		do_mmap(who, NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (resource == RLIMIT_AS) {
		unsigned long now = (unsigned long)counted(who, BRK, 0, 0, 0, 0, 0, 0);
		counted(who, BRK, now + (16 << 20), 0, 0, 0, 0, 0);
	}
	if (setrlimit(resource, &old))
		fail("setrlimit");
}

static void *thread_main(void *argument)
{
	struct actor *who = argument;
	pthread_setname_np(pthread_self(), who->role);
	marker(who, MARKER_BEGIN);
	for (int i = 0; i < 50; i++) {
		char *churn = anon(who, 16);
		write_pages(churn, 16);
		who->anon_write_pages += 16;
		do_munmap(who, churn, 16 * page);
	}
	marker(who, MARKER_END);
	return NULL;
}

/* On stacks of our own: the C library needs no map for them. */
static void run_threads(struct actor *who, char *stacks)
{
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++) {
		pthread_attr_t attributes;
		pthread_attr_init(&attributes);
		pthread_attr_setstack(&attributes, stacks + i * STACK_BYTES, STACK_BYTES);
		errno = pthread_create(&threads[i], &attributes, thread_main, &who[i]);
		if (errno)
			fail("pthread_create");
		pthread_attr_destroy(&attributes);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

/* The child writes to half of its parent's pages and keeps a map of its own. */
static void run_child(struct actor *who, char *inherited, size_t pages)
{
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		marker(who, MARKER_BEGIN);
		write_pages(inherited, pages / 2);
		who->cow_pages += pages / 2;
		char *own = anon(who, 32);
		write_pages(own, 32);
		who->anon_write_pages += 32;
		do_munmap(who, inherited, pages / 4 * page);
		marker(who, MARKER_END);
		_exit(0);
	}
	int status;
	if (waitpid(child, &status, 0) != child || status)
		fail("the child failed");
}

static void print_calls(const struct actor *who)
{
	for (int call = 0; call < CALLS; call++) {
		long failed = 0;
		for (int i = 0; i < MAX_ERRNO; i++)
			failed += who->failed[call][i];
		printf("%s\"%s\":{\"ok\":%ld,\"failed\":%ld,\"errno\":{", call ? "," : "", call_names[call],
		       who->ok[call], failed);
		bool first = true;
		for (int i = 0; i < MAX_ERRNO; i++) {
			if (!who->failed[call][i])
				continue;
			printf("%s\"%d\":%ld", first ? "" : ",", i, who->failed[call][i]);
			first = false;
		}
		printf("}}");
	}
}

static void print_actor(const struct actor *who, bool first)
{
	printf("%s{\"role\":\"%s\",\"pid\":%d,\"tid\":%d,\"calls\":{", first ? "" : ",", who->role, who->pid,
	       who->tid);
	print_calls(who);
	printf("},\"anon_write_pages\":%ld,\"anon_read_pages\":%ld,\"cow_pages\":%ld,"
	       "\"file_read_pages\":%ld,\"file_cow_pages\":%ld,\"shared_pages\":%ld}",
	       who->anon_write_pages, who->anon_read_pages, who->cow_pages, who->file_read_pages,
	       who->file_cow_pages, who->shared_pages);
}

int main(int argc, char **argv)
{
	page = (size_t)sysconf(_SC_PAGESIZE);
	const char *path = argc > 1 ? argv[1] : "/proc/self/exe";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail(path);
	off_t size = lseek(fd, 0, SEEK_END);
	if (size < (off_t)page) {
		fprintf(stderr, "memcalls: %s: smaller than a page\n", path);
		return 1;
	}

	/* Shared with the child, so that its counts come back. */
	size_t actors_bytes = sizeof(struct actor) * (2 + THREADS);
	struct actor *actors =
		mmap(NULL, actors_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *stacks = mmap(NULL, THREADS * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (actors == MAP_FAILED || stacks == MAP_FAILED)
		fail("mmap");
	struct actor *main_thread = &actors[0], *threads = &actors[1], *child = &actors[1 + THREADS];
	main_thread->role = "main";
	threads[0].role = "thread-1";
	threads[1].role = "thread-2";
	child->role = "child";
	/* From here on malloc has room and needs no call of its own. Volatile: or else the compiler drops the pair. */
	void *volatile room = malloc(4096);
	free(room);

	marker(main_thread, MARKER_BEGIN);
	shape_address_space(main_thread);
	map_files(main_thread, fd, (size_t)size / page);
	move_break(main_thread);
	provoke_errors(main_thread);
	run_into_limit(main_thread, RLIMIT_AS);
	run_into_limit(main_thread, RLIMIT_DATA);
	run_threads(threads, stacks);
	char *inherited = anon(main_thread, 256);
	write_pages(inherited, 256);
	main_thread->anon_write_pages += 256;
	run_child(child, inherited, 256);
	marker(main_thread, MARKER_END);

	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"pid\":%d,\"marker_addr\":%lu,\"marker_begin\":%d,\"marker_end\":%d,\"minflt\":%ld,"
	       "\"majflt\":%ld,\"actors\":[",
	       getpid(), MARKER_ADDR, MARKER_BEGIN, MARKER_END, usage.ru_minflt, usage.ru_majflt);
	for (int i = 0; i < 2 + THREADS; i++)
		print_actor(&actors[i], i == 0);
	puts("]}");
	fflush(stdout);

	char byte;
	while (read(STDIN_FILENO, &byte, 1) < 0 && errno == EINTR)
		;
	return 0;
}
