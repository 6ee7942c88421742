/* Exploring: what can happen next, and the depth-first search.
 *
 * Whenever a CPU stops, there is a decision: who goes on, or which value a load returns.  Going on with the CPU that can
 * go on is free; leaving it, draining a store buffer, delivering an interrupt, letting a timer expire and reading an old
 * value are deviations and cost one each.  When the CPU itself has given way (it waits, or its program is over), the
 * choice among the others is free.  A schedule is written down as its deviations from the default.
 *
 * Depth-first search with a bound on the deviations (iterative context bounding): at each access all deviations are
 * tried first and then the access itself, so that only as many checkpoints are open as there are deviations, and each
 * schedule costs no more than the accesses after its last one.  When it ends by itself, every schedule within the bound
 * has been run: no reduction of any kind is applied.
 *
 * Source: Musuvathi and Qadeer, "Iterative Context Bounding" (PLDI 2007).
 */
#ifndef SHMM_CHECK_EXPLORE_H
#define SHMM_CHECK_EXPLORE_H

#include "schedule.h"

typedef struct {
	uint32_t free, costly;          /* entities, or old values 1 to n as bits */
	uint32_t stays;                 /* the CPU may just go on */
	uint32_t reads, usual;
	uint32_t over;                  /* nobody is left: the run has ended, or is stuck */
} decision_t;

static struct {
	uint32_t bound;
	uint32_t nframes;
	uint32_t started, exhausted;
	uint64_t schedules, steps;
	frame_choice_t *frame;
	uint64_t *seen;
	uint32_t nseen;
	uint64_t seen_finished;         /* distinct final states that were verified */
	uint64_t registers[CHECK_CPUS]; /* a hash of the registers in which its program ended */
} explorer;

/* ---- one run: from the first access to the last ----------------------------------------------------------------*/

static size_t live_bytes(void) { return offsetof(live_t, cpu) + chk.ncpu * sizeof(check_cpu_t); }

static void fiber_main(void *argument)
{
	check_take_interrupts();
	chk.rooms.main((uint32_t)(uintptr_t)argument);
	for (;;)
		check_leave(CHECK_ENDED);
}

/* Back to the moment at which exploring began. */
static void check_reset(void)
{
	check_undo_to(chk.first.undo);
	memcpy(&chk.live, &chk.first, live_bytes());
	memset(chk.buffer, 0, sizeof(chk.buffer));
	memset(&chk.violation, 0, sizeof(chk.violation));
	chk.ntrace = 0;
	for (uint32_t i = 0; i < chk.ncpu; i++) {
		fiber_prepare(&chk.fiber[i], fiber_main, (void *)(uintptr_t)i);
		chk.live.cpu[i].sp = chk.fiber[i].sp;
		chk.live.cpu[i].stamp = ++chk.stamp;
	}
}

static int check_resume(void)
{
	chk.id = chk.live.current;
	chk.lane = CLOCK_LANE * chk.id;
	chk.mine = 0xffffull << chk.lane;
	chk.me = &chk.live.cpu[chk.id];
	chk.me->stamp = ++chk.stamp;
	check_slow();
	chk.running = 1;
	shmm_fiber_switch(&chk.explorer, chk.me->sp);
	chk.running = 0;
	return chk.event;
}

static uint32_t check_enabled(void)
{
	uint32_t mask = 0;

	for (uint32_t i = 0; i < chk.ncpu; i++) {
		const check_cpu_t *cpu = &chk.live.cpu[i];

		if (cpu->status == CHECK_READY || (cpu->status == CHECK_SPINS && check_sees_change(i)))
			mask |= 1u << i;
		if (cpu->status == CHECK_SLEEPS && cpu->timed)
			mask |= 1u << (CHECK_TIMER + i);
		if (chk.buffer[i].n)
			mask |= 1u << (CHECK_DRAIN + i);
		if (cpu->pending && cpu->status <= CHECK_SPINS && chk.rooms.irqs_on(i))
			mask |= 1u << (CHECK_INTERRUPT + i);
	}
	return mask;
}

