/* The lines of memory: who has each, and what it costs to get it (after MESI with a directory).
 *
 * A line is in nobody's cache, in one CPU's alone, or in several that read it.  What is not in the own cache comes from the
 * nearest that has it: the other hardware thread of the core, the cluster (last-level cache), the socket, another socket,
 * memory.  A line serves one writer at a time, and readers close after one another: the others queue.  Who is next is
 * drawn at random among the first few, for hardware is not first come, first served, and a fixed order would hand the
 * line round socket by socket.  A CPU that has won the line keeps it for a while (retention), in which its own accesses are hits.
 *
 * Stores go into the store buffer: the CPU does not wait for a line that is free, only its next locked instruction or fence
 * waits until all have arrived.
 */
#ifndef SHMM_SIM_LINE_H
#define SHMM_SIM_LINE_H

#include <stdlib.h>
#include "turn.h"

enum { SIM_DRAWN_AMONG = 16, SIM_CALM = 100 * 1000 * 1000, SIM_WARM = 1000 * 1000 };      /* the latter two: ps */

static inline uint32_t sim_line_of(const void *p) { return (uint32_t)(((uintptr_t)p - sim.base) >> 6); }

static enum sim_structure sim_structure_of(uint32_t line)
{
	if (line >= sim.memory_line)
		return SIM_S_page_table;
	if (line >= sim.after_frames)
		return SIM_S_other;
	if (line >= sim.frame_line)
		return sim.rooms.is_table(line - sim.frame_line) ? SIM_S_ptl : SIM_S_frame;
	return sim.structure[line];
}

/* ---- sharers ---------------------------------------------------------------------------------------------------*/

static inline int slot_has(uint32_t slot, uint32_t cpu)
{
	return sim.sharer[((uint64_t)slot << sim.word_shift) + (cpu >> 6)] >> (cpu & 63) & 1;
}

static void slot_add(uint32_t slot, const sim_cpu_t *cpu)
{
	sim.sharer[((uint64_t)slot << sim.word_shift) + (cpu->id >> 6)] |= 1ull << (cpu->id & 63);
	sim.clusters[slot] |= 1ull << cpu->cluster;
}

static int slots_grow(void)
{
	uint32_t more = sim.max_slot * 2;
	void *sharer = realloc(sim.sharer, (uint64_t)more << sim.word_shift << 3);
	void *clusters, *next;

	if (sharer)
		sim.sharer = sharer;
	clusters = realloc(sim.clusters, more * 8ull);
	if (clusters)
		sim.clusters = clusters;
	next = realloc(sim.slot_next, more * 4ull);
	if (next)
		sim.slot_next = next;
	if (!sharer || !clusters || !next) {
		sim.out_of_memory = 1;
		return -1;
	}
	sim.max_slot = more;
	return 0;
}

/* An empty set of sharers.  Out of memory: slot 0, which nobody trusts any more, for the run is void. */
static uint32_t slot_new(void)
{
	uint32_t slot = sim.free_slot;

	if (slot)
		sim.free_slot = sim.slot_next[slot];
	else if (sim.nslot == sim.max_slot && slots_grow())
		return 0;
	else
		slot = sim.nslot++;
	for (uint32_t i = 0; i < 1u << sim.word_shift; i++)
		sim.sharer[((uint64_t)slot << sim.word_shift) + i] = 0;
	sim.clusters[slot] = 0;
	return slot;
}

static void slot_free(uint32_t slot)
{
	sim.slot_next[slot] = sim.free_slot;
	sim.free_slot = slot;
}

/* The CPU that has the line alone. */
static inline sim_cpu_t *line_owner(const line_t *l) { return &sim.cpu[(l->owner & ~LINE_EXACT) - 1]; }

static inline int line_alone(const line_t *l) { return (l->owner & ~LINE_EXACT) == sim.tag; }

static inline int line_mine(const line_t *l)
{
	return line_alone(l) || (l->owner & LINE_SHARED && slot_has(l->owner & ~LINE_SHARED, sim.id));
}

/* ---- crowds: who queues for a line, who spins on it -----------------------------------------------------------*/

