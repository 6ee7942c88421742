/* A run: the CPUs' fibers, from their first access to the end of the measured time.
 *
 * What is measured begins and ends where CPU 0's program begins a round, a whole number of rounds apart: in workloads whose
 * tasks go through phases together anything else would measure a part of a phase.
 */
#ifndef SHMM_SIM_RUN_H
#define SHMM_SIM_RUN_H

#include "wait.h"

/* Brings the time stacks of those who are blocked up to now. */
static void sim_account(void)
{
	for (uint32_t i = 0; i < sim.ncpu; i++) {
		sim_cpu_t *cpu = &sim.cpu[i];

		if (cpu->blocked_on && cpu->since < sim.clock) {
			*cpu->blocked_on += sim.clock - cpu->since;
			cpu->since = sim.clock;
		}
	}
}

/* Where a CPU is in time. */
static ps_t sim_clock_of(uint32_t cpu)
{
	const sim_cpu_t *c = &sim.cpu[cpu];

	if (sim.me && c == sim.me && c->mode != SIM_DONE)
		return sim.clock;
	return c->blocked_on && c->since > c->clock ? c->since : c->clock;
}

/* What is measured goes on, or stands still. */
static void sim_count(int runs)
{
	if (sim.counting == runs)
		return;
	sim.counting = runs;
	sim_account();
	sim.rooms.snapshot(!runs);
	for (uint32_t i = 0; i < sim.ncpu; i++) {       /* a speculation that is dropped later gives back nothing of before */
		sim.cpu[i].attempt = sim.cpu[i].stack;
		sim.cpu[i].attempt_since = sim_clock_of(i);
	}
	sim.lasted += runs ? 0 : sim.clock - sim.since;
	sim.since = sim.clock;
}

static void sim_measured(void)
{
	sim_count(0);
	sim.accesses_ended = sim.accesses;
	sim.phase = SIM_MEASURED;
	sim.most = sim.clock + 1000ull * 1000 * 1000 * 1000;    /* a second for all to come to their end */
	sim.stop->v = 1;
}

static void sim_measure(void)
{
	sim.begun = sim.clock;
	sim.accesses_begun = sim.accesses;
	sim.first_round = sim.rounds;
	sim.phase = SIM_MEASURING;
	if (!sim.clocked)
		sim_count(1);
}

/* CPU 0 begins a round. */
static void sim_round(void)
{
	sim.rounds++;
	if (sim.phase == SIM_WARMING && sim.rounds > 1 && sim.clock >= sim.warm)
		sim_measure();
	else if (sim.phase == SIM_MEASURING && sim.clock >= sim.begun + sim.least
		 && sim.rounds >= sim.first_round + sim.least_rounds)
		sim_measured();
}

static inline void sim_operation(uint32_t cpu, uint64_t pc, int begins)
{
	if (cpu == 0 && begins && pc == sim.round_pc && sim.on)
		sim_round();
}

/* The program says so. */
static inline void sim_clock_event(int runs)
{
	if (sim.on && sim.phase == SIM_MEASURING)
		sim_count(runs);
}

/* The rooms' own marks. */
static inline void sim_exception(int kind)
{
	if (!sim.on)
		return;
	sim_lump(SIM_EXCEPTION, kind == SHMM_EXC_FAULT ? sim.cost.exception
		 : kind == SHMM_EXC_TRAP ? sim.cost.trap : sim.cost.syscall);
}

static inline void sim_speculation(int event)
{
	sim_cpu_t *me = sim.me;

	if (!sim.on)
		return;
	if (event == SHMM_SPECULATION_BEGINS) {
		me->attempt_since = sim.clock;
		me->attempt = me->stack;
	} else {
		ps_t lost = me->attempt.part[SIM_RETRY] + sim.clock - me->attempt_since;

		me->stack = me->attempt;                /* all of it was for nothing */
		me->stack.part[SIM_RETRY] = lost;
	}
}

static void sim_cpu_main(void *number)
{
	sim_cpu_t *me = &sim.cpu[(uintptr_t)number];

	sim.rooms.main(me->id);
	if (sim.phase != SIM_MEASURED && (sim.live == 1 || sim.round_pc != SIM_NEVER)) {
		if (sim.phase == SIM_WARMING)           /* a program that should not end has: it failed */
			sim_measure();
		sim_measured();
	}
	me->mode = SIM_DONE;
	if (--sim.live == 0) {
		me->clock = sim.clock;
		sim_leave(SIM_FINISHED);
	}
	me->tracking = me->nseen = 0;
	sim_dispatch();                                 /* never comes back */
	__builtin_trap();
}

/* ---- begin, run, end ---------------------------------------------------------------------------------------------- */

/* huge: of so many bytes all will be used, so that large pages are worth it. */
static void *sim_map(size_t bytes, size_t huge)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, huge, MADV_HUGEPAGE);
	return p;
}

