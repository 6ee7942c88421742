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

enum { CLOCK_LANE = 16 };
#define CLOCK_TOPS 0x8000800080008000ull        /* no clock gets that far: see chk.limit */

static inline uint32_t clock_of(vclock_t clock, uint32_t cpu) { return clock >> CLOCK_LANE * cpu & 0xffff; }
static inline void clock_tick(void) { chk.me->now += 1ull << chk.lane; }

/* Whether each of a's clocks is at least b's: no lane borrows from its top bit. */
static inline int clock_covers(vclock_t a, vclock_t b)
{
	return (((a | CLOCK_TOPS) - b) & CLOCK_TOPS) == CLOCK_TOPS;
}

static inline void clock_join(vclock_t *to, vclock_t from)
{
	vclock_t later = 0;

	if (clock_covers(*to, from))
		return;
	for (uint32_t lane = 0; lane < CLOCK_LANE * CHECK_CPUS; lane += CLOCK_LANE) {
		vclock_t mask = 0xffffull << lane;

		later |= (*to & mask) > (from & mask) ? *to & mask : from & mask;
	}
	*to = later;
}

static inline void shadow_set(uint64_t *word, uint64_t value)
{
	if (*word != value) {
		check_save(word);
		*word = value;
	}
}

/* Whether the cell's last writer is somebody whose store this CPU has not seen published. */
static inline int writer_races(const shadow_t *cell)
{
	uint32_t writer = cell->write & 0xff;

	return writer != 0 && writer != chk.id + 1 && cell->write >> 8 > clock_of(chk.me->now, writer - 1);
}

/* The cell with this CPU's clock among those of its readers. */
static inline vclock_t also_read(const shadow_t *cell)
{
	return (cell->clock & ~chk.mine) | (chk.me->now & chk.mine);
}

/* Whether somebody has read the cell whose read this CPU has not seen published. */
static inline int readers_race(const shadow_t *cell) { return !clock_covers(chk.me->now, cell->clock & ~chk.mine); }

static inline uint64_t written_now(void) { return (uint64_t)clock_of(chk.me->now, chk.id) << 8 | (chk.id + 1); }

static void plain_read(shadow_t *cell, uint32_t offset)
{
	if (writer_races(cell))
		check_violate("race", "a plain read races with a write", offset);
	shadow_set(&cell->clock, also_read(cell));
}

static void plain_write(shadow_t *cell, uint32_t offset)
{
	if (writer_races(cell))
		check_violate("race", "two plain writes race", offset);
	if (readers_race(cell))
		check_violate("race", "a plain write races with a read", offset);
	shadow_set(&cell->write, written_now());
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

static inline int is_poisoned(uint32_t offset) { return chk.poisoned[offset >> 6] >> (offset >> 2 & 15) & 1; }

static inline void check_alive(uint32_t offset)
{
	if (__builtin_expect(is_poisoned(offset), 0))
		check_violate("poison", "freed memory is used", offset);
}

/* Four lines at once: a huge page has very many. */
static void poison_word(uint64_t *word, uint64_t now)
{
	if (*word != now) {
		check_save(word);
		*word = now;
	}
}

static void poison_bytes(uint32_t offset, uint32_t n, int freed)
{
	for (uint32_t at = offset; at < offset + n; at += 4) {
		uint32_t line = at >> 6, bits = 1u << (at >> 2 & 15);
		uint16_t now;

		if (at % 256 == 0 && at + 256 <= offset + n) {
			poison_word((uint64_t *)(void *)&chk.poisoned[line], freed ? ~0ull : 0);
			at += 252;
			continue;
		}
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
