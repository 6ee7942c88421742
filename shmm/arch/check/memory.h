/* What an access through the door does on the check engine: a choice for the explorer, then the access as the memory
 * model has it, then the checks.
 *
 * Every function here is out of line on purpose: the rooms have a thousand places that call them, and what is inlined a
 * thousand times does not fit an instruction cache.
 */
#ifndef SHMM_CHECK_MEMORY_H
#define SHMM_CHECK_MEMORY_H

#include "tso.h"
#include "weak.h"

#define CHECK_CALL __attribute__((noinline)) static

static void check_choose(void);
static uint32_t check_choose_value(uint32_t older, uint32_t usual);

/* Before each access: the explorer may let another CPU run here. */
static inline void check_point(void)
{
	chk.me->steps++;
	if (__builtin_expect(--chk.fuel == 0, 0))
		check_choose();
}

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

/* ---- loads ---------------------------------------------------------------------------------------------------
 *
 * Each access is written once and compiled twice: `slow` looks at everything, and the fast one is for the common case
 * that chk.slow says: exploring, sequentially consistent, nothing traced, no spin loop watched. */

#define CHECK_ONCE static inline __attribute__((always_inline))

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
	check_trace(kind, offset, size, value, value, 0);
}

CHECK_ONCE uint64_t load_atomic(const void *p, uint32_t size, int kind, int slow)
{
	uint32_t offset = check_offset(p);
	uint64_t value;

	if (slow && !chk.on)
		return host_load(p, size);
	check_point();
	check_alive(offset);
	if (!slow) {
		clock_read(chk.shadow[offset >> 2].clock, kind == SHMM_LD_ACQUIRE);
		return host_load(p, size);
	}
	value = load_as_modelled(offset, size, kind == SHMM_LD_ACQUIRE);
	check_loaded(kind, offset, size, value);
	return value;
}

CHECK_ONCE uint64_t load_plain(const void *p, uint32_t size, int slow)
{
	uint32_t offset = check_offset(p);
	uint64_t value;

	if (slow && !chk.on)
		return host_load(p, size);
	check_point();
	check_alive(offset);
	plain_read(&chk.shadow[offset >> 2], offset);
	if (!slow)
		return host_load(p, size);
	value = chk.buffer[chk.id].n ? tso_load(offset, size) : check_peek(offset, size);
	check_loaded(SHMM_LD_PLAIN, offset, size, value);
	return value;
}

CHECK_CALL uint64_t load_atomic_slow(const void *p, uint32_t size, int kind) { return load_atomic(p, size, kind, 1); }
CHECK_CALL uint64_t load_plain_slow(const void *p, uint32_t size) { return load_plain(p, size, 1); }

CHECK_CALL uint64_t check_load(const void *p, uint32_t size, int kind)
{
	return __builtin_expect(chk.slow, 0) ? load_atomic_slow(p, size, kind) : load_atomic(p, size, kind, 0);
}

CHECK_CALL uint64_t check_load_plain(const void *p, uint32_t size)
{
	return __builtin_expect(chk.slow, 0) ? load_plain_slow(p, size) : load_plain(p, size, 0);
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
	check_trace(kind, offset, size, check_peek(offset, size), value, 0);
	if (chk.me->tracking)
		check_watch_own_store(offset, value);
}

CHECK_ONCE void store_atomic(void *p, uint32_t size, uint64_t value, int kind, int slow)
{
	uint32_t offset = check_offset(p);

	if (slow && !chk.on) {
		host_store(p, size, value);
		return;
	}
	check_point();
	check_alive(offset);
	if (!slow) {
		shadow_set(&chk.shadow[offset >> 2].clock, clock_of_store(kind == SHMM_ST_RELEASE));
		check_poke(offset, size, value);
		return;
	}
	check_stores(kind, offset, size, value);
	store_as_modelled(offset, size, value, kind == SHMM_ST_RELEASE);
}

CHECK_ONCE void store_plain(void *p, uint32_t size, uint64_t value, int slow)
{
	uint32_t offset = check_offset(p);

	if (slow && !chk.on) {
		host_store(p, size, value);
		return;
	}
	check_point();
	check_alive(offset);
	plain_write(&chk.shadow[offset >> 2], offset);
	if (slow)
		check_stores(SHMM_ST_PLAIN, offset, size, value);
	if (slow && chk.model == CHECK_TSO)
		tso_store(offset, size, value, chk.shadow[offset >> 2].clock);
	else
		check_poke(offset, size, value);
}

CHECK_CALL void store_atomic_slow(void *p, uint32_t size, uint64_t value, int kind) { store_atomic(p, size, value, kind, 1); }
CHECK_CALL void store_plain_slow(void *p, uint32_t size, uint64_t value) { store_plain(p, size, value, 1); }

CHECK_CALL void check_store(void *p, uint32_t size, uint64_t value, int kind)
{
	if (__builtin_expect(chk.slow, 0))
		store_atomic_slow(p, size, value, kind);
	else
		store_atomic(p, size, value, kind, 0);
}

CHECK_CALL void check_store_plain(void *p, uint32_t size, uint64_t value)
{
	if (__builtin_expect(chk.slow, 0))
		store_plain_slow(p, size, value);
	else
		store_plain(p, size, value, 0);
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

CHECK_CALL void check_rmw_begin(const void *p, int kind)
{
	if (!chk.on)
		return;
	check_point();
	check_alive(check_offset(p));
	if (chk.model == CHECK_TSO)
		tso_drain(chk.id);
	if (kind == SHMM_RMW) {
		clock_fence(1, 1);
		if (chk.model == CHECK_WEAK)
			weak_fence(1, 1);
	}
}

CHECK_CALL void check_rmw_end(void *p, uint32_t size, uint64_t old, int kind)
{
	uint32_t offset = check_offset(p);
	uint64_t value, *word;
	shadow_t *cell;
	int acquire = kind == SHMM_RMW || kind == SHMM_RMW_ACQUIRE, release = kind == SHMM_RMW || kind == SHMM_RMW_RELEASE;
	vclock_t clock;

	if (!chk.on)
		return;
	word = (uint64_t *)(chk.base + (offset & ~7u));
	cell = &chk.shadow[offset >> 2];
	value = check_peek(offset, size);
	*word = check_merge(*word, offset, size, old);  /* as it was, and once more by way of the log */
	if (chk.model == CHECK_WEAK) {
		weak_load(offset, size, 0, acquire);
		if (value != old)
			weak_store(offset, size, value, release, 1);
	} else {
		clock_read(cell->clock, acquire);
		if (value != old) {
			clock = clock_of_store(release);
			clock_join(&clock, cell->clock);
			shadow_set(&cell->clock, clock);
		}
	}
	check_poke(offset, size, value);
	if (kind == SHMM_RMW) {
		clock_fence(1, 1);
		if (chk.model == CHECK_WEAK)
			weak_fence(1, 1);
	}
	if (chk.me->tracking)
		check_watch(offset, size, value);
	check_trace(kind, offset, size, old, value, 0);
}

CHECK_CALL void check_fence(int kind)
{
	int read = kind != SHMM_FENCE_WRITE, write = kind != SHMM_FENCE_READ;

	if (!chk.on)
		return;
	check_point();
	check_trace(kind, 0, 0, 0, 0, 0);
	clock_fence(read, write);
	if (chk.model == CHECK_TSO && read && write)
		tso_drain(chk.id);
	if (chk.model == CHECK_WEAK)
		weak_fence(read, write);
}
#endif