static void check_stuck(void)
{
	char what[200];
	int n = 0, sleeps = 0;

	for (uint32_t i = 0; i < chk.ncpu; i++) {
		const check_cpu_t *cpu = &chk.live.cpu[i];

		if (cpu->status == CHECK_DONE || !cpu->waits_at || n >= (int)sizeof(what))
			continue;
		sleeps |= cpu->status == CHECK_SLEEPS && cpu->timed;
		n += snprintf(what + n, sizeof(what) - (size_t)n, "%sCPU %u %s at %s:%d", n ? ", " : "", i,
			      cpu->status == CHECK_SLEEPS ? "sleeps" : "spins", cpu->waits_at->file, cpu->waits_at->line);
	}
	check_violate(sleeps ? "lost-wakeup" : "deadlock", what, 0);
}

/* A number for the state at rest, for what is compared of it at the end also the order of the operations. */
static uint64_t check_state_key(int finished)
{
	uint64_t key = chk.live.hash ^ (finished ? 0x5bd1e9955bd1e995ull : 0);

	if (finished)
		for (uint32_t i = 0; i < CHECK_OPS; i++)
			if (chk.live.preceding[i])
				key ^= check_mix(i + 1000000007ull, chk.live.preceding[i]);
	for (uint32_t i = 0; finished && i < chk.ncpu; i++)
		key ^= explorer.registers[i];
	return key ? key : 1;
}

/* Verifies a state that has not been verified before. */
static void check_verify(int finished)
{
	uint64_t key = check_state_key(finished), at = key;
	int on = chk.on;

	for (at &= CHECK_SEEN - 1; explorer.seen[at]; at = (at + 1) & (CHECK_SEEN - 1))
		if (explorer.seen[at] == key)
			return;
	if (explorer.nseen < CHECK_SEEN / 2) {          /* else it is verified again whenever it comes */
		explorer.seen[at] = key;
		explorer.nseen++;
	}
	explorer.seen_finished += finished != 0;
	chk.on = 0;
	chk.slow = 1;
	chk.rooms.verify(finished);
	chk.on = on;
}

static int buffers_empty(void)
{
	for (uint32_t i = 0; i < chk.ncpu; i++)
		if (chk.buffer[i].n)
			return 0;
	return 1;
}

/* One operation at a time: an interrupt that is waited for, then whoever is inside an operation, then everybody. */
static uint32_t serial_turns(int event, uint32_t enabled)
{
	uint32_t interrupts = enabled & 0xfu << CHECK_INTERRUPT, inside = enabled & chk.live.busy & 0xf;

	if (event == CHECK_BLOCKED && interrupts)
		return interrupts;
	return inside ? inside : enabled & 0xf;
}

/* What a CPU's stop means for those who decide. */
static decision_t check_decide(int event)
{
	decision_t d = { 0 };
	check_cpu_t *me = &chk.live.cpu[chk.live.current];
	uint32_t enabled, timers = 0xfu << CHECK_TIMER, drains = 0xfu << CHECK_DRAIN;

	if (event == CHECK_READ) {
		d.usual = chk.usual;
		d.costly = chk.serial ? 0 : ((2u << (chk.answer < 30 ? chk.answer : 30)) - 1) & ~(1u << d.usual);
		d.reads = d.stays = 1;
		return d;
	}
	if (event == CHECK_ENDED)
		me->status = CHECK_DONE;                /* what its store buffer holds drains when it will */
	if (event == CHECK_REST && chk.live.busy == 0 && buffers_empty())
		check_verify(0);
	enabled = check_enabled();
	if (event == CHECK_CHOICE || event == CHECK_REST) {
		d.stays = 1;
		d.costly = event == CHECK_CHOICE ? enabled & ~(1u << chk.live.current) : 0;
		d.free = chk.serial && event == CHECK_REST ? enabled & 0xf & ~(1u << chk.live.current) : 0;
		return d;
	}
	/* A store buffer drains by itself only when nobody else can go on; earlier is a deviation, as a timer is. */
	d.free = chk.serial ? serial_turns(event, enabled) : enabled & (0xf | 0xf << CHECK_INTERRUPT);
	d.costly = enabled & (timers | drains);
	if (d.free == 0 && enabled & drains) {
		d.free = enabled & drains & -(enabled & drains);
		d.costly &= ~d.free;
	}
	if (d.free == 0) {
		d.over = 1;
		for (uint32_t i = 0; i < chk.ncpu; i++)
			if (chk.live.cpu[i].status != CHECK_DONE) {
				check_stuck();
				return d;
			}
		check_verify(1);
	}
	return d;
}

