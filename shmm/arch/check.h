/* The check engine: each CPU is a fiber, every access through the door is a choice of who goes on, and what comes of it
 * is checked.
 *
 *   check/state.h      CPUs, undo log, hash of the segment
 *   check/race.h       vector clocks, freed memory
 *   check/tso.h        store buffers          check/weak.h   old values
 *   check/turn.h       where a CPU stops and goes on
 *   check/memory.h     what an access does, and check/page.h what is done to pages
 *   check/schedule.h   waiting, locks, operations
 *   check/explore.h    decisions, the depth-first search; check/strategies.h: random, PCT, replay
 *
 * An engine for one explorer per process: the state is one static variable.
 */
#ifndef SHMM_ARCH_CHECK_H
#define SHMM_ARCH_CHECK_H

#include "check/schedule.h"

#define SHMM_SITE(s)            (chk.site = (s))
#define SHMM_MUTANT(m)          (chk.mutant == (m))
#define SHMM_LOCKDEP(lock, event)       check_lockdep(lock, event)
#define SHMM_POISON(p, n, freed)        check_poison(p, n, freed)
#define SHMM_OPERATION(cpu, pc, begins) check_operation(cpu, pc, begins)

#define SHMM_LOAD(p, kind, order)     ((__typeof__((p)->v))check_load(&(p)->v, sizeof((p)->v), kind))
#define SHMM_STORE(p, x, kind, order) check_store(&(p)->v, sizeof((p)->v), x, kind)
#define SHMM_LOAD_PLAIN(p)            ((__typeof__((p)->v))check_load_plain(&(p)->v, sizeof((p)->v)))
#define SHMM_STORE_PLAIN(p, x)        check_store_plain(&(p)->v, sizeof((p)->v), x)
#define SHMM_ADD_OWNED(p, n)          check_add_owned(&(p)->v, n)
#define SHMM_LOAD_USER(p)             check_load_user(p)
#define SHMM_STORE_USER(p, x)         check_store_user(p, x)
#define SHMM_FENCE_DO(kind, order)    check_fence(kind)
#define SHMM_CLEAR_DO(page, n)        check_clear(page, (uint32_t)(n))
#define SHMM_FILL_PAGE_DO(page, byte, n) check_fill_page(page, byte, (uint32_t)(n))
#define SHMM_COPY_DO(to, from, n)     check_copy(to, from, (uint32_t)(n))
#define SHMM_FIND_DO(page, i)         check_find(page, i)
#define SHMM_FILL_DO(page, first, step) check_fill(page, first, step)
/* Nothing comes between: no other fiber runs before the next access. */
#define SHMM_RMW_DO(p, result, kind, expr) do {                          \
	check_rmw_begin(&(p)->v, sizeof((p)->v), kind);                                  \
	uint64_t check_before = (p)->v;                                  \
	result = expr;                                                   \
	check_rmw_end(&(p)->v, sizeof((p)->v), check_before, kind); } while (0)

/* Only system calls from Python move other bytes, and Python never runs while exploring. */
#define SHMM_HOOK_BULK(ptr, size, kind) ((void)0)

#include "check/strategies.h"

static const char *const check_mutant_names[] = {
#define X(name, group, what) #name,
	SHMM_MUTANTS(X)
#undef X
};
static const char *const check_mutant_groups[] = {
#define X(name, group, what) group,
	SHMM_MUTANTS(X)
#undef X
};
static const char *const check_mutant_texts[] = {
#define X(name, group, what) what,
	SHMM_MUTANTS(X)
#undef X
};
#endif
