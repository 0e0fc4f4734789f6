/* Writes to its memory after a fork.
 *
 *   forkcow MIB fork    a child that lives meanwhile: every write copies a page
 *   forkcow MIB spawn   a program is started instead, and waited for (control)
 *
 * Prints one JSON line.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static __attribute__((noinline)) void write_table(volatile char *memory, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 4096)
		memory[i]++;
}

static __attribute__((noinline)) pid_t save_snapshot(void)
{
	pid_t child = fork();

	if (child < 0)
		abort();
	if (!child) {
		/* As long as it takes to write a file. */
		usleep(30000);
		_exit(0);
	}
	return child;
}

static pid_t start_program(void)
{
	char *argv[] = { "true", 0 };
	pid_t child;

	if (posix_spawnp(&child, "true", 0, 0, argv, environ))
		abort();
	waitpid(child, 0, 0);
	return 0;
}

int main(int argc, char **argv)
{
	struct rusage before, after;
	size_t bytes;
	char *memory;
	pid_t child;

	if (argc != 3)
		return 2;
	bytes = (size_t)atol(argv[1]) << 20;
	memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	getrusage(RUSAGE_SELF, &before);
	for (int round = 0; round < 20; round++) {
		child = strcmp(argv[2], "fork") ? start_program() : save_snapshot();
		write_table(memory, bytes);
		if (child)
			waitpid(child, 0, 0);
	}
	getrusage(RUSAGE_SELF, &after);
	printf("{\"pages\": %zu, \"minflt\": %ld}\n", bytes / 4096, after.ru_minflt - before.ru_minflt);
	return 0;
}
