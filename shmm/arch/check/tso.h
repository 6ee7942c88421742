/* The memory model `tso`: each CPU's stores wait in a first-in-first-out buffer, and are seen by the others when they
 * drain; the CPU itself sees them at once.  A full barrier or a read-modify-write drains the CPU's own buffer, and so
 * does an interrupt, and whatever gives the CPU away.  Otherwise draining is a step of its own, which the explorer may
 * take whenever it likes.
 *
 * Clearing and copying pages drains the buffer first, as does a load that finds part of its word there.
 *
 * Source: Sewell et al., "x86-TSO" (CACM 2010).
 */
#ifndef SHMM_CHECK_TSO_H
#define SHMM_CHECK_TSO_H

#include "race.h"

static void tso_drain_one(uint32_t cpu)
{
	buffer_t *b = &chk.buffer[cpu];
	buffered_t oldest = b->store[0];
	check_cpu_t *me = chk.me;

	chk.live.drained[cpu]++;
	memmove(b->store, b->store + 1, --b->n * sizeof(b->store[0]));
	shadow_set(&chk.shadow[oldest.offset >> 2].clock, oldest.clock);
	chk.me = &chk.live.cpu[cpu];    /* it is that CPU's store */
	check_poke(oldest.offset, oldest.size, oldest.value);
	chk.me = me;
}

static void tso_drain(uint32_t cpu)
{
	while (chk.buffer[cpu].n)
		tso_drain_one(cpu);
}

static void tso_store(uint32_t offset, uint32_t size, uint64_t value, vclock_t clock)
{
	buffer_t *b = &chk.buffer[chk.id];

	if (b->n == CHECK_BUFFER)
		tso_drain_one(chk.id);
	b->store[b->n++] = (buffered_t){ offset, size, value, clock };
}

/* What a CPU itself finds in a word of its own, for whoever looks at it from outside. */
static uint64_t tso_own(uint32_t cpu, uint32_t offset, uint32_t size)
{
	for (uint32_t i = chk.buffer[cpu].n; i-- > 0; )
		if (chk.buffer[cpu].store[i].offset == offset)
			return chk.buffer[cpu].store[i].value;
	return check_peek(offset, size);
}

static uint64_t tso_load(uint32_t offset, uint32_t size)
{
	buffer_t *b = &chk.buffer[chk.id];

	for (uint32_t i = b->n; i-- > 0; ) {
		if (b->store[i].offset == offset && b->store[i].size == size)
			return b->store[i].value;
		if (b->store[i].offset >> 3 == offset >> 3 && (b->store[i].size == 8 || size == 8)) {
			tso_drain(chk.id);
			break;
		}
	}
	return check_peek(offset, size);
}
#endif
