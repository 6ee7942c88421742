/* The memory model `weak`: a load may return an old value, as long as nothing has shown this CPU a newer one.
 *
 * Each word that was stored to keeps its stores in the order in which they were executed.  A view is a position in the
 * history of every word; a CPU may read a store at or after its view's position, and then its view moves there, so that
 * it never reads backwards.  What moves a view further: an acquire, or a read barrier after a relaxed load, takes over
 * the view that the store carries; a store carries its CPU's whole view if it is a release, or the view of the last
 * write barrier.  Full barriers pass one common view along.  A read-modify-write reads the newest store and carries on
 * what that one carried (release sequence).
 *
 * Whoever reads an old value of a word goes on reading that one at no further cost, until a newer one must be seen: what
 * is chosen is the moment at which a CPU falls behind, not each of its loads.
 *
 * So it shows store-load reordering (SB), reordering of the writer's stores and of the reader's loads (MP), and stores
 * seen in different orders by different CPUs (IRIW, unless full barriers stand between).  It does not show loads that
 * return what is stored later (LB), nor stores that land behind others already executed (2+2W); address dependencies
 * order nothing in it, which is weaker than any machine but Alpha.  Plain cells always read the newest value: a race on
 * them is reported instead.  A program's own loads and stores are sequentially consistent.
 *
 * Sources: Kang et al., "A Promising Semantics for Relaxed-Memory Concurrency" (POPL 2017), without promises.
 */
#ifndef SHMM_CHECK_WEAK_H
#define SHMM_CHECK_WEAK_H

#include "race.h"

typedef struct {
	uint64_t value;
	vclock_t clock;
	uint32_t previous;              /* the store before this one to the same word; 0: the initial value */
	uint32_t view;                  /* what it carries: where in the arena */
	uint16_t n, position;           /* how many positions that view has; its own in the word's history */
} message_t;

enum { WEAK_MESSAGES = 1 << 16, WEAK_ARENA = 1 << 22 };

typedef uint16_t view_t[CHECK_LOCATIONS] __attribute__((aligned(64)));

static struct {
	uint32_t n;                     /* words with a history, ever */
	uint16_t *location;             /* by word of 4 bytes; 0: none */
	uint64_t initial[CHECK_LOCATIONS];
	uint64_t head[CHECK_LOCATIONS]; /* the newest store's message; 0: none in this run */
	view_t now[CHECK_CPUS], acquired[CHECK_CPUS], released[CHECK_CPUS], common;
	view_t behind[CHECK_CPUS];      /* the position + 1 of the old value that it reads; 0: the newest */
	message_t *message;
	uint16_t *arena;
} weak;

static void view_join(uint16_t *to, const uint16_t *from, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++)
		if (from[i] > to[i]) {
			check_save((uint64_t *)((uintptr_t)&to[i] & ~(uintptr_t)7));
			to[i] = from[i];
		}
}

static inline void view_raise(uint16_t *view, uint32_t location, uint16_t position)
{
	if (view[location] < position) {
		check_save((uint64_t *)((uintptr_t)&view[location] & ~(uintptr_t)7));
		view[location] = position;
	}
}

/* The word's number; made at its first store ever, when memory still holds its initial value. */
static uint32_t weak_location(uint32_t offset, uint32_t size, int make)
{
	uint32_t location = weak.location[offset >> 2];

	if (location == 0 && make) {
		if (weak.n + 1 >= CHECK_LOCATIONS)
			check_violate("cut-off", "more words are stored to than the memory model has room for", offset);
		location = ++weak.n;
		weak.location[offset >> 2] = (uint16_t)location;
		weak.initial[location] = check_peek(offset, size);
	}
	return location;
}

static inline uint16_t weak_newest(uint32_t location)
{
	return weak.head[location] ? weak.message[weak.head[location]].position : 0;
}

/* How many older values a load by this CPU may return instead of the newest. */
static inline uint32_t weak_older(uint32_t offset)
{
	uint32_t location = weak.location[offset >> 2];

	return location ? weak_newest(location) - weak.now[chk.id][location] : 0;
}

