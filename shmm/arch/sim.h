/* The sim engine: each CPU is a fiber, and every access through the door takes virtual time, by a model of a machine's
 * caches.  The same protocol source as everywhere; what is simulated is how long it takes and in which order it happens.
 *
 *   sim/state.h    the machine's figures, CPUs, time stacks        sim/tree.h     who is next
 *   sim/turn.h     where a CPU stops and goes on, lookahead        sim/line.h     the directory of lines, transfers, queues
 *   sim/memory.h   what an access costs                            sim/page.h     contents of pages, memory bandwidth
 *   sim/wait.h     spinning, sleeping, interrupts                  sim/run.h      a run from beginning to end
 *
 * Sources: MESI and directory protocols in general; the split between hits that may run ahead and misses that may not
 * follows from what a plain quantum does to contention (docs/simulation.md has the measurement).
 */
#ifndef SHMM_ARCH_SIM_H
#define SHMM_ARCH_SIM_H

#include "sim/run.h"

#define SHMM_OPERATION(cpu, pc, begins) sim_operation(cpu, pc, begins)
#define SHMM_LOCKDEP(lock, event)       sim_lockdep(lock, event)
#define SHMM_EXCEPTION(kind)            sim_exception(kind)
#define SHMM_SPECULATION(event)         sim_speculation(event)
#define SHMM_CLOCK(runs)                sim_clock_event(runs)

#define SHMM_INLINE static inline __attribute__((always_inline))
#define SHMM_LOAD(p, kind, order) \
	(sim_load_hit(p) ? __atomic_load_n(&(p)->v, order) : (__typeof__((p)->v))sim_load_shared(p, sizeof((p)->v)))
#define SHMM_LOAD_PLAIN(p)      SHMM_LOAD(p, , __ATOMIC_RELAXED)
#define SHMM_STORE(p, x, kind, order) \
	((void)(sim_load_hit(p) || (sim_store_slow(p), 0)), __atomic_store_n(&(p)->v, x, order))
#define SHMM_STORE_PLAIN(p, x)  SHMM_STORE(p, x, , __ATOMIC_RELAXED)
#define SHMM_ADD_OWNED(p, n)    ((void)(sim_load_hit(p) || (sim_store_slow(p), 0)), (void)((p)->v += (n)))
#define SHMM_RMW_DO(p, result, kind, expr) do { sim_rmw(p); result = expr; } while (0)
#define SHMM_FENCE_DO(kind, order) (sim_fence(), __atomic_signal_fence(order))
#define SHMM_LOAD_USER(p)       sim_load_user(p)
#define SHMM_STORE_USER(p, x)   sim_store_user(p, (uint8_t)(x))
#define SHMM_CLEAR_DO(page, n)  sim_clear(page, n)
#define SHMM_COPY_DO(to, from, n) sim_copy(to, from, n)
#define SHMM_HOOK_BULK(ptr, size, kind) sim_bulk(ptr)

static const char *const sim_cost_names[] = {
#define X(name) #name,
	SIM_COSTS(X)
#undef X
};
static const char *const sim_structure_names[] = {
#define X(name) #name,
	SIM_STRUCTURES(X)
#undef X
};
#endif
