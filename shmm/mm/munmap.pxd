"""munmap: the order that lets speculators survive it (facts of v2, mm/mmap.c of that era).

   1  mmap_write_lock                    mmap_seq odd: new speculators turn away
   2  split the VMAs at the edges
   3  detach them from the tree          nobody new finds them
   4  mmap_write_downgrade               mmap_seq even again, but two further: old speculators fail their check
   5  zap the ptes, each under its ptl   a speculator that holds a ptl with the old count finishes first, and is undone
   6  unlink_file_vmas                   no truncation walks the tables any more (i_mmap.pxd)
      free_pgtables                      collects tables no VMA needs
   7  flush every TLB, free the frames   then the tables, by the table-freeing policy
   8  free the VMAs, by RCU
   9  mmap_read_unlock

A MAP_FIXED replacement does the same without step 4: it still needs the lock for write, and the count stays odd.  Nor
is there a step 4 below a stack, which may grow under the lock for read."""

from libc.errno cimport EINVAL, ENOMEM

from shmm.arch.arch cimport get32, get64, i64, ld64_relaxed, mutant, put32, put64, u32, u64
from shmm.arch.mutants cimport SHMM_M_DOWNGRADE_BELOW_STACK, SHMM_M_DOWNGRADE_EARLY, SHMM_M_UNLINK_FILE_LATE
from shmm.layout cimport (
    SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_TASK_SIZE, SHMM_VM_GROWSDOWN, SHMM_VM_LOCKED, mm_t, vcpu_t,
)
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.find_vma cimport find_vma_intersection
from shmm.mm.i_mmap cimport unlink_file_vmas
from shmm.mm.lru cimport lru_add_drain
from shmm.mm.mmap_lock cimport mmap_read_unlock, mmap_write_downgrade, mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_adjust cimport vm_area_free, vma_cut
from shmm.mm.vma_tree cimport next_vma, prev_vma, vma_unlink
from shmm.mm.zap cimport free_pgtables, zap_page_range


cdef inline u64 page_align(u64 length) noexcept nogil:
    return (length + SHMM_PAGE_SIZE - 1) & ~(SHMM_PAGE_SIZE - 1)


cdef inline u32 detach_vmas(vcpu_t *c, mm_t *mm, u32 first, u64 end) noexcept nogil:
    """Unlinks first and all that begin below end; returns them as a list through `next`."""
    cdef u32 vma = first
    cdef u32 last = 0
    cdef u32 next
    cdef u64 pages
    while vma and vma_start(c, vma) < end:
        next = next_vma(c, vma)
        vma_unlink(c, mm, vma)
        pages = (vma_end(c, vma) - vma_start(c, vma)) >> SHMM_PAGE_SHIFT
        put64(&mm.total_vm, get64(&mm.total_vm) - pages)
        if ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_LOCKED:
            put64(&mm.locked_vm, get64(&mm.locked_vm) - pages)
        put32(&c.vmas[vma].next, 0)
        if last:
            put32(&c.vmas[last].next, vma)
        last = vma
        vma = next
    return first


cdef inline void unmap_region(vcpu_t *c, mm_t *mm, u32 vmas, u64 floor, u64 ceiling) noexcept nogil:
    """Steps 5 to 7 for the detached list."""
    cdef mmu_gather_t tlb
    cdef u64 start = vma_start(c, vmas)
    cdef u64 end = start
    cdef u32 vma = vmas
    lru_add_drain(c)
    tlb_gather_mmu(&tlb, mm)
    while vma:
        zap_page_range(c, &tlb, vma_start(c, vma), vma_end(c, vma))
        end = vma_end(c, vma)
        vma = next_vma(c, vma)
    if not mutant(SHMM_M_UNLINK_FILE_LATE):
        unlink_file_vmas(c, vmas)
    free_pgtables(c, &tlb, start, end, floor, ceiling)
    tlb_finish_mmu(c, &tlb)
    if mutant(SHMM_M_UNLINK_FILE_LATE):
        unlink_file_vmas(c, vmas)


cdef inline i64 split_at_edges(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """Makes start and end VMA borders where they fall inside one.  0 or -ENOMEM.  Only a hole in the midst of a VMA
    leaves one more behind than before, so only that asks for the limit."""
    cdef u32 vma = find_vma_intersection(c, mm, start, end)
    cdef i64 err = 0
    if vma and vma_start(c, vma) < start:
        if vma_end(c, vma) > end and get32(&mm.map_count) >= c.g.max_map_count:
            return -ENOMEM
        err = vma_cut(c, mm, vma, start)
    if err == 0:
        vma = find_vma_intersection(c, mm, end, end + 1)
        if vma and vma_start(c, vma) < end:
            err = vma_cut(c, mm, vma, end)
    return err


cdef inline bint may_downgrade(vcpu_t *c, u32 next) noexcept nogil:
    """Whether the range may be torn down under the lock for read: not if what follows could grow into it meanwhile
    (detach_vmas_to_be_unmapped of 5.17)."""
    return not c.g.stack_growth or next == 0 or mutant(SHMM_M_DOWNGRADE_BELOW_STACK) or (
        not ld64_relaxed(&c.vmas[next].flags) & SHMM_VM_GROWSDOWN)


cdef inline i64 do_munmap(vcpu_t *c, mm_t *mm, u64 start, u64 end, bint downgrade) noexcept nogil:
    """[start, end) page-aligned; mmap_lock held for write.  0: done, lock still held for write; 1: done, and
    downgraded (if asked for, and possible); or -ENOMEM with nothing unmapped."""
    cdef u32 vma, prev, next, doomed
    cdef u64 floor, ceiling
    cdef i64 err
    if find_vma_intersection(c, mm, start, end) == 0:
        return 0
    err = split_at_edges(c, mm, start, end)
    if err:
        return err
    vma = find_vma_intersection(c, mm, start, end)
    prev = prev_vma(c, vma)
    if downgrade and mutant(SHMM_M_DOWNGRADE_EARLY):
        mmap_write_downgrade(c, mm)
    doomed = detach_vmas(c, mm, vma, end)
    next = next_vma(c, prev) if prev else get32(&mm.vma_first)
    downgrade = downgrade and may_downgrade(c, next)
    floor = vma_end(c, prev) if prev else 0
    ceiling = vma_start(c, next) if next else <u64> 1 << 48
    if downgrade and not mutant(SHMM_M_DOWNGRADE_EARLY):
        mmap_write_downgrade(c, mm)
    unmap_region(c, mm, doomed, floor, ceiling)
    while doomed:
        next = next_vma(c, doomed)
        vm_area_free(c, mm, doomed)
        doomed = next
    return 1 if downgrade else 0


cdef inline void mmap_unlock_after(vcpu_t *c, mm_t *mm, bint downgraded) noexcept nogil:
    if downgraded:
        mmap_read_unlock(c, mm)
    else:
        mmap_write_unlock(c, mm)


cdef inline i64 vm_munmap(vcpu_t *c, mm_t *mm, u64 start, u64 length) noexcept nogil:
    """munmap(2): 0, -EINVAL or -ENOMEM."""
    cdef i64 ret
    if start & (SHMM_PAGE_SIZE - 1) or start > SHMM_TASK_SIZE or length > SHMM_TASK_SIZE - start:
        return -EINVAL
    if page_align(length) == 0:
        return -EINVAL
    mmap_write_lock(c, mm)
    ret = do_munmap(c, mm, start, start + page_align(length), True)
    mmap_unlock_after(c, mm, ret == 1)
    rcu_relieve(c)
    return min(ret, 0)
