/* What an access through the door does on the check engine: a choice for the explorer, then the access as the memory
 * model has it, then the checks.
 *
 * Every function here is out of line on purpose: the rooms have a thousand places that call them, and what is inlined a
 * thousand times does not fit an instruction cache.
 */
#ifndef SHMM_CHECK_MEMORY_H
#define SHMM_CHECK_MEMORY_H

#include "turn.h"

#define CHECK_CALL __attribute__((noinline)) static

static inline uint32_t check_offset(const void *p) { return (uint32_t)((const uint8_t *)p - chk.base); }

/* While nothing is explored the segment is simply memory. */
static inline uint64_t host_load(const void *p, uint32_t size)
{
	return size == 8 ? *(const uint64_t *)p : *(const uint32_t *)p;
}

static inline void host_store(void *p, uint32_t size, uint64_t value)
{
	if (size == 8)
		*(uint64_t *)p = value;
	else
		*(uint32_t *)p = (uint32_t)value;
}

/* A spin loop's last turns remember what they looked at, to know when another turn is worth it. */
static void check_watch(uint32_t offset, uint32_t size, uint64_t value)
{
	check_cpu_t *me = chk.me;

	for (uint32_t i = 0; i < me->nwatch; i++)
		if (me->watch[i] == offset) {
			me->watched[i] = value;
			return;
		}
	if (me->nwatch == CHECK_WATCH) {
		me->coarse = 1;
		return;
	}
	me->watch[me->nwatch] = offset;
	me->watch_size[me->nwatch] = size;
	me->watched[me->nwatch++] = value;
}

static void check_watch_own_store(uint32_t offset, uint64_t value)
{
	for (uint32_t i = 0; i < chk.me->nwatch; i++)
		if (chk.me->watch[i] == offset)
			chk.me->watched[i] = value;
}

/* ---- the common case -------------------------------------------------------------------------------------------
 *
 * Exploring, sequentially consistent, nothing traced, no choice here and nothing wrong: then an access is a few
 * instructions and calls nobody.  Whatever else it may be, the slow function beside it does all of it from the start. */

static inline int check_common(uint32_t offset)
{
	return __builtin_expect(!chk.slow && chk.fuel != 1 && !is_poisoned(offset), 1);
}

static inline void check_step(void)
{
	chk.me->steps++;
	chk.fuel--;
}

/* ---- loads ---------------------------------------------------------------------------------------------------*/

static uint64_t load_as_modelled(uint32_t offset, uint32_t size, int acquire)
{
	uint32_t older;

	if (chk.model != CHECK_WEAK) {
		clock_read(chk.shadow[offset >> 2].clock, acquire);
		return chk.buffer[chk.id].n ? tso_load(offset, size) : check_peek(offset, size);
	}
	older = weak_older(offset);
	if (older)
		older = check_choose_value(older, weak_default(offset));
	return weak_load(offset, size, older, acquire);
}

static void check_loaded(int kind, uint32_t offset, uint32_t size, uint64_t value)
{
	if (chk.me->tracking)
		check_watch(offset, size, value);
	/* what memory holds, and what was read of it: an old value, perhaps */
	check_trace(kind, offset, size, chk.model == CHECK_WEAK ? check_peek(offset, size) : value, value);
}

CHECK_CALL uint64_t load_slow(const void *p, uint32_t size, int kind)
{
	uint32_t offset = check_offset(p);
	uint64_t value;

	if (!chk.on)
		return host_load(p, size);
	check_point();
	check_alive(offset);
	value = load_as_modelled(offset, size, kind == SHMM_LD_ACQUIRE);
	check_loaded(kind, offset, size, value);
	return value;
}

CHECK_CALL uint64_t check_load(const void *p, uint32_t size, int kind)
{
	uint32_t offset = check_offset(p);
	vclock_t published;

	if (!check_common(offset))
		return load_slow(p, size, kind);
	published = chk.shadow[offset >> 2].clock;
	if (!clock_covers(chk.me->acquired, published)
	    || (kind == SHMM_LD_ACQUIRE && !clock_covers(chk.me->now, published)))
		return load_slow(p, size, kind);
	check_step();
	return host_load(p, size);
}

CHECK_CALL uint64_t load_plain_slow(const void *p, uint32_t size)
{
	uint32_t offset = check_offset(p);
	uint64_t value;

	if (!chk.on)
		return host_load(p, size);
	check_point();
	check_alive(offset);
	plain_read(&chk.shadow[offset >> 2], offset);
	value = chk.buffer[chk.id].n ? tso_load(offset, size) : check_peek(offset, size);
	check_loaded(SHMM_LD_PLAIN, offset, size, value);
	return value;
}

CHECK_CALL uint64_t check_load_plain(const void *p, uint32_t size)
{
	uint32_t offset = check_offset(p);
	shadow_t *cell;

	if (!check_common(offset))
		return load_plain_slow(p, size);
	cell = &chk.shadow[offset >> 2];
	if (writer_races(cell))
		return load_plain_slow(p, size);
	shadow_set(&cell->clock, also_read(cell));
	check_step();
	return host_load(p, size);
}

/* ---- stores --------------------------------------------------------------------------------------------------*/

static void store_as_modelled(uint32_t offset, uint32_t size, uint64_t value, int release)
{
	vclock_t clock;

	if (chk.model == CHECK_WEAK) {
		weak_store(offset, size, value, release, 0);
		check_poke(offset, size, value);
		return;
	}
	clock = clock_of_store(release);
	if (chk.model == CHECK_TSO) {
		tso_store(offset, size, value, clock);
		return;
	}
	shadow_set(&chk.shadow[offset >> 2].clock, clock);
	check_poke(offset, size, value);
}

