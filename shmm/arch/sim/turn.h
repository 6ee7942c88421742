/* Whose turn it is.  The CPU with the least time runs; what it does to shared lines is done in the order of time.
 *
 * Lookahead.  A hit may run ahead of the others by less than the shortest transfer, for nobody could take the line in
 * less; a miss is done exactly in order, and so is a hit on a line that is contended (line.h).  One bound for all would
 * delete the contention that is to be measured.  Hits of a second hardware thread, which can take a line sooner, share
 * the bound: the error is measured by a test.
 *
 * A CPU stops only in these functions.  While it is stopped its clock is in sim_cpu_t, while it runs in sim.clock.
 */
#ifndef SHMM_SIM_TURN_H
#define SHMM_SIM_TURN_H

#include "tree.h"

/* Alone on the machine a CPU would never look up: it does every so often, for cut-offs and for whoever drives us. */
#define SIM_SLICE (100ull * 1000 * 1000)

static uint32_t line_grant(uint32_t line);

SIM_INLINE void sim_set_limit(void)
{
	uint64_t first = tree_first();
	sim_cpu_t *me = sim.me;
	ps_t limit = first == SIM_NEVER ? SIM_NEVER : key_time(first) + sim.cost.lookahead;

	if (limit > sim.clock + SIM_SLICE)
		limit = sim.clock + SIM_SLICE;
	if (!me->irq_masked && limit > me->irq_at)
		limit = me->irq_at;
	sim.limit = me->tracking ? 0 : limit;
}

/* Gives the host's thread back to whoever called sim_run. */
static void sim_leave(int status)
{
	sim.status = status;
	sim.limit = 0;
	sim.on = 0;
	shmm_fiber_switch(&sim.me->fiber.sp, sim.host_sp);
}

/* The CPU that will probably run after this one: what it needs first comes into the cache meanwhile. */
static inline void sim_prefetch(uint64_t first)
{
	const sim_cpu_t *next = &sim.cpu[key_cpu(first)];
	const char *stack = next->fiber.sp;

	if (first == SIM_NEVER)
		return;
	__builtin_prefetch((const char *)next + 64);
	__builtin_prefetch((const char *)next + 128);
	for (int i = 0; i < 8; i++)
		__builtin_prefetch(stack + 64 * i);
}

SIM_INLINE void sim_enter(sim_cpu_t *cpu)
{
	sim.me = cpu;
	sim.id = cpu->id;
	sim.tag = cpu->id + 1u;
	sim.clock = cpu->clock;
	sim.hit = cpu->hit;
	cpu->mode = SIM_READY;
	if (cpu->blocked_on) {
		if (sim.clock > cpu->since)
			*cpu->blocked_on += sim.clock - cpu->since;
		cpu->blocked_on = NULL;
	}
	sim_set_limit();
	sim_prefetch(tree_first());
}

/* Runs the first CPU of the tree; returns when the caller is the first again.  The caller has put itself into the tree,
 * or into a list from which somebody will wake it. */
SIM_INLINE void sim_dispatch(void)
{
	sim_cpu_t *from = sim.me, *to;
	uint64_t first;

	from->clock = sim.clock;
	if (sim.accesses >= sim.pause_at || sim.out_of_memory)
		sim_leave(SIM_RUNNING);
	first = tree_first();
	if (first == SIM_NEVER || key_time(first) > sim.most || sim.accesses > sim.most_accesses)
		sim_leave(first == SIM_NEVER ? SIM_STUCK : key_time(first) > sim.most ? SIM_CUT_TIME : SIM_CUT_ACCESSES);
	to = &sim.cpu[key_cpu(first)];
	tree_set(to->id, SIM_NEVER);
	if (to->mode == SIM_QUEUED) {
		to = &sim.cpu[line_grant(to->line)];
		if (to->clock < key_time(first))
			to->clock = key_time(first);
	} else if (to->clock < key_time(first))
		to->clock = key_time(first);
	sim_enter(to);
	if (to != from) {
		sim.switches++;
		shmm_fiber_switch(&from->fiber.sp, to->fiber.sp);
	}
}

/* Lets those who are earlier go first. */
SIM_INLINE void sim_yield(void)
{
	tree_set(sim.id, sim_key(sim.clock, sim.id));
	sim_dispatch();
}

/* Stops until somebody wakes this CPU, at the latest at the time until.  What it waits for: a part of its stack. */
SIM_INLINE void sim_block(int mode, ps_t until, ps_t *part)
{
	sim_cpu_t *me = sim.me;

	me->mode = mode;
	me->since = sim.clock;
	me->blocked_on = part;
	if (until != SIM_NEVER)
		tree_set(me->id, sim_key(until > sim.clock ? until : sim.clock, me->id));
	sim_dispatch();
}

/* A blocked CPU goes on at this time, or earlier if it would have anyway. */
static void sim_unblock(sim_cpu_t *cpu, ps_t time)
{
	uint64_t key;

	if (time < cpu->clock)
		time = cpu->clock;
	key = sim_key(time, cpu->id);
	if (key < tree_key(cpu->id)) {
		tree_set(cpu->id, key);
		sim_set_limit();
	}
}

/* An interrupt is due.  Without anything in the mailbox it is over: an earlier one took the request with it.  With
 * interrupts off it waits: the room looks at its mailbox when it turns them on. */
static void sim_interrupt(void)
{
	sim_cpu_t *me = sim.me;

	if (*(const uint64_t *)(sim.base + (uint64_t)me->mailbox * 64) == 0)
		me->irq_at = SIM_NEVER;
	else {
		me->irq_masked = 1;
		if (sim.rooms.irqs_on(me->id))
			sim.rooms.interrupt(me->id);
	}
}

/* Time for a look from outside, or to be cut off.  Goes on as if nothing had been: nobody else runs for it, or how often
 * somebody looks would decide who is next. */
static void sim_pause(void)
{
	sim_leave(sim.clock > sim.most ? SIM_CUT_TIME : sim.accesses > sim.most_accesses ? SIM_CUT_ACCESSES : SIM_RUNNING);
}

/* Before a hit: those who are too far behind run first, and interrupts that are due are taken. */
SIM_INLINE void sim_checkpoint(void)
{
	for (;;) {
		sim_cpu_t *me = sim.me;
		uint64_t first = tree_first();

		if (!me->irq_masked && me->irq_at <= sim.clock)
			sim_interrupt();
		else if (sim.accesses >= sim.pause_at || sim.clock > sim.most)
			sim_pause();
		/* keys, not times: of two CPUs at one time without lookahead the second must let the first go on */
		else if (first != SIM_NEVER && first + sim_key(sim.cost.lookahead, 0) < sim_key(sim.clock, sim.id))
			sim_yield();
		else
			break;
	}
	sim_set_limit();
}

/* Before a miss, and before anything else that others must see in the order of time. */
SIM_INLINE void sim_exact(void)
{
	sim_checkpoint();
	while (tree_first() < sim_key(sim.clock, sim.id))
		sim_yield();
}
#endif
