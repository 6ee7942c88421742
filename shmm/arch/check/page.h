/* A program's bytes, and pages copied or cleared whole.
 *
 * For data races a frame's contents are one cell, which a program's loads and stores only read (programs may race with
 * each other), and which clearing and copying write: so a page that is handed out while a stale translation still leads
 * to it is a race.  A word of the contents changes as a relaxed store does, for it may become a page table's entry.
 * Clearing touches only words that may be other than 0 (chk.maybe), so that it costs what it changes.
 */
#ifndef SHMM_CHECK_PAGE_H
#define SHMM_CHECK_PAGE_H

#include "memory.h"

static inline shadow_t *page_cell(uint32_t offset)
{
	return &chk.shadow[chk.page_cells + ((offset - chk.memory) >> 12)];
}

static void content_store(uint32_t offset, uint64_t word)
{
	if (chk.model == CHECK_WEAK)
		weak_store(offset, 8, word, 0, 0);
	else
		shadow_set(&chk.shadow[offset >> 2].clock, chk.me->released);
	check_poke(offset, 8, word);
}

CHECK_CALL uint8_t check_load_user(const uint8_t *p)
{
	uint32_t offset = check_offset(p);
	uint8_t value;

	if (!chk.on)
		return *p;
	check_point();
	check_alive(offset);
	plain_read(page_cell(offset), offset);
	if (chk.model == CHECK_WEAK)
		weak_see(offset & ~7u);
	value = (uint8_t)(chk.model == CHECK_TSO ? tso_load(offset, 1) : check_peek(offset, 1));
	check_trace(SHMM_LD_RELAXED, offset, 1, value, value);
	return value;
}

CHECK_CALL void check_store_user(uint8_t *p, uint8_t value)
{
	uint32_t offset = check_offset(p), word = offset & ~7u;

	if (!chk.on) {
		*p = value;
		return;
	}
	check_point();
	check_alive(offset);
	plain_read(page_cell(offset), offset);          /* programs may race with each other, not with the kernel */
	check_trace(SHMM_ST_RELAXED, offset, 1, check_peek(offset, 1), value);
	if (chk.model == CHECK_TSO)
		tso_store(offset, 1, value, chk.me->released);
	else
		content_store(word, check_merge(check_peek(word, 8), offset, 1, value));
}

/* What a whole-page operation has in common: one step, the page's cell written (or read, of a copy's source). */
static uint32_t bulk_begin(const void *page)
{
	uint32_t offset = check_offset(page);

	check_point();
	check_alive(offset);
	if (chk.model == CHECK_TSO)
		tso_drain(chk.id);
	return offset;
}

CHECK_CALL void check_clear(void *page, uint32_t size)
{
	uint32_t offset = check_offset(page), first;

	if (!chk.on) {
		memset(page, 0, size);
		return;
	}
	bulk_begin(page);
	if (offset < chk.memory) {                      /* a TLB: owner only */
		for (uint32_t at = offset; at < offset + size; at += 8)
			check_poke(at, 8, 0);
		return;
	}
	plain_write(page_cell(offset), offset);
	check_trace(SHMM_ST_PLAIN, offset, size & 0xff, 0, 0);
	first = (offset - chk.memory) >> 9;             /* 64 words of 8 bytes to a word of chk.maybe */
	for (uint32_t i = first; i < first + 8; i++)
		for (uint64_t bits = chk.maybe[i]; bits; bits &= bits - 1) {
			uint32_t at = chk.memory + (i << 9) + ((uint32_t)__builtin_ctzll(bits) << 3);

			if (check_peek(at, 8))
				content_store(at, 0);
		}
}

CHECK_CALL void check_fill_page(void *page, int byte, uint32_t size)
{
	uint32_t offset = check_offset(page);
	uint64_t word = 0x0101010101010101ull * (uint8_t)byte;

	if (!chk.on) {
		memset(page, byte, size);
		return;
	}
	bulk_begin(page);
	plain_write(page_cell(offset), offset);
	check_trace(SHMM_ST_PLAIN, offset, size & 0xff, 0, word);
	for (uint32_t at = offset; at < offset + size; at += 8)
		if (check_peek(at, 8) != word)
			content_store(at, word);
}

CHECK_CALL void check_copy(void *to, const void *from, uint32_t size)
{
	uint32_t target = check_offset(to), source = check_offset(from), t, s;

	if (!chk.on) {
		memcpy(to, from, size);
		return;
	}
	bulk_begin(from);
	check_alive(target);
	plain_read(page_cell(source), source);
	plain_write(page_cell(target), target);
	check_trace(SHMM_ST_PLAIN, target, size & 0xff, 0, 0);
	t = (target - chk.memory) >> 9;
	s = (source - chk.memory) >> 9;
	for (uint32_t i = 0; i < 8; i++)
		for (uint64_t bits = chk.maybe[t + i] | chk.maybe[s + i]; bits; bits &= bits - 1) {
			uint32_t at = (i << 9) + ((uint32_t)__builtin_ctzll(bits) << 3);

			if (check_peek(target + at, 8) != check_peek(source + at, 8))
				content_store(target + at, check_peek(source + at, 8));
		}
}

/* A whole table is looked through in one step: it holds still.  What is found is the newest, in every model. */
CHECK_CALL uint32_t check_find(const void *page, uint32_t i)
{
	uint32_t offset = check_offset(page);

	if (chk.on) {
		bulk_begin(page);
		check_trace(SHMM_LD_RELAXED, offset, 0, 0, i);
	}
	while (i < 512 && check_peek(offset + i * 8, 8) == 0)
		i++;
	return i;
}

CHECK_CALL void check_fill(void *page, uint64_t first, uint64_t step)
{
	uint32_t offset;

	if (!chk.on) {
		for (uint32_t i = 0; i < 512; i++)
			((uint64_t *)page)[i] = first + i * step;
		return;
	}
	offset = bulk_begin(page);
	check_trace(SHMM_ST_RELAXED, offset, 0, 0, first);
	for (uint32_t i = 0; i < 512; i++)
		content_store(offset + i * 8, first + i * step);
}
#endif