static crowd_t *line_crowd(line_t *l)
{
	uint32_t i = l->crowd;

	if (i)
		return &sim.crowd[i];
	i = sim.free_crowd;
	if (i)
		sim.free_crowd = sim.crowd[i].next;
	else
		i = sim.ncrowd++;       /* a CPU is in SIM_WATCH + 1 crowds at most: there are enough */
	sim.crowd[i] = (crowd_t){ 0, 0, 0, 0 };
	l->crowd = i;
	return &sim.crowd[i];
}

static void line_disperse(line_t *l)
{
	crowd_t *crowd = &sim.crowd[l->crowd];

	if (l->crowd && !crowd->head && !crowd->watchers) {
		crowd->next = sim.free_crowd;
		sim.free_crowd = l->crowd;
		l->crowd = 0;
	}
}

/* When a CPU may have the line.  Readers follow each other closer than a transfer takes, as the data are on their way to
 * several at once; a writer waits until all have theirs. */
static inline ps_t line_free_at(const line_t *l, int writes)
{
	uint32_t lead = sim.cost.socket > sim.cost.reader ? sim.cost.socket - sim.cost.reader : 0;

	return writes || !(l->owner & LINE_SHARED) || l->busy < lead ? l->busy : l->busy - lead;
}

/* The line is free for the first who queues for it: draws one of the first few, takes it out of the queue.  While only
 * readers may have it, only readers are drawn. */
static uint32_t line_grant(uint32_t line)
{
	crowd_t *crowd = &sim.crowd[sim.line[line].crowd];
	uint32_t readers = !sim.cpu[crowd->head - 1].writes, among = 0, seen = 0, at, before = 0, chosen, previous = 0;

	for (at = crowd->head; at && seen < SIM_DRAWN_AMONG; at = sim.cpu[at - 1].queue_next, seen++)
		among += !(readers && sim.cpu[at - 1].writes);
	among = among > 1 ? sim_random(&sim.rng, among) : 0;
	for (at = chosen = crowd->head; at; before = at, at = sim.cpu[at - 1].queue_next) {
		if (readers && sim.cpu[at - 1].writes)
			continue;
		chosen = at;
		previous = before;
		if (among-- == 0)
			break;
	}
	if (previous)
		sim.cpu[previous - 1].queue_next = sim.cpu[chosen - 1].queue_next;
	else
		crowd->head = sim.cpu[chosen - 1].queue_next;
	if (crowd->tail == chosen)
		crowd->tail = previous;
	return chosen - 1;
}

/* Somebody queues for the line, and will again: its owner's own accesses are not quick any more.  They must not run ahead
 * of the moment at which it loses the line, or of somebody's request for it: what a critical section does to its lock's
 * line would cost nothing, which costs a transfer each time when others want the lock. */
static inline void line_contended(line_t *l)
{
	l->contended = 1;
	if (l->owner && !(l->owner & LINE_SHARED))
		l->owner |= LINE_EXACT;
}

/* Several read the line, and somebody may be about to write it again: reading ahead would be reading after. */
static inline int line_is_warm(const line_t *l)
{
	return l->contended && sim.clock < l->busy + SIM_WARM;
}

/* Nobody else has asked for the line for a while: it counts as contended no more. */
static inline void line_calm_down(line_t *l)
{
	if (sim.clock > l->busy + SIM_CALM) {
		l->contended = 0;
		if (!(l->owner & LINE_SHARED))
			l->owner &= ~LINE_EXACT;
	}
}

/* Once the line's next free moment is known, somebody of the queue is in the tree for it. */
static void line_call_next(line_t *l)
{
	if (l->crowd && sim.crowd[l->crowd].head) {
		uint32_t cpu = sim.crowd[l->crowd].head - 1;

		tree_set(cpu, sim_key(line_free_at(l, sim.cpu[cpu].writes), cpu));
	} else
		line_disperse(l);
}

/* Waits in the queue.  On return the line is free and it is this CPU's turn: it must take it at once. */
SIM_INLINE void line_queue(uint32_t line, int writes)
{
	line_t *l = &sim.line[line];
	crowd_t *crowd = line_crowd(l);
	sim_cpu_t *me = sim.me;
	int alone = !crowd->head;

	me->line = line;
	me->writes = (uint8_t)writes;
	me->queue_next = 0;
	if (alone)
		crowd->head = sim.tag;
	else
		sim.cpu[crowd->tail - 1].queue_next = sim.tag;
	crowd->tail = sim.tag;
	me->stuck_on = sim_structure_of(line);
	line_contended(l);
	sim_block(SIM_QUEUED, alone ? line_free_at(l, writes) : SIM_NEVER, &me->stack.transfer[me->stuck_on]);
}

