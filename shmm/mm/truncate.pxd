"""ftruncate: a file gets another size, and what is beyond it goes, wherever it is mapped.

    1  lock i_mmap_lock                  one truncation of a file at a time; who maps it stays (mm/i_mmap.pxd)
    2  npages                            new faults beyond the end are SIGBUS
    3  unmap_mapping_range               each VMA: ptes beyond the end cleared, each under its ptl; flushed
    4  the cache slots beyond the end    emptied, and the frames freed with their last reference
    5  the rest of the last page         zeros

No mmap_lock is held, not even that of the caller's own address space, and mmap_seq does not move: a speculative fault
keeps clear of files, and goes by the pte that it finds.  A classical one may be anywhere between finding a page and
mapping it; what it does about that is told in mm/file.pxd.  Private copies beyond the end go as well (even_cows of
unmap_mapping_range): the kernel unmaps twice, before and after it empties the cache, for a private copy may be made in
between; here a copy is mapped only if, under its ptl, the page is still the one that was copied.

MMU notifiers.  Registering one keeps out those who hold mmap_lock or notifier_lock, which is nobody here; in the kernel
it takes every i_mmap lock, too (mm_take_all_locks).  Here the client's own lock is held from before its translations
are dropped until the ptes are gone.  So a client sees the change as one step, whenever it came.

As on a memfd: a file that grows keeps what lies behind its old end on the last page, one that does not grow has it
zeroed, a private copy of that page stays as it is.  A file cannot grow beyond the slots it was made with: EFBIG.

Sources: mm/truncate.c (truncate_pagecache), mm/memory.c (unmap_mapping_range), mm/shmem.c (shmem_setattr)."""

from libc.errno cimport EBADF, EFBIG, EINVAL

from shmm.arch.arch cimport (
    a64, fill_page, get32, get64, i64, ld32_acquire, ld32_relaxed, ld64_relaxed, mutant, put64, smp_mb, st64_release,
    u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_TRUNCATE_NO_FLUSH
from shmm.layout cimport SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, mm_t, vcpu_t
from shmm.mm.file cimport empty_slots
from shmm.mm.frame cimport frame_bytes, sync_rss
from shmm.mm.i_mmap cimport i_mmap_lock, i_mmap_unlock
from shmm.mm.lru cimport lru_add_drain
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_flush_mmu, tlb_full, tlb_gather_mmu
from shmm.mm.notifier cimport mmu_notifier_lock_range, mmu_notifier_unlock_range
from shmm.mm.page_table cimport PMD, end_of_entry, find_pmd, get_entry
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.zap cimport zap_pte_range


cdef inline void unmap_range(vcpu_t *c, mmu_gather_t *tlb, u64 addr, u64 end) noexcept nogil:
    """Of a file's VMA, which is in the list.  It has no huge pmds, and its tables stay."""
    cdef a64 *pmd
    while addr < end:
        pmd = find_pmd(c, tlb.mm, addr)
        if pmd == NULL:
            addr = end_of_entry(addr, end, PMD + 1)
        elif get_entry(pmd) == 0:
            addr = end_of_entry(addr, end, PMD)
        else:
            addr = zap_pte_range(c, tlb, get_entry(pmd), addr, end_of_entry(addr, end, PMD))
            if mutant(SHMM_M_TRUNCATE_NO_FLUSH):
                tlb.start = ~(<u64> 0)
            if tlb_full(c, tlb):
                tlb_flush_mmu(c, tlb)


cdef inline void unmap_mapping_vma(vcpu_t *c, u32 vma, u64 npages) noexcept nogil:
    """What this VMA maps from page npages of its file on."""
    cdef mm_t *mm = &c.mms[get32(&c.vmas[vma].mm)]
    cdef u64 start = vma_start(c, vma)
    cdef u64 end = vma_end(c, vma)
    cdef u64 pgoff = ld64_relaxed(&c.vmas[vma].pgoff)
    cdef mmu_gather_t tlb
    if pgoff + ((end - start) >> SHMM_PAGE_SHIFT) <= npages:
        return
    if pgoff < npages:
        start += (npages - pgoff) << SHMM_PAGE_SHIFT
    tlb_gather_mmu(&tlb, mm)
    mmu_notifier_lock_range(c, mm, start, end)
    unmap_range(c, &tlb, start, end)
    mmu_notifier_unlock_range(c, mm)
    tlb_finish_mmu(c, &tlb)
    sync_rss(c, mm)                     # it need not be what this CPU runs


cdef inline void zero_partial_page(vcpu_t *c, u32 file, u64 size) noexcept nogil:
    cdef u64 used = size & (SHMM_PAGE_SIZE - 1)
    cdef u32 pfn
    if used:
        # acquire: pairs with the exchange that filled the slot
        pfn = ld32_acquire(&c.cache[get64(&c.files[file].first) + (size >> SHMM_PAGE_SHIFT)])
        if pfn:
            fill_page(frame_bytes(c, pfn) + used, 0, SHMM_PAGE_SIZE - used)


cdef inline void shrink(vcpu_t *c, u32 file, u64 npages, u64 before, u64 size) noexcept nogil:
    """i_mmap_lock is held."""
    cdef u32 vma = get32(&c.files[file].i_mmap)
    smp_mb()                            # T: pairs with the one in page_still_cached
    if npages < before:
        while vma:
            unmap_mapping_vma(c, vma, npages)
            vma = get32(&c.vmas[vma].i_mmap_next)
        empty_slots(c, file, npages, before)
    zero_partial_page(c, file, size)


cdef inline i64 vmtruncate(vcpu_t *c, mm_t *current, u32 file, u64 size) noexcept nogil:
    """ftruncate(2): 0, -EBADF, -EINVAL, or -EFBIG."""
    cdef u64 npages = (size + SHMM_PAGE_SIZE - 1) >> SHMM_PAGE_SHIFT
    cdef u64 before
    if file == 0 or file >= c.g.nfile or ld32_relaxed(&c.files[file].refs) == 0:
        return -EBADF
    if <i64> size < 0:
        return -EINVAL
    if npages > ld64_relaxed(&c.files[file].slots):
        return -EFBIG
    sync_rss(c, current)                # what others lose is not taken from it
    lru_add_drain(c)
    i_mmap_lock(c, file)
    before = ld64_relaxed(&c.files[file].npages)
    st64_release(&c.files[file].npages, npages)         # release: pairs with the acquire in page_still_cached
    if size <= get64(&c.files[file].size):
        shrink(c, file, npages, before, size)
    put64(&c.files[file].size, size)
    i_mmap_unlock(c, file)
    return 0
