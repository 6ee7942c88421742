/* The contents of pages.
 *
 * A page of a program's data holds zeros and, mostly, one byte that the program stored: that is all that is kept of it, so
 * that a machine with hundreds of CPUs and 128 MiB for each needs no memory for zeros.  A page that holds more, or that was
 * a page table, is real: its bytes lie in the segment.  As long as a page is not real its bytes in the segment are 0.
 *
 * A page's lines are not in the directory either, but one word says which CPU touched it last: whoever comes next pays a
 * transfer.  Clearing and copying take time, and a node's memory can do only so much of it at once, however many ask.
 */
#ifndef SHMM_SIM_PAGE_H
#define SHMM_SIM_PAGE_H

#include "memory.h"

enum { PAGE_ZERO, PAGE_ONE_BYTE, PAGE_REAL };
enum { SIM_PAGE = 4096 };

static inline page_t *sim_page_of(const void *p)
{
	return &sim.page[((uintptr_t)p - sim.base - sim.memory_off) / SIM_PAGE];
}

static inline uint8_t *sim_bytes_of(const page_t *page)
{
	return (uint8_t *)(sim.base + sim.memory_off) + (uint64_t)(page - sim.page) * SIM_PAGE;
}

static inline int sim_is_contents(const void *p)
{
	uintptr_t at = (uintptr_t)p - sim.base;

	return at >= sim.memory_off && at < sim.size;
}

static void page_make_real(page_t *page)
{
	if (page->kind == PAGE_ONE_BYTE)
		sim_bytes_of(page)[page->offset] = page->value;
	page->kind = PAGE_REAL;
}

static void page_make_zero(page_t *page)
{
	if (page->kind == PAGE_REAL)
		memset(sim_bytes_of(page), 0, SIM_PAGE);
	page->kind = PAGE_ZERO;
}

static uint8_t page_get(const page_t *page, const uint8_t *p)
{
	if (page->kind == PAGE_REAL)
		return *p;
	return page->kind == PAGE_ONE_BYTE && page->offset == ((uintptr_t)p & (SIM_PAGE - 1)) ? page->value : 0;
}

static void page_put(page_t *page, uint8_t *p, uint8_t value)
{
	uint16_t offset = (uintptr_t)p & (SIM_PAGE - 1);

	if (page->kind == PAGE_ONE_BYTE && page->offset != offset)
		page_make_real(page);
	if (page->kind == PAGE_REAL)
		*p = value;
	else {
		page->kind = PAGE_ONE_BYTE;
		page->offset = offset;
		page->value = value;
	}
}

/* What the program's own access costs: a hit if this CPU was the last here. */
static void page_touch(page_t *page)
{
	sim_cpu_t *me = sim.me;

	if (!sim.on)
		return;
	sim.accesses++;
	if (sim.clock >= sim.limit)
		sim_checkpoint();
	sim.clock += sim.hit;
	if (page->owner != sim.tag) {
		uint32_t first = sim.memory_line + (uint32_t)(page - sim.page) * (SIM_PAGE / 64);
		uint32_t cost = page->owner ? transfer_from(&sim.cpu[page->owner - 1]) : transfer_from_memory(first);

		sim.clock += cost;
		me->stack.transfer[SIM_S_user_page] += cost;
		page->owner = sim.tag;
	}
}

SIM_CALL uint8_t sim_load_user(const uint8_t *p)
{
	page_t *page;

	if (!sim.base)
		return *p;
	page = sim_page_of(p);
	page_touch(page);
	return page_get(page, p);
}

SIM_CALL void sim_store_user(uint8_t *p, uint8_t value)
{
	page_t *page;

	if (!sim.base) {
		*p = value;
		return;
	}
	page = sim_page_of(p);
	page_touch(page);
	page_put(page, p, value);
}

/* A page's worth of work for this CPU and for its node's memory. */
static void page_work(uint32_t ps)
{
	sim_cpu_t *me = sim.me;
	ps_t *channel, done;

	if (!sim.on)
		return;
	channel = &sim.channel[me->socket];
	sim.accesses++;
	if (sim.clock >= sim.limit)
		sim_checkpoint();
	*channel = (*channel > sim.clock ? *channel : sim.clock) + sim.cost.channel;
	done = *channel;
	sim_lump(SIM_CLEAR, ps);
	if (done > sim.clock) {
		me->stack.part[SIM_BANDWIDTH] += done - sim.clock;
		sim.clock = done;
	}
}

/* A page table is read and written through the directory: its lines are this CPU's from now on. */
static void page_claim_lines(const page_t *page)
{
	line_t *l = &sim.line[sim.memory_line + (uint64_t)(page - sim.page) * (SIM_PAGE / 64)];

	for (uint32_t i = 0; i < SIM_PAGE / 64; i++, l++) {
		if (l->crowd)
			continue;               /* freed, yet somebody waits for it: it sorts itself out */
		if (l->owner & LINE_SHARED)
			slot_free(l->owner & ~LINE_SHARED);
		l->owner = sim.tag;
		l->busy = 0;
	}
}

SIM_CALL void sim_clear(void *p, size_t size)
{
	page_t *page;

	if (!sim.base || !sim_is_contents(p)) {
		memset(p, 0, size);
		return;
	}
	page = sim_page_of(p);
	page_make_zero(page);
	page->owner = sim.on ? sim.tag : 0;
	if (sim.rooms.is_table((uint32_t)(page - sim.page))) {
		page->kind = PAGE_REAL;
		if (sim.on)
			page_claim_lines(page);
	}
	page_work(sim.cost.clear);
}

SIM_CALL void sim_copy(void *to, const void *from, size_t size)
{
	page_t *t, *f;

	if (!sim.base) {
		memcpy(to, from, size);
		return;
	}
	t = sim_page_of(to);
	f = sim_page_of(from);
	page_make_zero(t);
	if (f->kind == PAGE_REAL)
		memcpy(to, from, size);
	t->kind = f->kind;
	t->offset = f->offset;
	t->value = f->value;
	t->owner = sim.on ? sim.tag : 0;
	page_work(sim.cost.copy);
}

/* Before bytes are moved to or from a page by other means. */
SIM_CALL void sim_bulk(const void *p)
{
	if (sim.base && sim_is_contents(p))
		page_make_real(sim_page_of(p));
}
#endif
