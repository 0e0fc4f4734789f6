/*
 * pool: a service of threads that hand requests over: one reads, two work, one answers.
 *
 *     pool serve CASE AMOUNT SLOW    one connection on a free port of 127.0.0.1, plain HTTP
 *     pool client FILE COUNT         COUNT requests, one after the other, to "listening on ADDRESS" in FILE
 *
 * Request number SLOW is the slow one, by CASE:
 *
 *     touch         its worker touches AMOUNT MiB of fresh memory
 *     lock-touch    the janitor has the table's lock for that long: it touches AMOUNT MiB under it
 *     lock-compute  likewise, but it only computes for AMOUNT ms
 *     decoy-touch   as lock-compute, and a third thread touches memory all the while; the janitor stays busy afterwards
 *     decoy-compute as lock-touch, and a third thread computes all the while; the janitor stays busy afterwards
 *     beside        its worker computes for AMOUNT ms; meanwhile the janitor, without the lock, touches AMOUNT / 2 MiB
 *     compute       its worker computes for AMOUNT ms
 *     sleep         its worker sleeps AMOUNT ms
 *
 * Nobody tells the janitor: it looks every millisecond whether the request before SLOW has been answered. The client waits
 * 10 ms between requests.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 2, PLACES = 64 };

struct queue {
	pthread_mutex_t lock;
	pthread_cond_t filled;
	int items[PLACES];
	unsigned head, tail;
};

#define QUEUE { .lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER }

static struct queue requests = QUEUE, answers = QUEUE;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long table[1024];
static const char *which;
static long amount, slow;
static int answered, connection = -1;

static void put(struct queue *q, int item)
{
	pthread_mutex_lock(&q->lock);
	q->items[q->tail++ % PLACES] = item;
	pthread_cond_signal(&q->filled);
	pthread_mutex_unlock(&q->lock);
}

static int take(struct queue *q)
{
	int item;

	pthread_mutex_lock(&q->lock);
	while (q->head == q->tail)
		pthread_cond_wait(&q->filled, &q->lock);
	item = q->items[q->head++ % PLACES];
	pthread_mutex_unlock(&q->lock);
	return item;
}

static int is(const char *name)
{
	return !strcmp(which, name);
}

static int is_lock(void)
{
	return is("lock-touch") || is("lock-compute") || is("decoy-touch") || is("decoy-compute");
}

static __attribute__((noinline)) void touch_fresh(long mib)
{
	size_t bytes = (size_t)mib << 20;
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		exit(1);
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < bytes; i += 4096)
		memory[i] = 1;
	munmap(memory, bytes);
}

static __attribute__((noinline)) void compute(long ms)
{
	struct timespec from, now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	do
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < ms);
}

static __attribute__((noinline)) void build_page(void)
{
	touch_fresh(amount);
}

static __attribute__((noinline)) void grow_table(void)
{
	touch_fresh(amount);
}

static __attribute__((noinline)) void sweep_cache(void)
{
	touch_fresh(20);
}

static __attribute__((noinline)) void look_up(int item)
{
	pthread_mutex_lock(&table_lock);
	table[item % 1024]++;
	pthread_mutex_unlock(&table_lock);
}

static void *worker(void *unused)
{
	for (;;) {
		int item = take(&requests);

		look_up(item);
		compute(1);
		if (item == slow && is("touch"))
			build_page();
		else if (item == slow && (is("beside") || is("compute")))
			compute(amount);
		else if (item == slow && is("sleep"))
			usleep(amount * 1000);
		put(&answers, item);
	}
	return unused;
}

static void *writer(void *unused)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

	for (;;) {
		int item = take(&answers);

		if (write(connection, answer, sizeof(answer) - 1) < 0)
			exit(1);
		__atomic_store_n(&answered, item, __ATOMIC_SEQ_CST);
	}
	return unused;
}

static void *janitor(void *unused)
{
	while (__atomic_load_n(&answered, __ATOMIC_SEQ_CST) != slow - 1)
		usleep(1000);
	if (is("beside")) {
		usleep(9000);
		for (long i = 0; i < amount / 40; i++)
			sweep_cache();
	} else if (is_lock()) {
		usleep(3000);
		pthread_mutex_lock(&table_lock);
		if (is("lock-touch") || is("decoy-compute"))
			grow_table();
		else
			compute(amount);
		pthread_mutex_unlock(&table_lock);
		if (is("decoy-touch") || is("decoy-compute"))
			compute(30);
	}
	return unused;
}

/* Begins before the janitor and ends after it, and has nothing to do with anybody. */
static void *decoy(void *unused)
{
	/* Takes no CPU from those that are recorded at a higher priority. */
	struct sched_param none = { 0 };

	pthread_setschedparam(pthread_self(), SCHED_OTHER, &none);
	while (__atomic_load_n(&answered, __ATOMIC_SEQ_CST) != slow - 1)
		usleep(1000);
	while (__atomic_load_n(&answered, __ATOMIC_SEQ_CST) < slow)
		if (is("decoy-touch"))
			sweep_cache();
		else
			compute(10);
	return unused;
}

static int serve(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(addr);
	int one = 1, number = 0, listener = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t thread;
	char request[4096];

	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 1) ||
	    getsockname(listener, (void *)&addr, &size))
		return 1;
	for (int i = 0; i < WORKERS; i++)
		pthread_create(&thread, NULL, worker, NULL);
	pthread_create(&thread, NULL, writer, NULL);
	if (is("decoy-touch") || is("decoy-compute"))
		pthread_create(&thread, NULL, decoy, NULL);
	pthread_create(&thread, NULL, janitor, NULL);
	printf("listening on 127.0.0.1:%d\n", ntohs(addr.sin_port));
	fflush(stdout);
	connection = accept(listener, NULL, NULL);
	setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (read(connection, request, sizeof(request)) > 0)
		put(&requests, ++number);
	return 0;
}

static int client(const char *file, long count)
{
	static const char request[] = "GET /item HTTP/1.1\r\nHost: pool\r\n\r\n";
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int one = 1, port = 0, s = socket(AF_INET, SOCK_STREAM, 0);
	char answer[4096];

	for (int tries = 0; !port && tries < 5000; tries++) {
		FILE *f = fopen(file, "r");

		if (f && fscanf(f, "listening on 127.0.0.1:%d", &port) != 1)
			port = 0;
		if (f)
			fclose(f);
		usleep(2000);
	}
	addr.sin_port = htons(port);
	if (connect(s, (void *)&addr, sizeof(addr)))
		return 1;
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (long i = 0; i < count; i++) {
		if (write(s, request, sizeof(request) - 1) < 0 || read(s, answer, sizeof(answer)) <= 0)
			return 1;
		usleep(10000);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "client"))
		return client(argv[2], atol(argv[3]));
	if (argc != 5 || strcmp(argv[1], "serve"))
		return 2;
	which = argv[2];
	amount = atol(argv[3]);
	slow = atol(argv[4]);
	return serve();
}