static void check_stores(int kind, uint32_t offset, uint32_t size, uint64_t value)
{
	check_trace(kind, offset, size, check_peek(offset, size), value);
	if (chk.me->tracking)
		check_watch_own_store(offset, value);
}

CHECK_CALL void store_slow(void *p, uint32_t size, uint64_t value, int kind)
{
	uint32_t offset = check_offset(p);

	if (!chk.on) {
		host_store(p, size, value);
		return;
	}
	check_point();
	check_alive(offset);
	check_stores(kind, offset, size, value);
	store_as_modelled(offset, size, value, kind == SHMM_ST_RELEASE);
}

CHECK_CALL void check_store(void *p, uint32_t size, uint64_t value, int kind)
{
	uint32_t offset = check_offset(p);

	if (!check_common(offset)) {
		store_slow(p, size, value, kind);
		return;
	}
	check_step();
	shadow_set(&chk.shadow[offset >> 2].clock, clock_of_store(kind == SHMM_ST_RELEASE));
	check_poke(offset, size, value);
}

CHECK_CALL void store_plain_slow(void *p, uint32_t size, uint64_t value)
{
	uint32_t offset = check_offset(p);

	if (!chk.on) {
		host_store(p, size, value);
		return;
	}
	check_point();
	check_alive(offset);
	plain_write(&chk.shadow[offset >> 2], offset);
	check_stores(SHMM_ST_PLAIN, offset, size, value);
	if (chk.model == CHECK_TSO)
		tso_store(offset, size, value, chk.shadow[offset >> 2].clock);
	else
		check_poke(offset, size, value);
}

CHECK_CALL void check_store_plain(void *p, uint32_t size, uint64_t value)
{
	uint32_t offset = check_offset(p);
	shadow_t *cell;

	if (!check_common(offset)) {
		store_plain_slow(p, size, value);
		return;
	}
	cell = &chk.shadow[offset >> 2];
	if (writer_races(cell) || readers_race(cell)) {
		store_plain_slow(p, size, value);
		return;
	}
	check_step();
	shadow_set(&cell->write, written_now());
	check_poke(offset, size, value);
}

/* A counter of this CPU's own: one step, for nobody else stores to it and readers may be one behind. */
CHECK_CALL void check_add_owned(void *p, uint64_t n)
{
	uint32_t offset = check_offset(p);

	if (!chk.on) {
		*(uint64_t *)p += n;
		return;
	}
	check_point();
	check_poke(offset, 8, check_peek(offset, 8) + n);
}

/* ---- read-modify-writes: the host's own instruction stands between the two --------------------------------------*/

static void rmw_fence(int kind)
{
	if (kind != SHMM_RMW)
		return;
	clock_fence(1, 1);
	if (chk.model == CHECK_WEAK)
		weak_fence(1, 1);
}

CHECK_CALL void check_rmw_begin(const void *p, uint32_t size, int kind)
{
	uint32_t offset = check_offset(p);

	if (!chk.on)
		return;
	check_point();
	check_alive(offset);
	if (chk.model == CHECK_TSO)
		tso_drain(chk.id);
	rmw_fence(kind);
	if (chk.model == CHECK_WEAK)
		weak_location(offset, size, 1);         /* while memory still holds its initial value */
	chk.before = check_peek(offset & ~7u, 8);
}

/* What a read-modify-write reads, and what it publishes: with its value, whatever the value before was published with. */
static void rmw_clocks(shadow_t *cell, int acquire, int release, int stores)
{
	vclock_t clock;

	clock_read(cell->clock, acquire);
	if (!stores)
		return;
	clock = clock_of_store(release);
	clock_join(&clock, cell->clock);
	shadow_set(&cell->clock, clock);
}

/* The host has done it: notes the change of memory as if it came now.  (The whole word is not read again: a wide load
 * right after a narrow store would wait for it.) */
CHECK_CALL void check_rmw_end(void *p, uint32_t size, uint64_t old, int kind)
{
	uint32_t offset = check_offset(p);
	uint64_t value;
	int acquire = kind == SHMM_RMW || kind == SHMM_RMW_ACQUIRE, release = kind == SHMM_RMW || kind == SHMM_RMW_RELEASE;

	if (!chk.on)
		return;
	value = host_load(p, size);
	if (chk.model == CHECK_WEAK) {
		weak_load(offset, size, 0, acquire);
		if (value != old)
			weak_store(offset, size, value, release, 1);
	} else {
		rmw_clocks(&chk.shadow[offset >> 2], acquire, release, value != old);
	}
	if (value != old)
		check_changed((uint64_t *)(chk.base + (offset & ~7u)), chk.before,
			      check_merge(chk.before, offset, size, value));
	rmw_fence(kind);
	if (chk.slow && chk.me->tracking)
		check_watch(offset, size, value);
	check_trace(kind, offset, size, old, value);
}

CHECK_CALL void check_fence(int kind)
{
	int read = kind != SHMM_FENCE_WRITE, write = kind != SHMM_FENCE_READ;

	if (!chk.on)
		return;
	check_point();
	check_trace(kind, 0, 0, 0, 0);
	clock_fence(read, write);
	if (chk.model == CHECK_TSO && read && write)
		tso_drain(chk.id);
	if (chk.model == CHECK_WEAK)
		weak_fence(read, write);
}
#endif
