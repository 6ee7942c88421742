/* Strategies that run each schedule from its beginning: random, PCT and replay.
 *
 * A strategy is asked at each decision and answers with an entity, or with "stay"; the schedules that it makes are
 * written down and replayed like those of the depth-first search.
 *
 *   random   leaves the CPU at an access with a probability that is drawn anew for each schedule (1/4 to 1/512)
 *   pct      priorities drawn for each schedule, and depth - 1 accesses at which the CPU that runs becomes the lowest; a
 *            bug that needs `depth` ordered events is met with a probability of at least 1/(n * k^(depth-1)) per schedule
 *            of n CPUs and k accesses (Burckhardt et al., ASPLOS 2010).  A CPU that spins becomes the lowest, too.
 *   replay   a list of deviations; those that do not apply (other source, other mutant) are passed over
 *
 * Old values, where the memory model has any, are read with probability 1/8 by random and pct.
 */
#ifndef SHMM_CHECK_STRATEGIES_H
#define SHMM_CHECK_STRATEGIES_H

#include "explore.h"

enum strategy { STRATEGY_DFS, STRATEGY_RANDOM, STRATEGY_PCT, STRATEGY_REPLAY };
enum { STAY = 0xff, PCT_DEPTH = 8 };

static struct {
	uint64_t seed;
	uint32_t strategy, depth, length;       /* length: accesses of a schedule, as seen so far */
	uint32_t rate;                          /* random: one in so many accesses is a choice */
	uint32_t priority[CHECK_ENTITIES], lowest;
	uint32_t change[PCT_DEPTH];
	const deviation_t *script;
	uint32_t nscript, at;
} strategy;

