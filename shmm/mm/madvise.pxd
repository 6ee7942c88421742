"""madvise: what changes pages, what changes VMAs, and hints that change nothing.

DONTNEED and FREE run under mmap_lock for *read*: mmap_seq does not move, so a speculative fault may run beside them.
Only the ptl orders the two: either the fault's pte is zapped, or the fault sees an empty pte and fills it afterwards.
What lives in a VMA's flags runs under the lock for write, and splits and merges.

FREE leaves the pages where they are, clean and unused: reads still see the data, a store makes the page dirty without
a fault and so keeps it.  Only memory pressure would take the others.

A range goes VMA by VMA.  Holes are passed over and reported as -ENOMEM at the end; an error of one VMA ends the call,
what came before it being done.  A VMA that could not be split is -EAGAIN.  All as in mm/madvise.c of 6.18; MADV_REMOVE,
huge-page collapse, guards and KSM are not emulated (-EINVAL)."""

from libc.errno cimport EAGAIN, EINVAL, ENOMEM

from shmm.arch.arch cimport a64, cmpxchg64, i64, ld32_relaxed, ld64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_PAGE_SIZE, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_SPECIAL, SHMM_VM_DONTCOPY,
    SHMM_VM_DONTDUMP, SHMM_VM_HUGEPAGE, SHMM_VM_IO, SHMM_VM_LOCKED, SHMM_VM_NOHUGEPAGE, SHMM_VM_PFNMAP,
    SHMM_VM_RAND_READ, SHMM_VM_SEQ_READ, SHMM_VM_SHARED, SHMM_VM_SPECIAL, SHMM_VM_WIPEONFORK, mm_t, vcpu_t,
)
from shmm.mm.find_vma cimport find_vma
from shmm.mm.khugepaged cimport madvise_collapse
from shmm.mm.lru cimport lru_add_drain
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu, tlb_track
from shmm.mm.munmap cimport page_align
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_trans_huge, pte_lockptr, pte_pfn, pte_present,
)
from shmm.mm.pageout cimport pageout_range
from shmm.mm.populate cimport madvise_populate
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_modify_flags
from shmm.mm.vma_tree cimport next_vma
from shmm.mm.zap cimport zap_page_range

cdef enum:
    MADV_NORMAL = 0
    MADV_RANDOM = 1
    MADV_SEQUENTIAL = 2
    MADV_WILLNEED = 3
    MADV_DONTNEED = 4
    MADV_FREE = 8
    MADV_DONTFORK = 10
    MADV_DOFORK = 11
    MADV_HUGEPAGE = 14
    MADV_NOHUGEPAGE = 15
    MADV_DONTDUMP = 16
    MADV_DODUMP = 17
    MADV_WIPEONFORK = 18
    MADV_KEEPONFORK = 19
    MADV_COLD = 20
    MADV_PAGEOUT = 21
    MADV_POPULATE_READ = 22
    MADV_POPULATE_WRITE = 23
    MADV_DONTNEED_LOCKED = 24
    MADV_COLLAPSE = 25


cdef inline void free_pte_range(vcpu_t *c, mmu_gather_t *tlb, u64 pmd, u64 addr, u64 end) noexcept nogil:
    """Private anonymous pages of one table become clean and unused."""
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef u64 pte
    spin_lock(c, pte_lockptr(c, pmd))
    while addr < end:
        pte = ld64_relaxed(entry)
        if pte_present(pte) and not pte & SHMM_PTE_SPECIAL and pte & (SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED) and (
                ld32_relaxed(&c.frames[pte_pfn(pte)].kind) == SHMM_FRAME_ANON
                and ld32_relaxed(&c.frames[pte_pfn(pte)].refs) == 1):
            while cmpxchg64(entry, pte, pte & ~(SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED)) != pte:
                pte = ld64_relaxed(entry)               # the MMU set a bit meanwhile
            tlb_track(tlb, addr, addr + SHMM_PAGE_SIZE)     # or a store would go by without making it dirty
        entry += 1
        addr += SHMM_PAGE_SIZE
    spin_unlock(pte_lockptr(c, pmd))


cdef inline void free_page_range(vcpu_t *c, mmu_gather_t *tlb, u64 addr, u64 end) noexcept nogil:
    cdef u64 stop
    cdef a64 *pmd
    while addr < end:
        stop = end_of_entry(addr, end, PMD)
        pmd = find_pmd(c, tlb.mm, addr)
        if pmd == NULL:
            stop = end_of_entry(addr, end, PMD + 1)
        elif get_entry(pmd) != 0 and not pmd_trans_huge(get_entry(pmd)):        # huge pages stay as they are
            free_pte_range(c, tlb, get_entry(pmd), addr, stop)
        addr = stop


cdef inline i64 madvise_pages(vcpu_t *c, mm_t *mm, u32 vma, u64 start, u64 end, u32 advice) noexcept nogil:
    """One VMA's part of what is done to pages; mmap_lock held for read.  0 or -EINVAL."""
    cdef mmu_gather_t tlb
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    if advice == MADV_WILLNEED:
        return 0
    if flags & SHMM_VM_PFNMAP or (flags & SHMM_VM_LOCKED and advice != MADV_DONTNEED_LOCKED):
        return -EINVAL
    if advice == MADV_FREE and ld32_relaxed(&c.vmas[vma].file):
        return -EINVAL
    if advice == MADV_COLD or advice == MADV_PAGEOUT:
        if advice == MADV_PAGEOUT and c.g.nswap and ld32_relaxed(&c.vmas[vma].file) == 0:
            pageout_range(c, mm, start, end)
        return 0
    tlb_gather_mmu(&tlb, mm)
    if advice == MADV_FREE:
        free_page_range(c, &tlb, start, end)
    else:
        zap_page_range(c, &tlb, start, end)
    tlb_finish_mmu(c, &tlb)
    return 0