/* How far back this CPU reads if nobody decides otherwise. */
static inline uint32_t weak_default(uint32_t offset)
{
	uint32_t location = weak.location[offset >> 2], behind = weak.behind[chk.id][location];

	return location && behind > weak.now[chk.id][location] ? weak_newest(location) + 1 - behind : 0;
}

static void weak_remember(uint32_t location, uint32_t back)
{
	uint16_t *behind = &weak.behind[chk.id][location];
	uint16_t now = back ? (uint16_t)(weak_newest(location) - back + 1) : 0;

	if (*behind != now) {
		check_save((uint64_t *)((uintptr_t)behind & ~(uintptr_t)7));
		*behind = now;
	}
}

/* Whoever waits sees the newest values in the end: a store is visible to everybody after finite time.  Returns whether
 * this CPU was behind, and so has something new to see. */
static int weak_catch_up(void)
{
	int was_behind = 0;

	for (uint32_t i = 1; i <= weak.n; i++) {
		was_behind |= weak.behind[chk.id][i] != 0;
		weak_remember(i, 0);
	}
	return was_behind;
}

/* The value of a load that goes `back` stores behind the newest. */
static uint64_t weak_load(uint32_t offset, uint32_t size, uint32_t back, int acquire)
{
	uint32_t location = weak.location[offset >> 2];
	uint32_t at = location ? (uint32_t)weak.head[location] : 0;
	const message_t *m;

	if (location == 0)
		return check_peek(offset, size);
	weak_remember(location, back);
	while (back-- && at)
		at = weak.message[at].previous;
	if (at == 0)
		return weak.initial[location];
	m = &weak.message[at];
	view_raise(weak.now[chk.id], location, m->position);
	view_join(weak.acquired[chk.id], weak.arena + m->view, m->n);
	if (acquire)
		view_join(weak.now[chk.id], weak.arena + m->view, m->n);
	clock_read(m->clock, acquire);
	return m->value;
}

/* Appends a store to the word's history; memory itself is written by the caller, afterwards. */
static void weak_store(uint32_t offset, uint32_t size, uint64_t value, int release, int is_rmw)
{
	uint32_t location = weak_location(offset, size, 1);
	uint32_t previous = (uint32_t)weak.head[location], number = chk.live.messages + 1;
	const message_t *before = &weak.message[previous];
	message_t *m = &weak.message[number];
	uint16_t *carried = weak.arena + chk.live.arena;

	if (number >= WEAK_MESSAGES || chk.live.arena + weak.n + 1 >= WEAK_ARENA)
		check_violate("cut-off", "the run stores more often than the memory model has room for", offset);
	m->position = (uint16_t)(weak_newest(location) + 1);
	view_raise(weak.now[chk.id], location, m->position);
	memcpy(carried, release ? weak.now[chk.id] : weak.released[chk.id], (weak.n + 1) * sizeof(uint16_t));
	if (carried[location] < m->position)
		carried[location] = m->position;
	m->clock = clock_of_store(release);
	if (is_rmw && previous) {
		for (uint32_t i = 1; i < before->n; i++)
			if (weak.arena[before->view + i] > carried[i])
				carried[i] = weak.arena[before->view + i];
		clock_join(&m->clock, before->clock);
	}
	m->value = value;
	m->previous = previous;
	m->view = chk.live.arena;
	m->n = (uint16_t)(weak.n + 1);
	check_save(&weak.head[location]);
	weak.head[location] = number;
	chk.live.messages = number;
	chk.live.arena += weak.n + 1;
}

static void weak_fence(int read, int write)
{
	uint16_t *now = weak.now[chk.id];

	if (read)
		view_join(now, weak.acquired[chk.id], weak.n + 1);
	if (read && write) {
		view_join(now, weak.common, weak.n + 1);
		view_join(weak.common, now, weak.n + 1);
	}
	if (write)
		view_join(weak.released[chk.id], now, weak.n + 1);
}

/* A program's own access, and whatever is not modelled: all of the word's history is seen. */
static inline void weak_see(uint32_t offset)
{
	uint32_t location = weak.location[offset >> 2];

	if (location)
		view_raise(weak.now[chk.id], location, weak_newest(location));
}
#endif
