/* The hand-written twin of the hot path: one anonymous write fault, speculative or classical, in plain C.
 *
 * What it is for: the rooms go through the door and through Cython, and claim to cost nothing for it.  This file does
 * the same work on the same segment the way one would write it by hand: raw fields, compiler builtins, no layers.
 * test_twin.py runs both in turn on one segment (the invariants hold after either) and compares nanoseconds; it is not
 * part of the product, and the only file outside shmm/arch that touches shared cells directly.
 *
 * Not covered, because the measured path never meets it: LRU and zone contention, retries, other mappings, other nodes.
 */
#include "layout.h"

#define C(name) (me->counter[SHMM_C_##name].v++)
#define ACQ(p)  __atomic_load_n(&(p)->v, __ATOMIC_ACQUIRE)
#define REL(p, x) __atomic_store_n(&(p)->v, (x), __ATOMIC_RELEASE)
#define MB_ST(p, x) __atomic_exchange_n(&(p)->v, (x), __ATOMIC_SEQ_CST)
#define FENCE(o) __atomic_thread_fence(__ATOMIC_##o)

/* A request in the mailbox never comes here (one CPU), but it must be looked for where the rooms look for it. */
static inline void mailbox(cpu_t *me)
{
	if (me->ipi_req.v)
		__builtin_trap();
}

static inline void off(cpu_t *me, uint64_t entry)
{
	me->irq_depth.v = 1;
	MB_ST(&me->state, (me->state.v + SHMM_SECTION_ONE + entry) | SHMM_IRQ_OFF | SHMM_KERNEL);
	mailbox(me);
}

static inline void on(cpu_t *me)
{
	me->irq_depth.v = 0;
	REL(&me->state, me->state.v & ~SHMM_IRQ_OFF);
	mailbox(me);
}

static inline a64 *below(vcpu_t *c, uint64_t entry, uint64_t addr, unsigned shift)
{
	return (a64 *)(c->memory + (entry & SHMM_PTE_PFN)) + (addr >> shift & 511);
}

static inline a64 *pmd_of(vcpu_t *c, mm_t *mm, uint64_t addr)
{
	uint64_t e = ACQ(below(c, (uint64_t)mm->pgd.v << 12, addr, 39));
	if (!e || !(e = ACQ(below(c, e, addr, 30))))
		return 0;
	return below(c, e, addr, 21);
}

static inline uint64_t hw_walk(vcpu_t *c, mm_t *mm, uint64_t addr)
{
	a64 *pmd = pmd_of(c, mm, addr);
	uint64_t e, want = SHMM_PTE_PRESENT | SHMM_PTE_WRITE | SHMM_PTE_ACCESSED | SHMM_PTE_DIRTY;
	if (!pmd || !(e = ACQ(pmd)))
		return 0;
	e = ACQ(below(c, e, addr, 12));
	return (e & want) == want ? e : 0;
}

static inline uint64_t tlb_tag(cpu_t *me, uint64_t vpn) { return me->asid_gen[me->asid_current.v].v << 36 | vpn; }

static inline uint64_t tlb_find(cpu_t *me, uint64_t vpn)
{
	uint64_t tag = tlb_tag(me, vpn);
	tlb_entry_t *e = me->tlb_l1 + (vpn & (SHMM_TLB_L1_SETS - 1)) * 4;
	for (int i = 0; i < 4; i++)
		if (e[i].tag.v == tag)
			return e[i].pte.v;
	e = me->tlb_l2 + (vpn & (SHMM_TLB_L2_SETS - 1)) * 4;
	for (int i = 0; i < 4; i++)
		if (e[i].tag.v == tag)
			return e[i].pte.v;
	C(tlb_miss);
	return 0;
}

static inline void tlb_put(cpu_t *me, uint64_t vpn, uint64_t pte)
{
	uint32_t way = me->tlb_victim.v++;
	tlb_entry_t *e = me->tlb_l1 + (vpn & (SHMM_TLB_L1_SETS - 1)) * 4 + way % 4;
	if (e->tag.v)
		me->tlb_l2[(e->tag.v & (SHMM_TLB_L2_SETS - 1)) * 4 + (way >> 2) % 4] = *e;
	e->tag.v = tlb_tag(me, vpn);
	e->pte.v = pte;
}

static inline uint32_t vma_at(vcpu_t *c, mm_t *mm, uint64_t addr)
{
	uint32_t n = ACQ(&mm->vma_root), best = 0;
	while (n) {
		vma_t *v = c->vmas + n;
		if (v->end.v > addr) {
			best = n;
			if (v->start.v <= addr)
				break;
			n = ACQ(&v->left);
		} else
			n = ACQ(&v->right);
	}
	return best;
}

static inline uint32_t new_frame(vcpu_t *c, cpu_t *me)
{
	uint32_t pfn = me->pcp_head.v;
	pool_t *zone = &c->g->node[c->node].zone;
	if (!pfn) {
		uint32_t last, n = 1;
		while (!__sync_bool_compare_and_swap(&zone->lock.owner.v, 0, c->id + 1))
			;
		pfn = last = zone->head.v;
		while (n < SHMM_PCP_BATCH && c->frames[last].next.v)
			last = c->frames[last].next.v, n++;
		zone->head.v = c->frames[last].next.v;
		zone->free.v -= n;
		c->frames[last].next.v = 0;
		me->pcp_head.v = pfn;
		me->pcp_count.v = n;
		REL(&zone->lock.owner, 0);
	}
	me->pcp_head.v = c->frames[pfn].next.v;
	me->pcp_count.v--;
	c->frames[pfn].refs.v = 1;
	c->frames[pfn].kind.v = SHMM_FRAME_ANON;
	c->frames[pfn].exclusive.v = 1;
	C(pgalloc);
	return pfn;
}

