/* Data races on plain cells, by vector clocks; and freed memory.
 *
 * Two accesses to a plain cell, one of them a store, race unless one happens before the other: by program order, or
 * because something was published by a release and read by an acquire (or the fences that make relaxed accesses such).
 * Each CPU has a clock that ticks when it publishes, and knows how far it has seen the others'.
 *
 * Sources: Flanagan and Freund, FastTrack (PLDI 2009), without the epochs for reads: four CPUs fit a word.
 */
#ifndef SHMM_CHECK_RACE_H
#define SHMM_CHECK_RACE_H

#include "state.h"

static inline uint32_t clock_of(vclock_t clock, uint32_t cpu) { return clock >> 16 * cpu & 0xffff; }
static inline uint32_t clock_mine(void) { return chk.me->now >> chk.lane & 0xffff; }
static inline void clock_tick(void) { chk.me->now += 1ull << chk.lane; }

/* The later of each CPU's clocks.  Lanes never overflow: see chk.limit. */
static inline vclock_t clock_later(vclock_t a, vclock_t b)
{
	vclock_t later = 0;

	if (a == b || b == 0)
		return a;
	for (uint32_t lane = 0; lane < 16 * CHECK_CPUS; lane += 16) {
		vclock_t mask = 0xffffull << lane;

		later |= (a & mask) > (b & mask) ? a & mask : b & mask;
	}
	return later;
}

static inline void clock_join(vclock_t *to, vclock_t from)
{
	if (from && *to != from)
		*to = clock_later(*to, from);
}

static inline void shadow_set(uint64_t *word, uint64_t value)
{
	if (*word != value) {
		check_save(word);
		*word = value;
	}
}

static void check_race(uint32_t offset, const char *what) { check_violate("race", what, offset); }

/* Whether the cell's last writer is somebody whose store this CPU has not seen published. */
static inline int writer_races(const shadow_t *cell)
{
	uint32_t writer = cell->write & 0xff;

	return writer != 0 && writer != chk.id + 1 && cell->write >> 8 > clock_of(chk.me->now, writer - 1);
}

static inline void plain_read(shadow_t *cell, uint32_t offset)
{
	if (writer_races(cell))
		check_race(offset, "a plain read races with a write");
	shadow_set(&cell->clock, (cell->clock & ~(0xffffull << chk.lane)) | (uint64_t)clock_mine() << chk.lane);
}

static inline void plain_write(shadow_t *cell, uint32_t offset)
{
	vclock_t others = cell->clock & ~(0xffffull << chk.lane);

	if (writer_races(cell))
		check_race(offset, "two plain writes race");
	if (others && clock_later(chk.me->now, others) != chk.me->now)
		check_race(offset, "a plain write races with a read");
	shadow_set(&cell->write, (uint64_t)clock_mine() << 8 | (chk.id + 1));
}

/* A load saw a store that published this clock. */
static inline void clock_read(vclock_t published, int acquire)
{
	clock_join(&chk.me->acquired, published);       /* a read barrier later makes it count */
	if (acquire)
		clock_join(&chk.me->now, published);
}

/* What a store publishes: everything so far if it is a release, else what the last write barrier covers. */
static inline vclock_t clock_of_store(int release)
{
	vclock_t published = release ? chk.me->now : chk.me->released;

	if (release)
		clock_tick();
	return published;
}

static inline void clock_fence(int read, int write)
{
	if (read)
		clock_join(&chk.me->now, chk.me->acquired);
	if (write) {
		chk.me->released = chk.me->now;
		clock_tick();
	}
}

/* ---- freed memory ----------------------------------------------------------------------------------------*/

static inline void check_alive(uint32_t offset)
{
	if (__builtin_expect(chk.poisoned[offset >> 6] >> (offset >> 2 & 15) & 1, 0))
		check_violate("poison", "freed memory is used", offset);
}

static void poison_bytes(uint32_t offset, uint32_t n, int freed)
{
	for (uint32_t at = offset; at < offset + n; at += 4) {
		uint32_t line = at >> 6, bits = 1u << (at >> 2 & 15);
		uint16_t now;

		if (at % 64 == 0 && at + 64 <= offset + n) {
			bits = 0xffff;
			at += 60;
		}
		now = (uint16_t)(freed ? chk.poisoned[line] | bits : chk.poisoned[line] & ~bits);
		if (now != chk.poisoned[line]) {
			check_save((uint64_t *)((uintptr_t)&chk.poisoned[line] & ~(uintptr_t)7));
			chk.poisoned[line] = now;
		}
	}
}
#endif
