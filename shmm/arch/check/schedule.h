/* Where a CPU gives way: waits, locks, the borders of its operations.
 *
 * Waiting.  A spin loop that only others can end goes round once more with its loads recorded, and then rests until one
 * of the words it looked at has changed (or, if it looks at too many, until anybody else has stored anything): turns that
 * cannot see anything new are not explored.  A sleeper rests until it is woken, or until the explorer lets its timer
 * expire; if nothing but a timer could go on, the wake-up was lost, and that is a violation.
 */
#ifndef SHMM_CHECK_SCHEDULE_H
#define SHMM_CHECK_SCHEDULE_H

#include <stdio.h>
#include "page.h"

enum { LOCK_SPINS = 1 << 8, LOCK_ALONE = 1 << 9 };

/* ---- waiting -------------------------------------------------------------------------------------------------*/

static uint32_t stores_of_others(uint32_t cpu)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < chk.ncpu; i++)
		n += i == cpu ? 0 : chk.live.cpu[i].stores;
	return n;
}

static int check_sees_change(uint32_t cpu)
{
	const check_cpu_t *waiter = &chk.live.cpu[cpu];

	if (waiter->coarse)
		return stores_of_others(cpu) != waiter->others;
	for (uint32_t i = 0; i < waiter->nwatch; i++)
		if (check_peek(waiter->watch[i], waiter->watch_size[i]) != waiter->watched[i])
			return 1;
	return 0;
}

/* A turn of a loop begins: whatever changes from here on is news to it. */
static void check_forget_watch(void)
{
	chk.me->nwatch = 0;
	chk.me->coarse = 0;
	chk.me->others = stores_of_others(chk.id);
}

static void check_wait(int status)
{
	if (chk.model == CHECK_TSO)
		tso_drain(chk.id);
	if (weak_catch_up() && status == CHECK_SPINS) {
		check_forget_watch();
		return;
	}
	chk.me->status = (uint8_t)status;
	chk.me->waits_at = chk.site;
	check_leave(CHECK_BLOCKED);
	check_forget_watch();
}

static inline void cpu_relax(uint32_t turn)
{
	(void)turn;
	if (!chk.on)
		return;
	if (!chk.me->tracking) {
		chk.me->tracking = 1;
		check_slow();
		chk.me->nwatch = 0;
		chk.me->coarse = 0;
		return;
	}
	check_wait(CHECK_SPINS);
}

static inline void     cpu_pause(void) { }
static inline uint32_t spin_turns(uint32_t n) { return n ? 1 : 0; }
static inline int      core_is_due(void) { return 0; }
static inline uint64_t now_ns(void) { return chk.on ? chk.me->clock_ns : 0; }

static void check_may_sleep(void)
{
	for (uint32_t i = 0; i < chk.me->nheld; i++)
		if (chk.me->held[i].rank & LOCK_SPINS)
			check_violate("lock-order", "sleeps with a spinlock held", chk.me->held[i].offset);
	if (!chk.rooms.irqs_on(chk.id))
		check_violate("lock-order", "sleeps with interrupts off", 0);
}

static inline void yield_core(void)
{
	if (!chk.on)
		return;
	check_may_sleep();
	chk.me->coarse = 1;
	check_wait(CHECK_SPINS);
}

static inline void futex_wait(a32 *word, uint32_t value, uint64_t timeout_ns)
{
	uint32_t offset = check_offset(word);

	if (!chk.on)
		return;
	check_may_sleep();
	check_point();
	check_full_barrier();
	if (check_peek(offset, 4) != value)
		return;
	chk.me->futex = offset;
	chk.me->timeout = timeout_ns;
	chk.me->timed = timeout_ns != 0;
	check_wait(CHECK_SLEEPS);
}

static inline void futex_wake(a32 *word, uint32_t how_many)
{
	uint32_t offset = check_offset(word);

	if (!chk.on)
		return;
	check_point();
	check_full_barrier();
	for (uint32_t i = 0; i < chk.ncpu && how_many; i++)
		if (chk.live.cpu[i].status == CHECK_SLEEPS && chk.live.cpu[i].futex == offset) {
			chk.live.cpu[i].status = CHECK_READY;
			how_many--;
		}
}

/* The interrupt line of another CPU, whose host_pid is its number + 1 here. */
static inline void ring_doorbell(uint32_t host_pid)
{
	if (!chk.on || !host_pid)
		return;
	check_point();
	check_full_barrier();
	chk.live.cpu[host_pid - 1].pending = 1;
}

