/* Waiting: spinning, sleeping, interrupts.
 *
 * A CPU that spins on lines which only others can change does nothing that the others see until one of them does: it is
 * parked, and wakes when the line is taken from it, to pay for reading it again.  A loop's first turn is not parked, its
 * second shows which lines it looks at.  A loop over more than a few lines backs off instead.
 */
#ifndef SHMM_SIM_WAIT_H
#define SHMM_SIM_WAIT_H

#include "page.h"

enum { SIM_BACKOFF_TURNS = 64, SIM_LONG_PAUSE = 5000 };         /* the latter: ns */

static void sim_watch_lines(void)
{
	sim_cpu_t *me = sim.me;

	for (uint32_t k = 0; k < me->nseen; k++) {
		crowd_t *crowd = line_crowd(&sim.line[me->seen[k]]);

		me->watch_next[k] = crowd->watchers;
		crowd->watchers = me->id * SIM_WATCH + k + 1;
	}
}

static void sim_unwatch_lines(void)
{
	sim_cpu_t *me = sim.me;

	for (uint32_t k = 0; k < me->nseen; k++) {
		line_t *l = &sim.line[me->seen[k]];
		uint32_t *at, self = me->id * SIM_WATCH + k + 1;

		if (!me->seen[k])
			continue;
		for (at = &sim.crowd[l->crowd].watchers; *at != self;)
			at = &sim.cpu[(*at - 1) / SIM_WATCH].watch_next[(*at - 1) % SIM_WATCH];
		*at = me->watch_next[k];
		line_disperse(l);
	}
	me->nseen = 0;
}

/* What a spinner waits for, as the time stack has it: interrupts' targets, or a lock. */
static ps_t *sim_spinning_for(void)
{
	sim_cpu_t *me = sim.me;

	me->stuck_on = sim_structure_of(me->seen[0]);
	if (me->stuck_on == SIM_S_wake)
		me->stuck_on = SIM_S_mmap_lock;         /* spinning a little before it sleeps */
	if (me->stuck_on == SIM_S_spin_queue)
		me->stuck_on = sim_structure_of(me->lock);
	if (me->stuck_on == SIM_S_mailbox || me->stuck_on == SIM_S_cpu_state)
		return &me->stack.part[SIM_IPI_WAIT];
	return &me->stack.wait[me->stuck_on];
}

static void sim_park(ps_t until)
{
	sim_cpu_t *me = sim.me;

	for (uint32_t k = 0; k < me->nseen; k++)
		if (!line_mine(&sim.line[me->seen[k]])) {       /* it has changed since the loop looked */
			me->nseen = 0;
			return;
		}
	sim_watch_lines();
	if (!me->irq_masked && me->irq_at < until)
		until = me->irq_at;
	sim_block(SIM_PARKED, until, sim_spinning_for());
	sim_unwatch_lines();
}

/* A turn of a spin loop; until: when it gives up by itself. */
static void sim_spin(uint32_t turn, ps_t until)
{
	sim_cpu_t *me = sim.me;
	uint32_t pauses = 1;

	if (!sim.on)
		return;
	if (turn && me->tracking == SIM_TRACKING && me->nseen)
		sim_park(until);
	else {
		if (turn && !me->tracking)
			pauses = turn < SIM_BACKOFF_TURNS ? turn : SIM_BACKOFF_TURNS;
		uint32_t time = sim_scaled(me, pauses * sim.cost.pause);

		sim.clock += time;
		me->stack.wait[SIM_S_other] += time;
	}
	me->tracking = SIM_TRACKING;
	me->nseen = 0;
	sim_set_limit();
	sim_checkpoint();
}

static inline void cpu_relax(uint32_t n) { sim_spin(n, SIM_NEVER); }

/* Bounded spins are bounded in time: a parked turn is a long one. */
static inline uint32_t spin_turns(uint32_t n)
{
	if (sim.on)
		sim.me->spin_until = sim.clock + (ps_t)n * sim.cost.pause;
	return sim.on && n > 8 ? n / 8 : n;
}

static inline void cpu_pause(void)
{
	if (sim.on)
		sim_spin(sim.clock < sim.me->spin_until, sim.me->spin_until);
}