static inline void to_lru(vcpu_t *c, cpu_t *me, uint32_t pfn)
{
	node_t *node = &c->g->node[c->node];
	uint32_t n = me->lru_count.v;
	me->lru_frame[n].v = pfn;
	me->lru_gen[n].v = c->frames[pfn].gen.v;
	me->lru_count.v = ++n;
	if (n < SHMM_LRU_BATCH)
		return;
	while (!__sync_bool_compare_and_swap(&node->lru_lock.owner.v, 0, c->id + 1))
		;
	for (uint32_t i = 0; i < n; i++) {
		frame_t *f = c->frames + me->lru_frame[i].v;
		if (f->gen.v != me->lru_gen[i].v || f->on_lru.v)
			continue;
		f->lru_prev.v = 0;
		f->lru_next.v = node->lru_head.v;
		if (node->lru_head.v)
			c->frames[node->lru_head.v].lru_prev.v = me->lru_frame[i].v;
		else
			node->lru_tail.v = me->lru_frame[i].v;
		node->lru_head.v = me->lru_frame[i].v;
		f->on_lru.v = 1;
		node->lru_pages.v++;
	}
	REL(&node->lru_lock.owner, 0);
	me->lru_count.v = 0;
}

/* 0: done; 1: give up (the caller picks a region where that does not happen) */
static inline int speculate(vcpu_t *c, cpu_t *me, mm_t *mm, uint64_t addr)
{
	uint64_t seq = ACQ(&mm->mmap_seq), flags, start, end, pmd, pte;
	uint32_t v, pfn;
	a64 *pmdp, *ptep;
	a32 *ptl;

	C(spf_attempt);
	if (seq & 1 || !(v = vma_at(c, mm, addr)))
		return 1;
	start = c->vmas[v].start.v, end = c->vmas[v].end.v, flags = c->vmas[v].flags.v;
	if (start > addr || c->vmas[v].file.v || !c->vmas[v].anon_vma.v)
		return 1;
	FENCE(ACQUIRE);
	if (mm->mmap_seq.v != seq || !(flags & SHMM_VM_WRITE) || end <= addr)
		return 1;
	C(pgfault);
	off(me, 0);
	pmdp = pmd_of(c, mm, addr);
	if (!pmdp || !(pmd = ACQ(pmdp)))
		return 1;
	ptep = below(c, pmd, addr, 12);
	ptl = &c->frames[(pmd & SHMM_PTE_PFN) >> 12].ptl.owner;
	pte = ACQ(ptep);
	on(me);
	if (pte)
		return 1;
	C(SPF_ATTEMPT_ANON);
	pfn = new_frame(c, me);
	if (c->g->zeroing)
		clear_page(c->memory + (uint64_t)pfn * 4096, 4096);
	if (!me->charge_stock.v) {
		__atomic_fetch_add(&c->g->charged.v, SHMM_CHARGE_BATCH, __ATOMIC_RELAXED);
		me->charge_stock.v = SHMM_CHARGE_BATCH;
	}
	me->charge_stock.v--;
	off(me, 0);
	FENCE(ACQUIRE);
	if (mm->mmap_seq.v != seq || pmdp->v != pmd || !__sync_bool_compare_and_swap(&ptl->v, 0, c->id + 1))
		return 1;
	FENCE(ACQUIRE);
	if (mm->mmap_seq.v != seq)
		return 1;
	on(me);
	if ((int64_t)++me->rss_anon.v >= SHMM_RSS_BATCH) {
		__atomic_fetch_add(&mm->rss_anon.v, me->rss_anon.v, __ATOMIC_RELAXED);
		me->rss_anon.v = 0;
	}
	to_lru(c, me, pfn);
	REL(ptep, (uint64_t)pfn << 12 | SHMM_PTE_USER | SHMM_PTE_PRESENT | SHMM_PTE_NX | SHMM_PTE_WRITE | SHMM_PTE_DIRTY
	    | SHMM_PTE_ACCESSED);
	REL(ptl, 0);
	C(spf_success);
	return 0;
}

/* Writes one byte to each of n untouched pages from addr on, on CPU id.  0, or the 1-based page where it gave up. */
uint64_t twin_touch(void *base, uint32_t id, uint64_t addr, uint64_t n)
{
	vcpu_t cpu, *c = &cpu;
	vcpu_bind(c, base, id, 0, 0);
	cpu_t *me = c->me;
	mm_t *mm = c->mms + me->mm.v;

	for (uint64_t i = 0; i < n; i++, addr += 4096) {
		uint64_t pte;
		off(me, SHMM_ENTRY_ONE);
		pte = tlb_find(me, addr >> 12);
		if (!pte && !(pte = hw_walk(c, mm, addr))) {
			on(me);
			C(user_faults);
			if (speculate(c, me, mm, addr))
				return i + 1;
			off(me, 0);
			if (!(pte = hw_walk(c, mm, addr)))
				return i + 1;
			tlb_put(me, addr >> 12, pte);
		}
		*(volatile uint8_t *)(c->memory + (pte & SHMM_PTE_PFN) + (addr & 4095)) = 1;
		me->irq_depth.v = 0;
		REL(&me->state, me->state.v & ~(SHMM_IRQ_OFF | SHMM_KERNEL));
		mailbox(me);
	}
	return 0;
}
