"""brk: the heap's end.  Grows like an anonymous mmap at a fixed place, shrinks like munmap (downgrade included).

As the kernel (6.18): growth keeps a page free before the next mapping, and a guard gap if that is a stack; it merges
with what precedes the old end, if that lies in the heap, and never with what follows.  Shrinking unmaps whatever is in
the way, but fails if nothing is."""

from libc.errno cimport ENOMEM

from shmm.arch.arch cimport get32, get64, i64, put64, u32, u64
from shmm.layout cimport (
    SHMM_MMAP_MIN, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_TASK_SIZE, SHMM_VM_ACCOUNT, SHMM_VM_MAYEXEC, SHMM_VM_MAYREAD,
    SHMM_VM_MAYWRITE, SHMM_VM_READ, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.find_vma cimport find_vma, find_vma_intersection, vm_start_gap
from shmm.mm.mmap cimport may_expand_vm, prev_of_hole, vm_enough_memory
from shmm.mm.mmap_lock cimport mmap_write_lock
from shmm.mm.munmap cimport do_munmap, mmap_unlock_after, page_align
from shmm.mm.vma cimport vm_area_alloc, vma_end
from shmm.mm.vma_adjust cimport vma_expand
from shmm.mm.vma_tree cimport vma_link


cdef inline i64 do_brk_flags(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """The heap's mapping over the free range [start, end)."""
    cdef u64 flags = (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_MAYREAD | SHMM_VM_MAYWRITE | SHMM_VM_MAYEXEC
                      | SHMM_VM_ACCOUNT)
    cdef u64 pages = (end - start) >> SHMM_PAGE_SHIFT
    cdef u32 prev
    if not may_expand_vm(c, mm, pages) or get32(&mm.map_count) > c.g.max_map_count or (
            not vm_enough_memory(c, end - start)):
        return -ENOMEM
    prev = prev_of_hole(c, mm, find_vma(c, mm, start))
    if prev and vma_end(c, prev) <= get64(&mm.start_brk):       # the program's own data, not the heap
        prev = 0
    if vma_expand(c, mm, prev, 0, start, end, flags, start >> SHMM_PAGE_SHIFT, 0) == 0:
        prev = vm_area_alloc(c, <u32> (mm - c.mms), start, end, flags, start >> SHMM_PAGE_SHIFT, 0)
        if prev == 0:
            return -ENOMEM
        vma_link(c, mm, prev)
    put64(&mm.total_vm, get64(&mm.total_vm) + pages)
    return 0


cdef inline i64 do_brk(vcpu_t *c, mm_t *mm, u64 old, u64 brk, bint *downgraded) noexcept nogil:
    """Moves the heap's mapping from the old end to the new one, mmap_lock held for write.  0 or -ENOMEM."""
    cdef u64 old_end = page_align(old)
    cdef u64 new_end = page_align(brk)
    cdef u32 next
    cdef i64 ret
    if brk < get64(&mm.start_brk):
        return -ENOMEM
    if new_end == old_end:
        return 0
    if brk < old:
        if find_vma_intersection(c, mm, new_end, old_end) == 0:
            return -ENOMEM
        ret = do_munmap(c, mm, new_end, old_end, True)
        downgraded[0] = ret == 1
        return min(ret, 0)
    if new_end < old_end or new_end > SHMM_TASK_SIZE or old_end < SHMM_MMAP_MIN:
        return -ENOMEM
    next = find_vma(c, mm, old_end)
    if next and new_end + SHMM_PAGE_SIZE > vm_start_gap(c, next):
        return -ENOMEM
    return do_brk_flags(c, mm, old_end, new_end)


cdef inline i64 vm_brk(vcpu_t *c, mm_t *mm, u64 brk) noexcept nogil:
    """brk(2) as the system call: the end after the call, which is the old one if it could not be done."""
    cdef bint downgraded = False
    cdef u64 end
    mmap_write_lock(c, mm)
    end = get64(&mm.brk)
    # written first: do_brk may downgrade, after which this CPU is no writer any more
    put64(&mm.brk, brk)
    if do_brk(c, mm, end, brk, &downgraded):
        put64(&mm.brk, end)
        brk = end
    mmap_unlock_after(c, mm, downgraded)
    rcu_relieve(c)
    return <i64> brk