/* splitmix64 */
static uint64_t strategy_random(void)
{
	uint64_t x = strategy.seed += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint32_t random_bit(uint32_t mask)
{
	uint32_t skip = (uint32_t)(strategy_random() % (uint32_t)__builtin_popcount(mask));

	while (skip--)
		mask &= mask - 1;
	return (uint32_t)__builtin_ctz(mask);
}

static uint32_t random_pick(const decision_t *d)
{
	uint32_t mask = d->free | d->costly;

	if (d->stays && (mask == 0 || strategy_random() % (d->reads ? 8 : strategy.rate)))
		return STAY;
	/* a timer only now and then, when others could go on */
	return random_bit(!d->stays && d->free && strategy_random() % 16 ? d->free : mask);
}

static uint32_t pct_pick(const decision_t *d, int event)
{
	uint32_t mask = d->free | d->costly, best = STAY, steps = check_steps();

	if (d->reads)
		return mask && strategy_random() % 8 == 0 ? random_bit(mask) : STAY;
	if (d->free && !d->stays)
		mask = d->free;                         /* no timer as long as somebody goes on */
	for (uint32_t i = 0; i + 1 < strategy.depth; i++)
		if (event == CHECK_CHOICE && strategy.change[i] == steps)
			strategy.priority[chk.live.current] = strategy.lowest--;
	if (event == CHECK_BLOCKED)
		strategy.priority[chk.live.current] = strategy.lowest--;
	if (d->stays)
		mask |= 1u << chk.live.current;
	for (uint32_t i = 0; i < CHECK_ENTITIES; i++)
		if (mask >> i & 1 && (best == STAY || strategy.priority[i] > strategy.priority[best]))
			best = i;
	return d->stays && best == chk.live.current ? STAY : best;
}

static uint32_t replay_pick(const decision_t *d)
{
	const deviation_t *next = &strategy.script[strategy.at];
	uint32_t mask = d->free | d->costly;

	while (strategy.at < strategy.nscript && next->cpu == chk.live.current
	       && next->step < chk.live.cpu[chk.live.current].steps) {
		strategy.at++;                          /* its moment has passed: it does not apply here */
		next++;
	}
	if (strategy.at < strategy.nscript && next->cpu == chk.live.current
	    && next->step == chk.live.cpu[chk.live.current].steps
	    && (next->entity == CHECK_OLD_VALUE) == (d->reads != 0)) {
		if (d->reads && mask >> next->argument & 1) {
			strategy.at++;
			return next->argument;
		}
		if (!d->reads && next->argument == !d->stays && mask >> next->entity & 1) {
			strategy.at++;
			return next->entity;
		}
	}
	return d->stays ? STAY : check_default(d->free);
}

static uint32_t strategy_pick(const decision_t *d, int event)
{
	if (strategy.strategy == STRATEGY_RANDOM)
		return random_pick(d);
	return strategy.strategy == STRATEGY_PCT ? pct_pick(d, event) : replay_pick(d);
}

static void strategy_begin(void)
{
	strategy.rate = 4u << strategy_random() % 8;
	strategy.lowest = 1u << 20;
	strategy.at = 0;
	for (uint32_t i = 0; i < CHECK_ENTITIES; i++)
		strategy.priority[i] = (1u << 21) + (uint32_t)(strategy_random() >> 40);
	for (uint32_t i = 0; i < PCT_DEPTH; i++)
		strategy.change[i] = 1 + (uint32_t)(strategy_random() % (strategy.length ? strategy.length : 1000));
}

/* One schedule from beginning to end. */
static void strategy_run(void)
{
	decision_t d = { .free = (1u << chk.ncpu) - 1 };
	int event = CHECK_ENDED;                /* as it were: everybody may begin */
	uint32_t choice;

	check_reset();
	strategy_begin();
	chk.live.current = chk.ncpu - 1;
	for (;;) {
		choice = strategy_pick(&d, event);
		if (choice != STAY && (d.costly >> choice & 1))
			chk.live.cost++;
		check_take(&d, choice, choice == STAY);
		chk.fuel = 1;
		event = check_current_waits() ? CHECK_BLOCKED : check_resume();
		if (event == CHECK_VIOLATION || check_too_long())
			break;
		d = check_decide(event);
		if (d.over || chk.violation.found)
			break;
	}
	strategy.length = check_steps();
	explorer.schedules++;
	explorer.steps += check_steps();
}

static void check_explore(uint64_t schedules)
{
	chk.on = 1;
	if (strategy.strategy == STRATEGY_DFS)
		dfs(schedules);
	else
		while (schedules-- && !chk.violation.found)
			strategy_run();
	chk.on = 0;
	chk.slow = 1;
}

/* As if nothing had been explored yet. */
static void check_forget(void)
{
	check_undo_to(chk.first.undo);
	memset(&chk.violation, 0, sizeof(chk.violation));
	memset(explorer.seen, 0, CHECK_SEEN * sizeof(uint64_t));
	for (uint32_t i = 0; i < CHECK_FRAMES; i++)
		memset(explorer.frame[i].stamp, 0, sizeof(explorer.frame[i].stamp));
	explorer.nframes = explorer.started = explorer.exhausted = explorer.nseen = 0;
	explorer.schedules = explorer.steps = explorer.seen_finished = 0;
	strategy.length = 0;
}

/* ---- begin and end ---------------------------------------------------------------------------------------------*/

static void check_free(void)
{
	for (uint32_t i = 0; i < CHECK_CPUS; i++)
		fiber_unmap(&chk.fiber[i]);
	free(chk.shadow); free(chk.poisoned); free(chk.maybe); free(chk.undo); free(chk.deviation); free(chk.trace);
	free(explorer.frame); free(explorer.seen);
	free(weak.location); free(weak.message); free(weak.arena);
	memset(&chk, 0, sizeof(chk));
	memset(&explorer, 0, sizeof(explorer));
	memset(&strategy, 0, sizeof(strategy));
	memset(&weak, 0, sizeof(weak));
	chk.slow = 1;
}

/* What was changed so far belongs to the beginning of every schedule. */
static void check_forget_undo(void)
{
	chk.live.undo = 0;
}

/* The segment as it is now is where every schedule begins.  0, or -1: no memory. */
static int check_begin(void *base, uint32_t size, uint32_t memory, uint32_t ncpu, int model)
{
	uint32_t cells = size >> 2, pages = (size - memory) >> 12;

	chk.base = base;
	chk.memory = memory;
	chk.ncpu = ncpu;
	chk.model = model;
	chk.page_cells = cells;
	chk.limit = 10000;              /* three ticks an access at most: no clock reaches CLOCK_TOPS */
	chk.shadow = calloc(cells + pages + 1, sizeof(shadow_t));
	chk.poisoned = calloc((size >> 6) + 64, sizeof(uint16_t));
	chk.maybe = calloc(((size - memory) >> 9) + 8, sizeof(uint64_t));
	chk.undo = malloc(CHECK_UNDO * sizeof(undo_t));
	chk.deviation = calloc(CHECK_DEVIATIONS, sizeof(deviation_t));
	chk.trace = malloc(CHECK_TRACE * sizeof(trace_t));
	explorer.frame = calloc(CHECK_FRAMES, sizeof(frame_choice_t));
	explorer.seen = calloc(CHECK_SEEN, sizeof(uint64_t));
	weak.location = calloc(cells, sizeof(uint16_t));
	weak.message = calloc(model == CHECK_WEAK ? WEAK_MESSAGES : 1, sizeof(message_t));
	weak.arena = calloc(model == CHECK_WEAK ? WEAK_ARENA : 1, sizeof(uint16_t));
	if (!chk.shadow || !chk.poisoned || !chk.maybe || !chk.undo || !chk.deviation || !chk.trace || !explorer.frame
	    || !explorer.seen || !weak.location || !weak.message || !weak.arena)
		return -1;
	for (uint32_t at = memory; at < size; at += 8)
		if (*(uint64_t *)(chk.base + at))
			chk.maybe[(at - memory) >> 9] |= 1ull << ((at - memory) >> 3 & 63);
	for (uint32_t i = 0; i < ncpu; i++) {
		if (fiber_map(&chk.fiber[i], i))
			return -1;
		chk.first.cpu[i].now = 1ull << CLOCK_LANE * i;
	}
	chk.me = &chk.live.cpu[0];
	chk.slow = 1;
	return 0;
}
#endif