cdef inline u64 madvise_new_flags(u64 flags, u32 advice) noexcept nogil:
    """What a hint that lives in the VMA makes of its flags."""
    if advice == MADV_NORMAL:
        return flags & ~(SHMM_VM_RAND_READ | SHMM_VM_SEQ_READ)
    if advice == MADV_RANDOM:
        return flags & ~SHMM_VM_SEQ_READ | SHMM_VM_RAND_READ
    if advice == MADV_SEQUENTIAL:
        return flags & ~SHMM_VM_RAND_READ | SHMM_VM_SEQ_READ
    if advice == MADV_DONTFORK:
        return flags | SHMM_VM_DONTCOPY
    if advice == MADV_DOFORK:
        return flags & ~SHMM_VM_DONTCOPY
    if advice == MADV_HUGEPAGE:
        return flags & ~SHMM_VM_NOHUGEPAGE | SHMM_VM_HUGEPAGE
    if advice == MADV_NOHUGEPAGE:
        return flags & ~SHMM_VM_HUGEPAGE | SHMM_VM_NOHUGEPAGE
    if advice == MADV_DONTDUMP:
        return flags | SHMM_VM_DONTDUMP
    if advice == MADV_DODUMP:
        return flags & ~SHMM_VM_DONTDUMP
    if advice == MADV_WIPEONFORK:
        return flags | SHMM_VM_WIPEONFORK
    return flags & ~SHMM_VM_WIPEONFORK                  # MADV_KEEPONFORK


cdef inline bint flag_refused(vcpu_t *c, u32 vma, u64 flags, u32 advice) noexcept nogil:
    if advice == MADV_DOFORK:
        return flags & SHMM_VM_IO != 0
    if advice == MADV_DODUMP:
        return flags & SHMM_VM_SPECIAL != 0
    # only private memory without a file can be wiped: what is shared has to stay
    return advice == MADV_WIPEONFORK and (ld32_relaxed(&c.vmas[vma].file) != 0 or flags & SHMM_VM_SHARED != 0)


cdef inline i64 madvise_flags(vcpu_t *c, mm_t *mm, u32 vma, u64 start, u64 end, u32 advice, u32 *covers) noexcept nogil:
    """One VMA's part of what lives in its flags; mmap_lock held for write.  0, -EINVAL or -EAGAIN."""
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    cdef u64 new = madvise_new_flags(flags, advice)
    if flag_refused(c, vma, flags, advice):
        return -EINVAL
    if new != flags and vma_modify_flags(c, mm, vma, start, end, new, covers):
        return -EAGAIN
    return 0


cdef inline i64 madvise_walk_vmas(vcpu_t *c, mm_t *mm, u64 start, u64 end, u32 advice, bint write) noexcept nogil:
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at = start
    cdef i64 ret = 0
    cdef i64 err
    while at < end:
        if vma == 0 or vma_start(c, vma) >= end:
            return -ENOMEM
        if vma_start(c, vma) > at:
            ret = -ENOMEM
            at = vma_start(c, vma)
        if write:
            err = madvise_flags(c, mm, vma, at, min(vma_end(c, vma), end), advice, &vma)
        else:
            err = madvise_pages(c, mm, vma, at, min(vma_end(c, vma), end), advice)
        if err:
            return err
        at = vma_end(c, vma)
        vma = next_vma(c, vma)
    return ret


cdef inline bint changes_flags(u32 advice) noexcept nogil:
    return advice <= MADV_SEQUENTIAL or advice == MADV_DONTFORK or advice == MADV_DOFORK or (
        advice >= MADV_HUGEPAGE and advice <= MADV_KEEPONFORK)


cdef inline bint touches_pages(u32 advice) noexcept nogil:
    return (advice == MADV_WILLNEED or advice == MADV_DONTNEED or advice == MADV_FREE
            or (advice >= MADV_COLD and advice <= MADV_COLLAPSE))


cdef inline i64 do_madvise(vcpu_t *c, mm_t *mm, u64 start, u64 end, u32 advice) noexcept nogil:
    cdef i64 ret
    if advice == MADV_COLLAPSE:
        return madvise_collapse(c, mm, start, end)
    if advice == MADV_POPULATE_READ or advice == MADV_POPULATE_WRITE:
        return madvise_populate(c, mm, start, end, advice == MADV_POPULATE_WRITE)
    if changes_flags(advice):
        mmap_write_lock(c, mm)
        ret = madvise_walk_vmas(c, mm, start, end, advice, True)
        mmap_write_unlock(c, mm)
        return ret
    mmap_read_lock(c, mm)
    lru_add_drain(c)
    ret = madvise_walk_vmas(c, mm, start, end, advice, False)
    mmap_read_unlock(c, mm)
    return ret


cdef inline i64 vm_madvise(vcpu_t *c, mm_t *mm, u64 start, u64 length, u32 advice) noexcept nogil:
    """madvise(2): 0 or a negative errno.  WILLNEED and COLD are checked and change nothing: there is no read-ahead; so
    is PAGEOUT where there is no swap."""
    cdef u64 end = start + page_align(length)
    if not changes_flags(advice) and not touches_pages(advice):
        return -EINVAL
    if start & (SHMM_PAGE_SIZE - 1) or end < start or (length and page_align(length) == 0):
        return -EINVAL
    return 0 if end == start else do_madvise(c, mm, start, end, advice)
