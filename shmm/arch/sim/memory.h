/* What an access through the door costs on the sim engine.
 *
 * The common case is inlined: the line is this CPU's alone and the CPU is not too far ahead of the others.  Everything else
 * is a call.  An access takes effect when its function returns, before any other CPU can run.
 */
#ifndef SHMM_SIM_MEMORY_H
#define SHMM_SIM_MEMORY_H

#include "line.h"

/* Nothing is simulated, and the segment is simply memory, while limit is 0: that comes first. */
SIM_INLINE int sim_hit(const void *p)
{
	return __builtin_expect(sim.clock < sim.limit, 1)
		&& __builtin_expect(sim.line[sim_line_of(p)].owner == sim.tag, 1);
}

SIM_INLINE int sim_load_hit(const void *p)
{
	if (!sim_hit(p))
		return 0;
	sim.clock += sim.hit;
	sim.accesses++;
	return 1;
}

/* A spin loop's last turn remembers which lines it looked at.  fetched: it did not have this one. */
static void sim_note(uint32_t line, int fetched)
{
	sim_cpu_t *me = sim.me;

	for (uint32_t i = 0; i < me->nseen; i++)
		if (me->seen[i] == line) {
			if (fetched)
				me->tracking = SIM_NOT_NOW;     /* it has changed since the first look at it */
			return;
		}
	if (me->nseen == SIM_WATCH)
		me->tracking = 0;       /* it is no loop over a few words (any more) */
	else
		me->seen[me->nseen++] = line;
}

/* The CPU's own mailbox, and what was put there is still on its way: the interrupt has not arrived. */
static inline int mail_on_its_way(uint32_t line)
{
	return line == sim.me->mailbox && sim.me->irq_at != SIM_NEVER && sim.me->irq_at > sim.clock;
}

static uint64_t host_load(const void *p, uint32_t size)
{
	if (size == 8)
		return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
	return size == 4 ? __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE) : *(const uint8_t *)p;
}

/* Whether the CPU may use what it has: a contended line only in the order of time. */
static inline int line_usable(line_t *l, int mine)
{
	int ordered = l->owner & LINE_SHARED ? line_is_warm(l) : (l->owner & LINE_EXACT) != 0;

	if (!mine || !ordered)
		return mine;
	line_calm_down(l);
	return tree_first() > sim_key(sim.clock, sim.id);
}

/* The line is not this CPU's, and all that is earlier is over: its turn in the queue, if there is one. */
SIM_INLINE void line_await(uint32_t line, int writes)
{
	line_t *l = &sim.line[line];

	if (line_free_at(l, writes) > sim.clock || (l->crowd && sim.crowd[l->crowd].head))
		line_queue(line, writes);
}

/* Makes the line readable for this CPU; whether it had to be fetched. */
SIM_INLINE int sim_get_for_reading(uint32_t line)
{
	line_t *l = &sim.line[line];

	sim_checkpoint();
	if (line_usable(l, line_mine(l)))
		return 0;
	sim_exact();
	if (line_mine(l))
		return 0;
	line_await(line, 0);
	line_read(line);
	return 1;
}

/* Makes the line this CPU's alone; how long the transfer takes, 0 if it was. */
SIM_INLINE uint32_t sim_get_for_writing(uint32_t line)
{
	line_t *l = &sim.line[line];

	sim_checkpoint();
	if (line_usable(l, line_alone(l)))
		return 0;
	sim_exact();
	if (line_alone(l))
		return 0;
	line_await(line, 1);
	return line_write(line);
}

SIM_CALL uint64_t sim_load_slow(const void *p, uint32_t size)
{
	uint32_t line = sim_line_of(p);
	int fetched;

	if (!sim.on)
		return host_load(p, size);
	sim.accesses++;
	if (mail_on_its_way(line)) {
		sim.clock += sim.hit;
		return 0;
	}
	fetched = sim_get_for_reading(line);
	sim.clock += sim.hit;
	if (sim.me->tracking)
		sim_note(line, fetched);
	sim_set_limit();
	return host_load(p, size);
}

/* The next most common case, a short way: a line that several CPUs read, this one among them. */
SIM_CALL uint64_t sim_load_shared(const void *p, uint32_t size)
{
	if (sim.clock < sim.limit) {
		const line_t *l = &sim.line[sim_line_of(p)];

		if (l->owner & LINE_SHARED && slot_has(l->owner & ~LINE_SHARED, sim.id) && !line_is_warm(l)) {
			sim.clock += sim.hit;
			sim.accesses++;
			return host_load(p, size);
		}
	}
	return sim_load_slow(p, size);
}

SIM_CALL void sim_store_slow(const void *p)
{
	uint32_t line, cost;
	sim_cpu_t *me = sim.me;

	if (!sim.on)
		return;
	line = sim_line_of(p);
	sim.accesses++;
	cost = sim_get_for_writing(line);
	if (cost && me->drain < sim.clock + cost)
		me->drain = sim.clock + cost;
	sim.clock += sim.hit;
	if (me->tracking)
		sim_note(line, cost != 0);
	sim_set_limit();
}

/* Until the store buffer is empty. */
static inline void sim_drain(uint32_t line)
{
	sim_cpu_t *me = sim.me;

	if (me->drain > sim.clock) {
		me->stack.transfer[line ? sim_structure_of(line) : SIM_S_other] += me->drain - sim.clock;
		sim.clock = me->drain;
	}
}

SIM_CALL void sim_rmw_slow(const void *p)
{
	uint32_t line, cost;
	sim_cpu_t *me = sim.me;

	if (!sim.on)
		return;
	line = sim_line_of(p);
	sim.accesses++;
	sim_drain(line);
	cost = sim_get_for_writing(line);
	sim.clock += cost ? cost + me->hit : me->rmw;   /* a transfer is longer than the instruction, and hides it */
	me->stack.transfer[sim_structure_of(line)] += cost;
	if (line == me->mailbox && me->irq_at != SIM_NEVER) {
		me->irq_at = SIM_NEVER;         /* the handler takes the request out of the mailbox */
		me->irq_masked = 0;
		sim_lump(SIM_INTERRUPT, sim.cost.ipi_handle);
	}
	if (me->tracking)
		sim_note(line, cost != 0);
	sim_set_limit();
}

static inline void sim_rmw(const void *p)
{
	if (sim_hit(p) && sim.me->drain <= sim.clock) {
		sim.clock += sim.me->rmw;
		sim.accesses++;
	} else
		sim_rmw_slow(p);
}

static inline void sim_fence(void)
{
	if (sim.on) {
		sim_drain(0);
		sim.clock += sim.me->fence;
		sim.accesses++;
	}
}
#endif