/* Whose turn it is when a CPU has given way and nobody says otherwise. */
static uint32_t check_default(uint32_t free)
{
	for (uint32_t i = 1; i <= chk.ncpu; i++)
		if (free >> (chk.live.current + i) % chk.ncpu & 1)
			return (chk.live.current + i) % chk.ncpu;
	return (uint32_t)__builtin_ctz(free);
}

static void check_note(uint32_t entity, uint32_t argument)
{
	if (chk.live.deviations < CHECK_DEVIATIONS)
		chk.deviation[chk.live.deviations++] = (deviation_t){ chk.live.cpu[chk.live.current].steps,
			(uint8_t)chk.live.current, (uint8_t)entity, (uint8_t)argument };
}

/* Gives the entity its turn.  Afterwards live.current may still be a CPU that waits. */
static void check_turn(uint32_t entity)
{
	check_cpu_t *cpu = &chk.live.cpu[entity & 3];

	if (entity >= CHECK_TIMER) {
		cpu->clock_ns += cpu->timeout;
	} else if (entity >= CHECK_INTERRUPT) {
		cpu->pending = 0;
		cpu->deliver = 1;
	} else if (entity >= CHECK_DRAIN) {
		tso_drain_one(entity & 3);
		return;
	}
	cpu->status = CHECK_READY;
	chk.live.current = entity & 3;
}

/* The decision is made: an entity, or with reads how many stores back.  Notes it if it is not the default. */
static void check_take(const decision_t *d, uint32_t choice, int stays)
{
	if (d->reads) {
		chk.answer = stays ? d->usual : choice;
		if (!stays)
			check_note(CHECK_OLD_VALUE, choice);
	} else if (!stays) {
		if (d->stays || choice != check_default(d->free))
			check_note(choice, !d->stays);
		check_turn(choice);
	}
}

/* After a drain on behalf of nobody, live.current may be a CPU that cannot run. */
static int check_current_waits(void) { return chk.live.cpu[chk.live.current].status != CHECK_READY; }

static int check_too_long(void)
{
	if (check_steps() > chk.limit || chk.live.undo > CHECK_UNDO - (1 << 16)) {
		char what[200];

		snprintf(what, sizeof(what), "no end after %u accesses; CPU %u goes round at %s:%d", check_steps(),
			 chk.id, chk.site->file, chk.site->line);
		check_violate("livelock", what, 0);
		return 1;
	}
	return 0;
}

/* ---- the depth-first search ------------------------------------------------------------------------------------*/

static void frame_save(frame_choice_t *f)
{
	memcpy(&f->live, &chk.live, live_bytes());
	if (chk.model == CHECK_TSO)
		memcpy(f->buffer, chk.buffer, sizeof(chk.buffer));
	for (uint32_t i = 0; i < chk.ncpu; i++) {
		const check_cpu_t *cpu = &chk.live.cpu[i];

		if (cpu->status == CHECK_DONE || f->stamp[i] == cpu->stamp)
			continue;
		f->bytes[i] = (uint32_t)(chk.fiber[i].top - (uint8_t *)cpu->sp);
		f->stamp[i] = cpu->stamp;
		if (f->bytes[i] > CHECK_STACK)
			check_violate("cut-off", "a fiber's stack is deeper than a checkpoint has room for", 0);
		else
			memcpy(f->stack[i], cpu->sp, f->bytes[i]);
	}
}