static void sim_free(void)
{
	for (uint32_t i = 0; i < sim.ncpu; i++)
		fiber_unmap(&sim.cpu[i].fiber);
	if (sim.line)
		munmap(sim.line, sim.size / 64 * sizeof(line_t));
	if (sim.page)
		munmap(sim.page, (sim.pages + 1) * sizeof(page_t));
	free(sim.tree);
	free(sim.structure);
	free(sim.sharer);
	free(sim.clusters);
	free(sim.slot_next);
	free(sim.crowd);
	memset(&sim, 0, sizeof(sim));
}

/* A segment to simulate, all CPUs at rest.  0, or -1: no memory. */
static int sim_begin(void *base, uint64_t size, uint64_t memory_off, uint64_t frame_off, uint32_t ncpu)
{
	memset(&sim, 0, sizeof(sim));
	sim.size = size;
	sim.memory_off = memory_off;
	sim.memory_line = (uint32_t)(memory_off >> 6);
	sim.frame_line = (uint32_t)(frame_off >> 6);
	sim.pages = (size - memory_off) / SIM_PAGE;
	sim.after_frames = sim.frame_line + (uint32_t)sim.pages;
	sim.ncpu = ncpu;
	for (sim.leaves = 1; sim.leaves < ncpu;)
		sim.leaves *= 2;
	while (64u << sim.word_shift < ncpu)
		sim.word_shift++;
	sim.max_slot = 4096;
	sim.max_crowd = ncpu * (SIM_WATCH + 1) + 2;
	sim.nslot = sim.ncrowd = 1;
	sim.line = sim_map(size / 64 * sizeof(line_t), sim.memory_line * sizeof(line_t));
	sim.page = sim_map((sim.pages + 1) * sizeof(page_t), sim.pages * sizeof(page_t));
	sim.tree = malloc(sim.leaves * 2 * 8);
	sim.structure = calloc(sim.frame_line + 1, 1);
	sim.sharer = malloc((uint64_t)sim.max_slot << sim.word_shift << 3);
	sim.clusters = malloc(sim.max_slot * 8);
	sim.slot_next = malloc(sim.max_slot * 4);
	sim.crowd = malloc(sim.max_crowd * sizeof(crowd_t));
	if (!sim.line || !sim.page || !sim.tree || !sim.structure || !sim.sharer || !sim.clusters || !sim.slot_next || !sim.crowd)
		return -1;
	memset(sim.tree, 0xff, sim.leaves * 2 * 8);
	for (uint32_t i = 0; i < ncpu; i++) {
		sim.cpu[i].id = (uint16_t)i;
		sim.cpu[i].irq_at = SIM_NEVER;
		if (fiber_map(&sim.cpu[i].fiber, i))
			return -1;
	}
	sim.base = (uintptr_t)base;
	return 0;
}

/* Where the CPU sits and how fast it is; the machine's costs are set. */
static void sim_seat(uint32_t cpu, uint16_t core, uint16_t cluster, uint16_t socket, uint32_t slowdown, uint64_t rng)
{
	sim_cpu_t *c = &sim.cpu[cpu];

	c->core = core;
	c->cluster = cluster;
	c->socket = socket;
	c->slowdown = slowdown;
	c->hit = sim_scaled(c, sim.cost.hit);
	c->rmw = sim_scaled(c, sim.cost.rmw);
	c->fence = sim_scaled(c, sim.cost.fence);
	c->rng = rng;
	sim.socket_clusters[socket] |= 1ull << cluster;
}

/* All programs from their beginning, at time 0. */
static void sim_start(void)
{
	for (uint32_t i = 0; i < sim.ncpu; i++) {
		fiber_prepare(&sim.cpu[i].fiber, sim_cpu_main, (void *)(uintptr_t)i);
		tree_set(i, sim_key(sim.cpu[i].clock, i));
	}
	sim.live = sim.ncpu;
	sim.status = SIM_RUNNING;
	sim.me = NULL;
	if (sim.round_pc == SIM_NEVER)
		sim_measure();
}

/* Simulates so many more accesses, roughly; sim.status says what came of it. */
static void sim_run(uint64_t accesses)
{
	if (sim.status != SIM_RUNNING || sim.out_of_memory)
		return;
	sim.pause_at = sim.accesses + accesses;
	if (sim.pause_at > sim.most_accesses)
		sim.pause_at = sim.most_accesses + 1;   /* a CPU alone looks up at no other time */
	sim.on = 1;
	if (sim.me == NULL) {
		uint64_t first = tree_first();

		tree_set(key_cpu(first), SIM_NEVER);
		sim_enter(&sim.cpu[key_cpu(first)]);
	}
	shmm_fiber_switch(&sim.host_sp, sim.me->fiber.sp);
}
#endif
