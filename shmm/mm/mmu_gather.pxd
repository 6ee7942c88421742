"""mmu_gather: what an unmap has taken out of the page tables and may free only after the TLB flush.

    tlb_gather_mmu     nothing collected, empty range
    tlb_remove_page    a frame whose PTE is gone (its reference is still held)
    tlb_remove_table   a table whose upper entry is gone
    tlb_flush_mmu      flush the range everywhere, then free the frames
    tlb_finish_mmu     the same, and free the tables

Guarantee G3: a frame goes back to the allocator only after every CPU has lost its translations.  The order is in the
code and nowhere else: clear the PTE, flush, free.

Table freeing is a policy.  IPI: freed right after the flush, whose sender has waited for every CPU that had interrupts
off, so that a walker under irq_disable is out.  RCU: handed to call_rcu after the flush; a walker under either
protection is out after the grace period.  A walk under RCU alone with IPI freeing would be a use after free, and the
launcher refuses it.

The kernel's RCU freeing needs a page to collect tables in, and where none can be had it falls back to an interrupt that
every CPU takes, and frees the table at once.  That waits for walkers with interrupts off, "not an RCU grace period": a
walker that only says rcu_read_lock is not waited for.  Here the list is linked through the tables' frame_t and needs no
page; the fallback exists as the mutant TABLE_FREE_FALLBACK.

The collected frames are in the executor's private scratch (vcpu_t.gather); a full scratch is flushed and reused, as a
full batch is in the kernel."""

from shmm.arch.arch cimport get32, mutant, poison_range, put32, st32_relaxed, u32, u64
from shmm.arch.mutants cimport (
    SHMM_M_FREE_BEFORE_FLUSH, SHMM_M_PTL_FREED, SHMM_M_TABLE_FREE_FALLBACK, SHMM_M_TABLE_FREE_NOW,
)
from shmm.layout cimport SHMM_TABLE_FREE_RCU, mm_t, spinlock_t, vcpu_t
from shmm.mm.call_rcu cimport RCU_TABLE, call_rcu
from shmm.mm.frame cimport put_frame_testzero
from shmm.mm.lru cimport release_frames
from shmm.mm.page_table cimport free_table
from shmm.mm.shootdown cimport flush_tlb_mm_range

cdef struct mmu_gather_t:
    mm_t *mm
    u64 start, end              # what must be flushed; start >= end: nothing
    u32 frames                  # collected in vcpu_t.gather
    u32 tables                  # first of the list


cdef inline void tlb_gather_mmu(mmu_gather_t *tlb, mm_t *mm) noexcept nogil:
    tlb.mm = mm
    tlb.start = ~(<u64> 0)
    tlb.end = 0
    tlb.frames = 0
    tlb.tables = 0


cdef inline void tlb_track(mmu_gather_t *tlb, u64 start, u64 end) noexcept nogil:
    """Translations in this range have been taken away."""
    tlb.start = min(tlb.start, start)
    tlb.end = max(tlb.end, end)


cdef inline bint tlb_full(vcpu_t *c, mmu_gather_t *tlb) noexcept nogil:
    return tlb.frames == c.gather_size


cdef inline void tlb_remove_page(vcpu_t *c, mmu_gather_t *tlb, u32 pfn) noexcept nogil:
    c.gather[tlb.frames] = pfn
    tlb.frames += 1


cdef inline void tlb_remove_table_one(vcpu_t *c, mmu_gather_t *tlb, u32 table) noexcept nogil:
    """Only for a mutant: the kernel's way when no page for a batch can be had.  The flush is the interrupt, too."""
    tlb_flush_mmu_tlbonly(c, tlb)
    free_table(c, table)


cdef inline void tlb_remove_table(vcpu_t *c, mmu_gather_t *tlb, u32 table) noexcept nogil:
    if mutant(SHMM_M_PTL_FREED):
        poison_range(&c.frames[table].ptl, sizeof(spinlock_t))
    if mutant(SHMM_M_TABLE_FREE_NOW):
        free_table(c, table)
        return
    if mutant(SHMM_M_TABLE_FREE_FALLBACK) and c.g.table_free_policy == SHMM_TABLE_FREE_RCU:
        tlb_remove_table_one(c, tlb, table)
        return
    put32(&c.frames[table].next, tlb.tables)
    tlb.tables = table


cdef inline void tlb_flush_mmu_tlbonly(vcpu_t *c, mmu_gather_t *tlb) noexcept nogil:
    """Also under a ptl: whoever wants that ptl with interrupts off only tries."""
    if tlb.start < tlb.end:
        flush_tlb_mm_range(c, tlb.mm, tlb.start, tlb.end)
        tlb.start = ~(<u64> 0)
        tlb.end = 0


cdef inline void tlb_batch_pages_flush(vcpu_t *c, mmu_gather_t *tlb) noexcept nogil:
    """Drops the collected frames' references."""
    cdef u32 i
    cdef u32 last = 0
    for i in range(tlb.frames):         # keep those whose last reference this was
        if put_frame_testzero(c, c.gather[i]):
            c.gather[last] = c.gather[i]
            last += 1
    release_frames(c, c.gather, last)
    tlb.frames = 0


cdef inline void tlb_flush_mmu(vcpu_t *c, mmu_gather_t *tlb) noexcept nogil:
    if mutant(SHMM_M_FREE_BEFORE_FLUSH):
        tlb_batch_pages_flush(c, tlb)
    tlb_flush_mmu_tlbonly(c, tlb)
    tlb_batch_pages_flush(c, tlb)


cdef inline void tlb_finish_mmu(vcpu_t *c, mmu_gather_t *tlb) noexcept nogil:
    cdef u32 table, next
    tlb_flush_mmu(c, tlb)
    table = tlb.tables
    while table:
        next = get32(&c.frames[table].next)
        if c.g.table_free_policy == SHMM_TABLE_FREE_RCU:
            st32_relaxed(&c.frames[table].refs, 0)      # in no table any more, and not free yet (I2)
            call_rcu(c, table | RCU_TABLE)
        else:
            free_table(c, table)
        table = next
    tlb.tables = 0