static void frame_restore(const frame_choice_t *f)
{
	check_undo_to(f->live.undo);
	if (chk.model == CHECK_TSO)
		memcpy(chk.buffer, f->buffer, sizeof(chk.buffer));
	for (uint32_t i = 0; i < chk.ncpu; i++)
		if (f->live.cpu[i].status != CHECK_DONE && f->live.cpu[i].stamp != chk.live.cpu[i].stamp)
			memcpy(f->live.cpu[i].sp, f->stack[i], f->bytes[i]);
	memcpy(&chk.live, &f->live, live_bytes());
}

/* Takes the next untried way out of the innermost choice; the choice is closed with its last one. */
static void frame_next(frame_choice_t *f)
{
	decision_t d = { .free = f->free, .stays = f->stays, .reads = f->reads, .usual = f->usual };
	uint32_t choice;

	if (f->alternatives == 0) {
		explorer.nframes--;
		check_take(&d, 0, 1);
		return;
	}
	choice = (uint32_t)__builtin_ctz(f->alternatives);
	f->alternatives &= f->alternatives - 1;
	if (f->costly >> choice & 1)
		chk.live.cost++;
	check_take(&d, choice, 0);
	if (f->alternatives == 0 && !f->stays)
		explorer.nframes--;
}

/* Opens a choice if there is one within the bound; then goes the first way. */
static void frame_open(const decision_t *d)
{
	uint32_t costly = chk.live.cost < explorer.bound && !chk.serial ? d->costly : 0;
	uint32_t alternatives = d->free | costly;
	frame_choice_t *f = &explorer.frame[explorer.nframes];

	if (alternatives == 0 || (!d->stays && (alternatives & (alternatives - 1)) == 0)) {
		check_take(d, alternatives ? (uint32_t)__builtin_ctz(alternatives) : 0, d->stays);
		return;
	}
	if (explorer.nframes == CHECK_FRAMES) {
		check_violate("cut-off", "more choices are open at once than the search has room for", 0);
		return;
	}
	f->alternatives = alternatives;
	f->costly = costly;
	f->free = d->free;
	f->stays = d->stays;
	f->reads = d->reads;
	f->usual = d->usual;
	frame_save(f);
	explorer.nframes++;
	frame_next(f);
}

/* Runs until the current schedule has ended, or something is wrong. */
static void dfs_run(void)
{
	decision_t d;
	int event;

	for (;;) {
		chk.fuel = chk.live.cost < explorer.bound && !chk.serial ? 1 : chk.limit;
		event = check_current_waits() ? CHECK_BLOCKED : check_resume();
		if (event == CHECK_VIOLATION || check_too_long())
			return;
		d = check_decide(event);
		if (d.over || chk.violation.found)
			return;
		frame_open(&d);
		if (chk.violation.found)
			return;
	}
}

/* Explores up to so many schedules, from where the last call stopped; ends early at a violation, or exhausted. */
static void dfs(uint64_t schedules)
{
	while (schedules-- && !explorer.exhausted && !chk.violation.found) {
		uint32_t before = 0;

		if (!explorer.started) {
			decision_t first = { .free = (1u << chk.ncpu) - 1 };

			check_reset();
			explorer.started = 1;
			chk.live.current = chk.ncpu - 1;        /* so that the default is CPU 0 */
			frame_open(&first);
		} else {
			frame_restore(&explorer.frame[explorer.nframes - 1]);
			before = check_steps();
			frame_next(&explorer.frame[explorer.nframes - 1]);
		}
		dfs_run();
		explorer.schedules++;
		explorer.steps += check_steps() - before;
		if (explorer.nframes == 0)
			explorer.exhausted = 1;
	}
}
#endif
