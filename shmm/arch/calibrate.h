/* Calibration: how long this machine takes for what a cost model of it must charge for.
 *
 * A launch is a few fresh, pinned processes over one shared area; each executes the same method in a role of its own
 * (role 0 measures, role 1 is its peer) and reports once.  Whoever starts launches judges them: a report holds what
 * shows that the peer was not running (its share of the operations, how long a line stayed, context switches).
 *
 * Times are medians over short chunks, so that an interrupt spoils one chunk and not the figure.  Whoever spins looks
 * at the clock now and then: nobody waits longer than CAL_DEADLINE_NS, or once somebody has given up (area->stop).
 */
#ifndef SHMM_ARCH_CALIBRATE_H
#define SHMM_ARCH_CALIBRATE_H

#include <linux/membarrier.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "arch.h"

#define CAL_DEADLINE_NS 2000000000ull
#define CAL_STRETCH_NS  1000000ull      /* of methods that run for a time, not for a number of operations */
#define CAL_SETTLE_NS   60000ull        /* from the announcement of a sleep until the sleeper is surely asleep */

enum { CAL_PROCESSES = 512, CAL_VALUES = 4, CAL_CHUNKS = 33, CAL_SAMPLES = 2000, CAL_PAGE = 4096, CAL_RING = 8 };

/* Two lines apart: the neighbour of a line is fetched along with it on many machines. */
#define CAL_APART _Alignas(128)

typedef struct {
	CAL_APART double value[CAL_VALUES];     /* ns, unless the method says otherwise */
	uint64_t ops, losses;
	int64_t  voluntary, involuntary;        /* context switches while it measured */
	int32_t  status, finished;              /* 0 or a negative errno; whether there is a report at all */
} cal_result_t;

typedef struct {
	CAL_APART a64 arrived;                  /* processes at the gate */
	CAL_APART a64 stop;                     /* somebody has given up */
	CAL_APART a64 line;                     /* the line that moves */
	CAL_APART a64 order;                    /* role 0 -> role 1: number of what is wanted next */
	CAL_APART a64 done;                     /* role 1 -> role 0: number of what has been done */
	CAL_APART a64 stamp;                    /* when, by role 1's clock */
	CAL_APART a64 pid;                      /* of role 1 */
	CAL_APART a32 word;                     /* to sleep on */
	cal_result_t result[CAL_PROCESSES];
} cal_area_t;

/* A process's own side. */
typedef struct {
	cal_area_t    *area;
	cal_result_t  *out;
	unsigned char *buffer;                  /* private memory, present; size 0 if the method needs none */
	size_t         size, position;
	uint64_t       deadline;
	uint32_t       role, processes;
	CAL_APART a64  own;
	struct { CAL_APART void *next; } ring[CAL_RING];
	struct { CAL_APART a64 next; } walk[CAL_RING];
} cal_t;

typedef int  cal_method_t(cal_t *);
typedef void cal_loop_t(cal_t *, uint64_t n);

/* ---- clocks and statistics ---- */