/* ---- locks ---------------------------------------------------------------------------------------------------*/

static void lock_push(uint32_t offset, uint32_t rank)
{
	if (chk.me->nheld == CHECK_HELD)
		check_violate("lock-order", "more locks held at once than the checker expects", offset);
	chk.me->held[chk.me->nheld++] = (held_t){ offset, rank };
}

/* nested: one lock of this very rank may be held, for which there is an order of their own (spin_lock_nested). */
static void check_lock_order(uint32_t offset, uint32_t rank, int nested)
{
	if (rank & LOCK_SPINS && !chk.rooms.irqs_on(chk.id))
		check_violate("lock-order", "waits for a spinlock with interrupts off", offset);
	for (uint32_t i = 0; i < chk.me->nheld; i++) {
		const held_t *held = &chk.me->held[i];

		if (held->offset == offset)
			check_violate("lock-order", "waits for a lock that it holds", offset);
		if (nested && held->rank == rank) {
			nested = 0;
			continue;
		}
		if ((held->rank & 0xff) >= (rank & 0xff) || (rank & LOCK_ALONE && held->rank & LOCK_SPINS))
			check_violate("lock-order", "waits for a lock that belongs outside one it holds", offset);
	}
}

/* PREEMPT_RT: a lock whose waiters sleep is about to be waited for. */
static void check_rt_rules(uint32_t offset)
{
	if (!chk.rooms.irqs_on(chk.id))
		check_violate("preempt-rt", "waits for a sleeping lock with interrupts off", offset);
	for (uint32_t i = 0; i < chk.me->nheld; i++)
		if (chk.me->held[i].rank & LOCK_SPINS)
			check_violate("preempt-rt", "waits for a sleeping lock with a raw spinlock held", offset);
}

CHECK_CALL void check_lockdep(const void *lock, int event)
{
	uint32_t offset = check_offset(lock), rank, i;

	if (!chk.on)
		return;
	rank = chk.rooms.rank(offset);
	if (event == SHMM_LOCK_FREED) {
		for (i = chk.me->nheld; i-- > 0; )
			if (chk.me->held[i].offset == offset) {
				for (chk.me->nheld--; i < chk.me->nheld; i++)
					chk.me->held[i] = chk.me->held[i + 1];
				return;
			}
		check_violate("lock-order", "gives back a lock that it does not hold", offset);
	}
	if (event == SHMM_LOCK_SLEEPS)
		check_rt_rules(offset);
	if (event != SHMM_LOCK_TRIED)
		check_lock_order(offset, rank, event == SHMM_LOCK_NESTED);
	lock_push(offset, rank);
}

/* ---- freed memory, operations --------------------------------------------------------------------------------*/

CHECK_CALL void check_poison(void *p, size_t n, int freed)
{
	if (!chk.on)
		return;
	if (freed) {
		check_point();          /* a free is a visible write */
		check_trace(SHMM_ST_PLAIN, check_offset(p), 0, 0, 1);
		chk.me->stores++;
	}
	poison_bytes(check_offset(p), (uint32_t)n, freed);
}

/* The number of a CPU's record among all programs' records. */
static uint32_t check_first_op[CHECK_CPUS];

/* The operations that have ended for a CPU: its own, and others whose stores have left their store buffers. */
static uint32_t check_ended_before(uint32_t cpu)
{
	uint32_t ended = chk.live.returned, other = 0;

	if (chk.model != CHECK_TSO)
		return ended;
	for (uint32_t op = 0; op < CHECK_OPS; op++) {
		while (other + 1 < chk.ncpu && op >= check_first_op[other + 1])
			other++;
		if (other != cpu && chk.live.drained[other] < chk.live.last_store[op])
			ended &= ~(1u << op);
	}
	return ended;
}

CHECK_CALL void check_operation(uint32_t cpu, uint64_t pc, int begins)
{
	uint32_t op = check_first_op[cpu] + (uint32_t)pc;

	if (!chk.on)
		return;
	if (begins) {
		chk.live.busy |= 1u << cpu;
		chk.live.preceding[op] = check_ended_before(cpu);
		check_forget_watch();
		return;
	}
	chk.live.busy &= ~(1u << cpu);
	chk.live.returned |= 1u << op;
	chk.live.last_store[op] = chk.live.drained[cpu] + chk.buffer[cpu].n;
	chk.me->tracking = 0;
	check_slow();
	if (chk.me->nheld)
		check_violate("lock-order", "an operation ends with a lock held", chk.me->held[0].offset);
	check_leave(CHECK_REST);
}
#endif
