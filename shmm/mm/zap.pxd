"""Taking pages and tables out of an address space (unmap_vmas, free_pgtables).

    zap_page_range    clears the ptes of a range, table by table, each under its ptl; collects the frames
    free_pgtables     unlinks the tables that cover nothing but the hole between two VMAs

Both only collect into an mmu_gather, which flushes before it frees (G3).  mmap_lock is held, for read at least: munmap
comes here downgraded.  Dirty pages of shared files are flushed before their ptl is dropped, as in the kernel, so that
a page that is cleaned afterwards cannot be dirtied through a stale translation."""

from shmm.arch.arch cimport a64, fetch_add64_relaxed, get32, i64, ld32_relaxed, ld64_relaxed, mutant, u32, u64, xchg64
from shmm.arch.mutants cimport SHMM_M_FLUSH_BEFORE_ZAP, SHMM_M_NOTIFIER_LATE, SHMM_M_ZAP_NO_LOCK
from shmm.layout cimport (
    SHMM_COLLAPSE_READ, SHMM_COLLAPSE_WRITE, SHMM_FRAME_FILE, SHMM_PAGE_SIZE, SHMM_PTE_DIRTY, SHMM_PTE_SPECIAL, vcpu_t,
)
from shmm.mm.frame cimport add_batched
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.huge_memory cimport zap_huge_pmd
from shmm.mm.mmu_gather cimport (
    mmu_gather_t, tlb_flush_mmu, tlb_flush_mmu_tlbonly, tlb_full, tlb_remove_page, tlb_remove_table, tlb_track,
)
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    PGD, PMD, PTE, end_of_entry, entry_below, entry_index, entry_shift, find_pmd, get_entry, pmd_trans_huge,
    pte_lockptr, pte_pfn, pte_present, set_entry, table_entry,
)
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.swap_entry cimport swp_offset
from shmm.mm.swapfile cimport swap_free


cdef inline u64 zap_pte_range(vcpu_t *c, mmu_gather_t *tlb, u64 pmd, u64 addr, u64 end) noexcept nogil:
    """Clears ptes in one table; returns where it stopped: end, or earlier with a full gather."""
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef i64 anon = 0
    cdef i64 file = 0
    cdef bint force_flush = False
    cdef u64 pte
    cdef u32 pfn
    if not mutant(SHMM_M_ZAP_NO_LOCK):
        spin_lock(c, pte_lockptr(c, pmd))
    while addr < end and not tlb_full(c, tlb):
        if ld64_relaxed(entry) != 0:
            pte = xchg64(entry, 0)          # atomic: the MMU may be setting the dirty bit
            if not mutant(SHMM_M_FLUSH_BEFORE_ZAP):
                tlb_track(tlb, addr, addr + SHMM_PAGE_SIZE)
            if not pte_present(pte):
                swap_free(c, swp_offset(pte))
            elif not pte & SHMM_PTE_SPECIAL:
                pfn = compound_head(c, pte_pfn(pte))
                if ld32_relaxed(&c.frames[pfn].kind) == SHMM_FRAME_FILE:
                    file += 1
                    force_flush |= pte & SHMM_PTE_DIRTY != 0
                else:
                    anon += 1
                tlb_remove_page(c, tlb, pfn)
        entry += 1
        addr += SHMM_PAGE_SIZE
    add_batched(&c.me.rss_anon, &tlb.mm.rss_anon, -anon)
    add_batched(&c.me.rss_file, &tlb.mm.rss_file, -file)
    if force_flush:
        tlb_flush_mmu_tlbonly(c, tlb)       # under the ptl: this is what a speculator must not spin against
    if not mutant(SHMM_M_ZAP_NO_LOCK):
        spin_unlock(pte_lockptr(c, pmd))
    return addr


cdef inline u64 zap_pmd_range(vcpu_t *c, mmu_gather_t *tlb, a64 *pmd, u64 addr, u64 end) noexcept nogil:
    """What one pmd entry maps; returns where it stopped.  A huge one goes at once, or is split if a part stays."""
    cdef u64 entry = get_entry(pmd)
    # a collapse under the read lock keeps page_table_lock as long as the entry is not what it was or will be
    cdef bint lock = pmd_trans_huge(entry) or c.g.collapse_policy == SHMM_COLLAPSE_READ
    if lock:
        spin_lock(c, &tlb.mm.page_table_lock)
        entry = zap_huge_pmd(c, tlb, pmd, addr, end)
    addr = zap_pte_range(c, tlb, entry, addr, end) if entry else end
    if lock:
        spin_unlock(&tlb.mm.page_table_lock)
    return addr


cdef inline void zap_page_range(vcpu_t *c, mmu_gather_t *tlb, u64 addr, u64 end) noexcept nogil:
    cdef u64 start = addr
    cdef u64 stop
    cdef a64 *pmd
    if mutant(SHMM_M_FLUSH_BEFORE_ZAP):
        flush_tlb_mm_range(c, tlb.mm, addr, end)
    if not mutant(SHMM_M_NOTIFIER_LATE):
        mmu_notifier_invalidate_range_start(c, tlb.mm, start, end)
    while addr < end:
        stop = end_of_entry(addr, end, PMD)
        pmd = find_pmd(c, tlb.mm, addr)
        if pmd == NULL:                     # nothing in the whole pud entry, if not more
            addr = end_of_entry(addr, end, PMD + 1)
            continue
        if get_entry(pmd) == 0 and c.g.collapse_policy == SHMM_COLLAPSE_WRITE:
            addr = stop
            continue
        addr = zap_pmd_range(c, tlb, pmd, addr, stop)
        if tlb_full(c, tlb):
            tlb_flush_mmu(c, tlb)           # no lock held here
    if mutant(SHMM_M_NOTIFIER_LATE):
        mmu_notifier_invalidate_range_start(c, tlb.mm, start, end)
    mmu_notifier_invalidate_range_end(c, tlb.mm)


cdef inline void free_table_range(vcpu_t *c, mmu_gather_t *tlb, u32 table, u32 level, u64 addr, u64 end,
                                  u64 floor, u64 ceiling) noexcept nogil:
    """Unlinks the tables below this one that lie wholly in [floor, ceiling), children first."""
    cdef u64 start, stop
    cdef a64 *entry
    cdef u32 child
    while addr < end:
        stop = end_of_entry(addr, end, level)
        start = addr >> entry_shift(level) << entry_shift(level)
        entry = table_entry(c, table, entry_index(addr, level))
        if ld64_relaxed(entry) != 0:
            child = pte_pfn(ld64_relaxed(entry))
            if level > PMD:
                free_table_range(c, tlb, child, level - 1, addr, stop, floor, ceiling)
            if start >= floor and start + (<u64> 1 << entry_shift(level)) <= ceiling:
                set_entry(entry, 0)
                tlb_track(tlb, addr, stop)
                tlb_remove_table(c, tlb, child)
                fetch_add64_relaxed(&tlb.mm.pgtables, <u64> -1)
        addr = stop


cdef inline void free_pgtables(vcpu_t *c, mmu_gather_t *tlb, u64 start, u64 end, u64 floor, u64 ceiling) noexcept nogil:
    """[start, end) was just unmapped; no VMA lies in [floor, ceiling)."""
    free_table_range(c, tlb, get32(&tlb.mm.pgd), PGD, start, end, floor, ceiling)
