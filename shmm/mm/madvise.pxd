"""madvise: DONTNEED for real, hints as hints.

DONTNEED runs under mmap_lock for *read*: mmap_seq does not move, so a speculative fault may run beside it.  Only the
ptl orders the two: either the fault's pte is zapped, or the fault sees an empty pte and fills it afterwards."""

from libc.errno cimport EINVAL, ENOMEM

from shmm.arch.arch cimport i64, ld64_relaxed, st64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_PAGE_SIZE, SHMM_VM_DONTCOPY, SHMM_VM_DONTDUMP, SHMM_VM_HUGEPAGE, SHMM_VM_LOCKED,
    SHMM_VM_NOHUGEPAGE, SHMM_VM_RAND_READ, SHMM_VM_SEQ_READ, mm_t, vcpu_t,
)
from shmm.mm.find_vma cimport find_vma
from shmm.mm.khugepaged cimport madvise_collapse
from shmm.mm.lru cimport lru_add_drain
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu
from shmm.mm.munmap cimport page_align, split_at_edges
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_merge_neighbours
from shmm.mm.vma_tree cimport next_vma
from shmm.mm.zap cimport zap_page_range

cdef enum:
    MADV_NORMAL = 0
    MADV_RANDOM = 1
    MADV_SEQUENTIAL = 2
    MADV_WILLNEED = 3
    MADV_DONTNEED = 4
    MADV_DONTFORK = 10
    MADV_DOFORK = 11
    MADV_HUGEPAGE = 14
    MADV_NOHUGEPAGE = 15
    MADV_DONTDUMP = 16
    MADV_DODUMP = 17
    MADV_COLD = 20
    MADV_PAGEOUT = 21
    MADV_COLLAPSE = 25


cdef inline i64 madvise_dontneed(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """mmap_lock held for read.  Holes are skipped and reported as -ENOMEM at the end, as Linux does."""
    cdef mmu_gather_t tlb
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at = start
    cdef i64 ret = 0
    lru_add_drain(c)
    while at < end:
        if vma == 0 or vma_start(c, vma) >= end:
            return -ENOMEM
        if vma_start(c, vma) > at:
            ret = -ENOMEM
            at = vma_start(c, vma)
        if ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_LOCKED:
            return -EINVAL
        tlb_gather_mmu(&tlb, mm)
        zap_page_range(c, &tlb, at, min(vma_end(c, vma), end))
        tlb_finish_mmu(c, &tlb)
        at = vma_end(c, vma)
        vma = next_vma(c, vma)
    return ret


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
    return flags


cdef inline i64 madvise_flags(vcpu_t *c, mm_t *mm, u64 start, u64 end, u32 advice) noexcept nogil:
    """mmap_lock held for write."""
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at = start
    cdef u64 stop, new
    cdef i64 ret = 0
    while at < end:
        if vma == 0 or vma_start(c, vma) >= end:
            return -ENOMEM
        if vma_start(c, vma) > at:
            ret = -ENOMEM
            at = vma_start(c, vma)
        stop = min(vma_end(c, vma), end)
        new = madvise_new_flags(ld64_relaxed(&c.vmas[vma].flags), advice)
        if new != ld64_relaxed(&c.vmas[vma].flags):
            if split_at_edges(c, mm, at, stop):
                return -ENOMEM
            vma = find_vma(c, mm, at)
            st64_relaxed(&c.vmas[vma].flags, new)
            vma = vma_merge_neighbours(c, mm, vma)
        at = stop
        if vma_end(c, vma) <= at:
            vma = next_vma(c, vma)
    return ret


cdef inline i64 vm_madvise(vcpu_t *c, mm_t *mm, u64 start, u64 length, u32 advice) noexcept nogil:
    """madvise(2): 0, -EINVAL, -ENOMEM or -EAGAIN.  WILLNEED, COLD and PAGEOUT are accepted and change nothing."""
    cdef u64 end = start + page_align(length)
    cdef i64 ret = 0
    cdef bint in_vma = advice <= MADV_SEQUENTIAL or advice == MADV_DONTFORK or advice == MADV_DOFORK or (
        advice >= MADV_HUGEPAGE and advice <= MADV_DODUMP)
    cdef bint ignored = advice == MADV_WILLNEED or advice == MADV_COLD or advice == MADV_PAGEOUT
    if not in_vma and not ignored and advice != MADV_DONTNEED and advice != MADV_COLLAPSE:
        return -EINVAL
    if start & (SHMM_PAGE_SIZE - 1) or end < start or (length and page_align(length) == 0):
        return -EINVAL
    if end == start or ignored:
        return 0
    if advice == MADV_COLLAPSE:
        return madvise_collapse(c, mm, start, end)
    if advice == MADV_DONTNEED:
        mmap_read_lock(c, mm)
        ret = madvise_dontneed(c, mm, start, end)
        mmap_read_unlock(c, mm)
    else:
        mmap_write_lock(c, mm)
        ret = madvise_flags(c, mm, start, end, advice)
        mmap_write_unlock(c, mm)
    return ret