/* The finest clock there is; read after all loads before it, and before all after it. */
static inline uint64_t cal_ticks(void)
{
#if defined(__x86_64__)
	uint32_t low, high;
	__asm__ __volatile__("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) :: "memory");
	return (uint64_t)high << 32 | low;
#elif defined(__aarch64__)
	uint64_t t;
	__asm__ __volatile__("isb\n\tmrs %0, cntvct_el0\n\tisb" : "=r"(t) :: "memory");
	return t;
#else
	return now_ns();
#endif
}

static int cal_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double cal_median(double *x, size_t n)
{
	qsort(x, n, sizeof(*x), cal_compare);
	return x[n / 2];
}

/* The mean of the middle half: finer than the clock's step, which a median is not, and as deaf to outliers. */
static double cal_middle(double *x, size_t n)
{
	double sum = 0;
	size_t low = n / 4, high = n - n / 4;
	qsort(x, n, sizeof(*x), cal_compare);
	for (size_t i = low; i < high; i++)
		sum += x[i];
	return sum / (double)(high - low);
}

/* ns for each of n turns of a loop. */
static double cal_timed(cal_t *c, cal_loop_t *loop, uint64_t n)
{
	double t[CAL_CHUNKS];
	loop(c, n);
	for (int i = 0; i < CAL_CHUNKS; i++) {
		uint64_t start = now_ns();
		loop(c, n);
		t[i] = (double)(now_ns() - start) / (double)n;
	}
	return cal_median(t, CAL_CHUNKS);
}

/* ---- waiting for each other ---- */

static int cal_given_up(cal_t *c)
{
	return now_ns() > c->deadline || ld64_relaxed(&c->area->stop);
}

static int cal_expired(cal_t *c, uint32_t *turns)
{
	return ++*turns % 1024 == 0 && cal_given_up(c);
}

/* 0 once the cell holds the value, else -ETIMEDOUT.  No pause: what is waited for is a matter of nanoseconds. */
static int cal_wait(cal_t *c, const a64 *cell, uint64_t value)
{
	uint32_t turns = 0;
	while (ld64_acquire(cell) != value)
		if (cal_expired(c, &turns))
			return -ETIMEDOUT;
	return 0;
}

static void cal_idle(cal_t *c, uint64_t ns)
{
	for (uint64_t until = now_ns() + ns; now_ns() < until && !cal_given_up(c); )
		cpu_pause();
}

static int cal_gate(cal_t *c)
{
	fetch_add64(&c->area->arrived, 1);
	for (uint32_t n = 0; ld64_acquire(&c->area->arrived) != c->processes; n++) {
		cpu_relax(n);           /* yields after a while: the others may need this core to start */
		if (cal_given_up(c))
			return -ETIMEDOUT;
	}
	return 0;
}

/* ---- one process ---- */

#define CAL_KEEP(x) __asm__ __volatile__("" : "+r"(x))

static void cal_loop_chain(cal_t *c, uint64_t n)
{
	uint64_t x = n, y = c->position, z = c->role;
	CAL_KEEP(y);
	CAL_KEEP(z);
	while (n--) {                   /* two instructions of a cycle each, either waiting for the other */
		x += y;
		CAL_KEEP(x);
		x ^= z;
		CAL_KEEP(x);
	}
}

static void cal_loop_load(cal_t *c, uint64_t n)
{
	void **p = &c->ring[0].next;
	while (n--) {
		p = *p;
		CAL_KEEP(p);
	}
}

/* A load that decides where to go on, a test, a counter: three accesses, as rooms have them. */
static void cal_loop_walk(cal_t *c, uint64_t n)
{
	for (uint64_t i = 0; n--; ) {
		i = ld64_relaxed(&c->walk[i].next);
		if (i >= CAL_RING)
			break;
		add_owned64(&c->own, 1);
	}
}

/* The old value is wanted, as a lock wants it: without, x86 would do with a cheaper instruction. */
static void cal_loop_rmw(cal_t *c, uint64_t n)
{
	while (n--) {
		uint64_t old = fetch_add64(&c->own, 1);
		CAL_KEEP(old);
	}
}

static void cal_loop_fence(cal_t *c, uint64_t n)   { while (n--) { st64_relaxed(&c->own, n); smp_mb(); } }
static void cal_loop_pause(cal_t *c, uint64_t n)   { while (n--) cpu_pause(); }
static void cal_loop_syscall(cal_t *c, uint64_t n) { while (n--) syscall(SYS_getppid); }

/* GHz, as a chain of instructions of one cycle each shows it. */
static int cal_clock(cal_t *c)   { c->out->value[0] = 2 / cal_timed(c, cal_loop_chain, 20000); return 0; }
static int cal_fence(cal_t *c)   { c->out->value[0] = cal_timed(c, cal_loop_fence, 5000); return 0; }
static int cal_rmw(cal_t *c)     { c->out->value[0] = cal_timed(c, cal_loop_rmw, 5000); return 0; }
static int cal_pause(cal_t *c)   { c->out->value[0] = cal_timed(c, cal_loop_pause, 1000); return 0; }
static int cal_syscall(cal_t *c) { c->out->value[0] = cal_timed(c, cal_loop_syscall, 500); return 0; }

/* A load that the next one waits for; and one access of a walk in which the processor may overlap what it can. */
static int cal_load(cal_t *c)
{
	c->out->value[0] = cal_timed(c, cal_loop_load, 20000);
	c->out->value[1] = cal_timed(c, cal_loop_walk, 10000) / 3;
	return 0;
}

static uint64_t cal_gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

/* Step and cost of the finest clock, least step and cost of the system's. */
static int cal_timer(cal_t *c)
{
	static double ticks[CAL_SAMPLES], cost[CAL_SAMPLES];
	uint64_t start = now_ns(), first = cal_ticks(), step = 0, least = UINT64_MAX;
	for (int i = 0; i < CAL_SAMPLES; i++) {
		uint64_t t = cal_ticks(), read = cal_ticks() - t, n = now_ns(), later = now_ns();
		step = cal_gcd(step, t - first);
		ticks[i] = (double)read;
		cost[i] = (double)(later - n);
		if (later > n && later - n < least)
			least = later - n;
	}
	double scale = (double)(now_ns() - start) / (double)(cal_ticks() - first);
	c->out->value[0] = (double)step * scale;
	c->out->value[1] = cal_middle(ticks, CAL_SAMPLES) * scale;
	c->out->value[2] = (double)least;
	c->out->value[3] = cal_middle(cost, CAL_SAMPLES);
	return 0;
}

/* Pages that no cache holds: the first half of the buffer, which the second half has pushed out. */
static size_t cal_cold_pages(const cal_t *c) { return c->size / CAL_PAGE / 2; }

/* A load that misses every cache: where to is known only once the load before has come back.  The buffer holds zeros. */
static void cal_loop_memory(cal_t *c, uint64_t n)
{
	uint64_t x = c->position, lines = cal_cold_pages(c) * (CAL_PAGE / 64);
	while (n--)
		x = x * 6364136223846793005ull + 1442695040888963407ull
		    + c->buffer[(uint64_t)((unsigned __int128)x * lines >> 64) * 64];
	c->position = x;
}

static int cal_memory(cal_t *c) { c->out->value[0] = cal_timed(c, cal_loop_memory, 500); return 0; }

/* Pages of the buffer in an order that no prefetcher follows; none comes again before all others have. */
static unsigned char *cal_next_page(cal_t *c, size_t pages)
{
	return c->buffer + c->position++ * 7919 % pages * CAL_PAGE;
}

static void cal_loop_clear_hot(cal_t *c, uint64_t n)  { while (n--) clear_page(c->buffer, CAL_PAGE); }
static void cal_loop_copy_hot(cal_t *c, uint64_t n)
{ while (n--) copy_page(c->buffer, c->buffer + CAL_PAGE, CAL_PAGE); }
static void cal_loop_clear_cold(cal_t *c, uint64_t n)
{ while (n--) clear_page(cal_next_page(c, cal_cold_pages(c)), CAL_PAGE); }
static void cal_loop_copy_cold(cal_t *c, uint64_t n)
{
	size_t half = cal_cold_pages(c) / 2;
	while (n--) {
		unsigned char *to = cal_next_page(c, half);
		copy_page(to, to + half * CAL_PAGE, CAL_PAGE);
	}
}

static int cal_clear(cal_t *c)
{
	c->out->value[0] = cal_timed(c, cal_loop_clear_hot, 500);
	c->out->value[1] = cal_timed(c, cal_loop_clear_cold, 100);
	return 0;
}

static int cal_copy(cal_t *c)
{
	c->out->value[0] = cal_timed(c, cal_loop_copy_hot, 500);
	c->out->value[1] = cal_timed(c, cal_loop_copy_cold, 100);
	return 0;
}

/* GB/s of a process that clears while all others do. */
static int cal_bandwidth(cal_t *c)
{
	uint64_t start = now_ns(), now;
	do
		cal_loop_clear_cold(c, 16);
	while (c->out->ops += 16, (now = now_ns()) - start < CAL_STRETCH_NS);
	c->out->value[0] = (double)(c->out->ops * CAL_PAGE) / (double)(now - start);
	return 0;
}

static double cal_each_page(cal_t *c, int write)
{
	uint64_t start = now_ns();
	for (size_t at = 0; at < c->size; at += CAL_PAGE)
		if (write)
			st_user(c->buffer + at, 1);
		else
			ld_user(c->buffer + at);
	return (double)(now_ns() - start) / ((double)c->size / CAL_PAGE);
}

/* An anonymous fault that writes; what clearing these pages costs, which were last touched as long ago as the fault
 * found them; a fault that reads, which gets the page of zeros: no allocation, no clearing. */
static int cal_fault(cal_t *c)
{
	enum { ROUNDS = 5 };
	double write[ROUNDS], clear[ROUNDS], read[ROUNDS];
	for (int i = 0; i < ROUNDS; i++) {
		if (madvise(c->buffer, c->size, MADV_DONTNEED))
			return -errno;
		write[i] = cal_each_page(c, 1);
		uint64_t start = now_ns();
		for (size_t at = 0; at < c->size; at += CAL_PAGE)
			clear_page(c->buffer + at, CAL_PAGE);
		clear[i] = (double)(now_ns() - start) / ((double)c->size / CAL_PAGE);
		if (madvise(c->buffer, c->size, MADV_DONTNEED))
			return -errno;
		read[i] = cal_each_page(c, 0);
	}
	c->out->value[0] = cal_median(write, ROUNDS);
	c->out->value[1] = cal_median(clear, ROUNDS);
	c->out->value[2] = cal_median(read, ROUNDS);
	return 0;
}

#include "calibrate_pair.h"

/* ---- one launch ---- */

#define CAL_METHODS(X) \
	X(clock) X(load) X(rmw) X(fence) X(pause) X(timer) X(memory) X(clear) X(copy) X(bandwidth) X(syscall) X(fault) \
	X(pingpong) X(handshake) X(contended) X(signal) X(membarrier) X(futex_pair) X(handoff)

#define CAL_FUNCTION(name) cal_##name,
#define CAL_NAME(name) #name,
static cal_method_t *const cal_methods[] = { CAL_METHODS(CAL_FUNCTION) };
static const char *const cal_names[] = { CAL_METHODS(CAL_NAME) };
enum { CAL_NMETHODS = sizeof(cal_methods) / sizeof(*cal_methods) };

static void cal_count_switches(cal_result_t *out, int sign)
{
	struct rusage usage;
	getrusage(RUSAGE_THREAD, &usage);
	out->voluntary += sign * usage.ru_nvcsw;
	out->involuntary += sign * usage.ru_nivcsw;
}

/* Executes a method in a role and leaves the report in the area.  Returns its status. */
static int cal_run(cal_area_t *area, int method, uint32_t role, uint32_t processes, unsigned char *buffer, size_t size)
{
	static cal_t c;
	cal_result_t *out = &area->result[role];
	c = (cal_t){ .area = area, .out = out, .buffer = buffer, .size = size, .role = role, .processes = processes,
		     .deadline = now_ns() + CAL_DEADLINE_NS };
	for (uint64_t i = 0; i < CAL_RING; i++) {
		c.ring[i].next = &c.ring[(i + 1) % CAL_RING].next;
		c.walk[i].next.v = (i + 1) % CAL_RING;
	}
	for (size_t at = 0; at < size; at += CAL_PAGE)
		st_user(buffer + at, 0);
	cal_prepare(&c);
	out->status = cal_gate(&c);
	if (out->status == 0) {
		cal_count_switches(out, -1);
		out->status = cal_methods[method](&c);
		cal_count_switches(out, 1);
	}
	if (out->status)
		st64_release(&area->stop, 1);
	out->finished = 1;
	return out->status;
}

#endif
