/* The counting engine: one process, every access through the door is counted, and one of them may be trapped.
 *
 *   kinds      accesses by kind, since the last reset
 *   watched    the same for accesses that touch one range of addresses
 *   trap       before the access number `skip` of those of certain kinds to a range, a function is called, once:
 *              it may run other CPUs' operations there, as if the first CPU had been preempted at that very access
 *
 * Everything runs in one process, so that nobody can be waited for: a wait is a test's mistake and ends it.
 */
#ifndef SHMM_TESTS_COUNT_H
#define SHMM_TESTS_COUNT_H

#include <stdio.h>
#include <stdlib.h>

enum { COUNT_KINDS = SHMM_FENCE + 1, COUNT_PATIENCE = 1000000 };

typedef struct { uintptr_t from, size; uint64_t kinds[COUNT_KINDS]; } count_range_t;

static uint64_t      count_kinds[COUNT_KINDS];
static uint64_t      count_bulk;            /* bytes copied or cleared whole */
static count_range_t count_watched;
static uintptr_t     count_trap_from, count_trap_size;
static uint32_t      count_trap_kinds;      /* bit per kind; 0: no trap is set */
static uint64_t      count_trap_skip;
static void        (*count_trap_call)(void);
static uint64_t      count_clock;

static inline int count_touches(uintptr_t at, size_t size, uintptr_t from, uintptr_t length)
{
	return at < from + length && from < at + size;
}

static inline void count_access(const void *p, size_t size, enum shmm_access kind)
{
	uintptr_t at = (uintptr_t)p;

	count_kinds[kind]++;
	if (count_touches(at, size, count_watched.from, count_watched.size))
		count_watched.kinds[kind]++;
	if (count_trap_kinds >> kind & 1 && count_touches(at, size, count_trap_from, count_trap_size)
	    && count_trap_skip-- == 0) {
		count_trap_kinds = 0;
		count_trap_call();
	}
}

#define SHMM_HOOK(ptr, size, kind)      count_access((ptr), (size), (kind))
#define SHMM_HOOK_FENCE(kind)           ((void)count_kinds[kind]++)
#define SHMM_HOOK_BULK(ptr, size, kind) ((void)(count_bulk += (size)))

static inline void count_stuck(const char *what)
{
	fprintf(stderr, "counting engine: %s, but there is nobody to wait for\n", what);
	abort();
}

static inline void cpu_relax(uint32_t n)
{
	if (n > COUNT_PATIENCE)
		count_stuck("a spin loop does not end");
}

static inline uint32_t spin_turns(uint32_t n) { return n; }
static inline void     cpu_pause(void) { }
static inline void     futex_wait(a32 *word, uint32_t value, uint64_t timeout_ns) { count_stuck("a CPU sleeps"); }
static inline void     futex_wake(a32 *word, uint32_t how_many) { }
static inline int      core_is_due(void) { return 0; }
static inline void     yield_core(void) { }
static inline void     ring_doorbell(uint32_t host_pid) { }
static inline uint64_t now_ns(void) { return ++count_clock; }

#endif