/* The line changes: whoever spins on it looks again, at this time. */
static void line_wake_watchers(line_t *l, ps_t time)
{
	uint32_t w;

	if (!l->crowd)
		return;
	w = sim.crowd[l->crowd].watchers;
	sim.crowd[l->crowd].watchers = 0;
	while (w) {
		sim_cpu_t *cpu = &sim.cpu[(w - 1) / SIM_WATCH];
		uint32_t k = (w - 1) % SIM_WATCH;

		w = cpu->watch_next[k];
		cpu->seen[k] = 0;               /* not in this list any more */
		sim_unblock(cpu, time);
	}
	line_disperse(l);
}

/* From memory, which a frame and its contents have in the node that the frame belongs to; all else is wherever it is used. */
static uint32_t transfer_from_memory(uint32_t line)
{
	uint64_t pfn;

	if (line < sim.frame_line || sim.nodes < 2)
		return sim.cost.memory;
	pfn = line >= sim.memory_line ? (line - sim.memory_line) / 64 : line - sim.frame_line;
	if (pfn >= sim.pages - sim.swap_pages)          /* a swap slot: of no node */
		return sim.cost.memory;
	return pfn * sim.nodes / (sim.pages - sim.swap_pages) == sim.me->socket ? sim.cost.memory : sim.cost.memory_remote;
}

/* ---- transfers -------------------------------------------------------------------------------------------------*/

static uint32_t transfer_from(const sim_cpu_t *other)
{
	const sim_cpu_t *me = sim.me;

	if (other->core == me->core)
		return sim.cost.smt;
	if (other->cluster == me->cluster)
		return sim.cost.cluster;
	return other->socket == me->socket ? sim.cost.socket : sim.cost.remote;
}

/* From the nearest of those who share it. */
static uint32_t transfer_from_sharers(uint32_t slot)
{
	uint64_t clusters = sim.clusters[slot];

	if (clusters >> sim.me->cluster & 1)
		return sim.cost.cluster;
	return clusters & sim.socket_clusters[sim.me->socket] ? sim.cost.socket : sim.cost.remote;
}

/* Until the farthest of those who share it has dropped it. */
static uint32_t invalidation(uint32_t slot)
{
	uint64_t clusters = sim.clusters[slot];

	if (clusters & ~sim.socket_clusters[sim.me->socket])
		return sim.cost.remote;
	return clusters & ~(1ull << sim.me->cluster) ? sim.cost.socket : sim.cost.cluster;
}

/* Gets the line for reading; the CPU is the first, and the line is free. */
static void line_read(uint32_t line)
{
	line_t *l = &sim.line[line];
	uint32_t slot, cost;

	if (l->owner == 0) {
		cost = transfer_from_memory(line);
		l->owner = sim.tag;
	} else if (l->owner & LINE_SHARED) {
		slot = l->owner & ~LINE_SHARED;
		cost = transfer_from_sharers(slot);
		slot_add(slot, sim.me);
	} else {
		cost = transfer_from(line_owner(l));
		slot = slot_new();
		slot_add(slot, line_owner(l));
		slot_add(slot, sim.me);
		l->owner = LINE_SHARED | slot;
	}
	if (l->busy < sim.clock + cost)
		l->busy = sim.clock + cost;
	sim.clock += cost;
	sim.me->stack.transfer[sim_structure_of(line)] += cost;
	line_call_next(l);
}

/* Gets the line for writing, alone; the CPU is the first, and the line is free.  Returns how long it takes. */
static uint32_t line_write(uint32_t line)
{
	line_t *l = &sim.line[line];
	uint32_t cost;

	if (l->owner == 0)
		cost = transfer_from_memory(line);
	else if (l->owner & LINE_SHARED) {
		cost = invalidation(l->owner & ~LINE_SHARED);
		slot_free(l->owner & ~LINE_SHARED);
	} else
		cost = transfer_from(line_owner(l));
	line_calm_down(l);
	l->owner = sim.tag | (l->contended ? LINE_EXACT : 0);
	l->busy = sim.clock + cost + sim.cost.retention;
	line_wake_watchers(l, sim.clock + cost);
	line_call_next(l);
	return cost;
}
#endif