static inline void yield_core(void)
{
	if (sim.on) {
		sim.me->stuck_on = SIM_S_rcu;
		sim_block(SIM_SLEEPING, sim.clock + SIM_LONG_PAUSE * 1000ull, &sim.me->stack.wait[SIM_S_rcu]);
	}
}

static inline int      core_is_due(void) { return 0; }
static inline uint64_t now_ns(void) { return sim.clock / 1000; }

/* Does nothing until then. */
static void sim_idle_until(ps_t time)
{
	sim_block(SIM_SLEEPING, time, &sim.me->stack.part[SIM_IDLE]);
}

static inline void sim_lockdep(const void *lock, int event)
{
	if (sim.on && (event <= SHMM_LOCK_SLEEPS || event == SHMM_LOCK_NESTED))
		sim.me->lock = sim_line_of(lock);
}

/* ---- futexes -----------------------------------------------------------------------------------------------------*/

static inline uint32_t futex_bucket(const a32 *word) { return (uint32_t)((uintptr_t)word >> 6) & 255; }

static void futex_leave(sim_cpu_t *cpu)
{
	uint32_t b = futex_bucket(cpu->futex), before = 0, at = sim.bucket_head[b];

	while (at != cpu->id + 1u) {
		before = at;
		at = sim.cpu[at - 1].futex_next;
	}
	if (before)
		sim.cpu[before - 1].futex_next = cpu->futex_next;
	else
		sim.bucket_head[b] = cpu->futex_next;
	if (sim.bucket_tail[b] == at)
		sim.bucket_tail[b] = before;
	cpu->futex = NULL;
}

SIM_CALL void futex_wait(a32 *word, uint32_t value, uint64_t timeout_ns)
{
	sim_cpu_t *me = sim.me;
	uint32_t b = futex_bucket(word);
	enum sim_structure s;

	if (!sim.on)
		return;
	sim_exact();
	if (word->v != value)
		return;
	me->futex = word;
	me->futex_next = 0;
	if (sim.bucket_tail[b])
		sim.cpu[sim.bucket_tail[b] - 1].futex_next = sim.tag;
	else
		sim.bucket_head[b] = sim.tag;
	sim.bucket_tail[b] = sim.tag;
	s = sim_structure_of(sim_line_of(word));
	me->stuck_on = s == SIM_S_wake ? SIM_S_mmap_lock : s;
	me->nseen = me->tracking = 0;
	sim_block(SIM_SLEEPING, timeout_ns ? sim.clock + timeout_ns * 1000 : SIM_NEVER,
		  s == SIM_S_wake ? &me->stack.wait[SIM_S_mmap_lock] : &me->stack.part[SIM_IDLE]);
	if (me->futex)
		futex_leave(me);        /* the time is over */
	sim_lump(SIM_SLEEP, sim.cost.sleep_block);
	sim_set_limit();
}

SIM_CALL void futex_wake(a32 *word, uint32_t how_many)
{
	uint32_t at, next;

	if (!sim.on)
		return;
	sim_exact();
	for (at = sim.bucket_head[futex_bucket(word)]; at && how_many; at = next) {
		sim_cpu_t *cpu = &sim.cpu[at - 1];

		next = cpu->futex_next;
		if (cpu->futex != word)
			continue;
		how_many--;
		futex_leave(cpu);
		sim_lump(SIM_SLEEP, sim.cost.sleep_wake);
		sim_unblock(cpu, sim.clock + sim_scaled(cpu, sim.cost.sleep_resume));
	}
	sim_set_limit();
}

/* ---- interrupts -------------------------------------------------------------------------------------------------- */

/* The number of the CPU + 1 stands for its process. */
SIM_CALL void ring_doorbell(uint32_t host_pid)
{
	sim_cpu_t *cpu;
	ps_t at;

	if (!sim.on || !host_pid)
		return;
	cpu = &sim.cpu[host_pid - 1];
	sim_lump(SIM_IPI_SEND, sim.cost.ipi_send);
	at = sim.clock + sim.cost.ipi_deliver;
	if (cpu->irq_at > at)
		cpu->irq_at = at;
	if (cpu->mode == SIM_PARKED && !cpu->irq_masked)
		sim_unblock(cpu, cpu->irq_at);
	sim_set_limit();
}
#endif
