"""Swapping out, on demand: madvise(MADV_PAGEOUT) of private anonymous memory.

For each page, under its ptl:

    1  clear the pte          no CPU can load the translation any more; who faults finds the ptl taken
    2  flush every TLB        no CPU can write to the page any more
    3  copy it to the slot    what is copied is what the page holds from now on
    4  set the swap entry     the slot's contents can be asked for
       unlock, free the frame

A fault beside it therefore finds the page, or an empty pte of which it learns under the ptl that it is not empty, or an
entry whose slot is complete.  A copy before the flush would lose what a stale translation writes afterwards; an entry
before the copy would hand out what the slot held before.

Pages that somebody else has a reference on are left alone, be it another process (after a fork), or a fault that is
about to copy the page, as the kernel leaves what is mapped more than once or pinned; so are the zero page and files.

mmap_lock is held for read: mmap_seq does not move, and a speculative fault beside it is told by the ptl alone.  The
kernel unmaps and writes in reclaim, through the reverse map, and flushes for 32 pages at once.

Source: madvise_pageout of mm/madvise.c; try_to_unmap and pageout of mm/rmap.c and mm/vmscan.c."""

from shmm.arch.arch cimport a64, copy_page, ld32_relaxed, ld64_relaxed, mutant, u32, u64, xchg64
from shmm.arch.mutants cimport SHMM_M_SWAP_EARLY, SHMM_M_SWAP_NO_FLUSH
from shmm.layout cimport (
    SHMM_C_pswpout, SHMM_FRAME_ANON, SHMM_PAGE_SIZE, SHMM_PTE_SPECIAL, SHMM_PTE_UFFD_WP, mm_t, vcpu_t,
)
from shmm.mm.frame cimport add_batched, frame_bytes
from shmm.mm.lru cimport put_page
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_trans_huge, pte_lockptr, pte_pfn, pte_present,
    set_entry,
)
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.swap_entry cimport swp_entry
from shmm.mm.swapfile cimport get_swap_page, swap_bytes, swap_free
from shmm.mm.vmstat cimport count_vm_event


cdef inline bint can_page_out(vcpu_t *c, u64 pte) noexcept nogil:
    """Under the ptl: an anonymous page that only this pte refers to."""
    return (pte_present(pte) and not pte & SHMM_PTE_SPECIAL
            and ld32_relaxed(&c.frames[pte_pfn(pte)].kind) == SHMM_FRAME_ANON
            and ld32_relaxed(&c.frames[pte_pfn(pte)].refs) == 1)


cdef inline bint unmap_to_slot(vcpu_t *c, mm_t *mm, a64 *entry, u64 addr, u32 slot) noexcept nogil:
    """Steps 1 to 4.  False: somebody got hold of the page before step 1 (a look without locks), so it stays."""
    cdef u64 pte = xchg64(entry, 0)
    cdef u32 pfn = pte_pfn(pte)
    if not mutant(SHMM_M_SWAP_NO_FLUSH):
        flush_tlb_mm_range(c, mm, addr, addr + SHMM_PAGE_SIZE)
    if ld32_relaxed(&c.frames[pfn].refs) != 1:
        set_entry(entry, pte)
        return False
    if not mutant(SHMM_M_SWAP_EARLY):
        copy_page(swap_bytes(c, slot), frame_bytes(c, pfn), SHMM_PAGE_SIZE)
    set_entry(entry, swp_entry(slot) | pte & SHMM_PTE_UFFD_WP)
    add_batched(&c.me.rss_anon, &mm.rss_anon, -1)
    return True


cdef inline bint pageout_pte(vcpu_t *c, mm_t *mm, u64 pmd, u64 addr) noexcept nogil:
    """Swaps one page out, if it can be.  False: there is no room in the swap area."""
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef u32 slot
    cdef bint out
    cdef u64 pte
    spin_lock(c, pte_lockptr(c, pmd))
    pte = ld64_relaxed(entry)
    if not can_page_out(c, pte):
        spin_unlock(pte_lockptr(c, pmd))
        return True
    slot = get_swap_page(c)
    out = slot != 0 and unmap_to_slot(c, mm, entry, addr, slot)
    spin_unlock(pte_lockptr(c, pmd))
    if not out:
        if slot:
            swap_free(c, slot)
        return slot != 0
    if mutant(SHMM_M_SWAP_EARLY):
        copy_page(swap_bytes(c, slot), frame_bytes(c, pte_pfn(pte)), SHMM_PAGE_SIZE)
    put_page(c, pte_pfn(pte))
    count_vm_event(c, SHMM_C_pswpout)
    return True


cdef inline bint pageout_range(vcpu_t *c, mm_t *mm, u64 addr, u64 end) noexcept nogil:
    """False: the swap area is full."""
    cdef a64 *pmd
    cdef bint room = True
    mmu_notifier_invalidate_range_start(c, mm, addr, end)
    while addr < end and room:
        pmd = find_pmd(c, mm, addr)
        if pmd == NULL:
            addr = end_of_entry(addr, end, PMD + 1)
        elif get_entry(pmd) == 0 or pmd_trans_huge(get_entry(pmd)):     # huge pages stay
            addr = end_of_entry(addr, end, PMD)
        else:
            room = pageout_pte(c, mm, get_entry(pmd), addr)
            addr += SHMM_PAGE_SIZE
    mmu_notifier_invalidate_range_end(c, mm)
    return room
