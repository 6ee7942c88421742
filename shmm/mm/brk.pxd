"""brk: the heap's end.  Grows like an anonymous mmap at a fixed place, shrinks like munmap (downgrade included)."""

from libc.errno cimport ENOMEM

from shmm.arch.arch cimport get64, i64, put64, u64
from shmm.layout cimport (
    SHMM_PAGE_SHIFT, SHMM_TASK_SIZE, SHMM_VM_MAYEXEC, SHMM_VM_MAYREAD, SHMM_VM_MAYWRITE, SHMM_VM_READ, SHMM_VM_WRITE,
    mm_t, vcpu_t,
)
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.find_vma cimport find_vma_intersection
from shmm.mm.mmap cimport mmap_region
from shmm.mm.mmap_lock cimport mmap_write_lock
from shmm.mm.munmap cimport do_munmap, mmap_unlock_after, page_align


cdef inline i64 do_brk(vcpu_t *c, mm_t *mm, u64 old, u64 brk, bint *downgraded) noexcept nogil:
    """Moves the heap's mapping from the old end to the new one, mmap_lock held for write.  0 or -ENOMEM."""
    cdef u64 old_end = page_align(old)
    cdef u64 new_end = page_align(brk)
    cdef i64 ret = 0
    if brk < get64(&mm.start_brk) or brk > SHMM_TASK_SIZE:
        return -ENOMEM
    if new_end < old_end:
        ret = do_munmap(c, mm, new_end, old_end, True)
        downgraded[0] = ret == 1
        if ret < 0:
            return ret
    elif new_end > old_end:
        if find_vma_intersection(c, mm, old_end, new_end):
            return -ENOMEM
        ret = mmap_region(c, mm, old_end, new_end - old_end, SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_MAYREAD
                          | SHMM_VM_MAYWRITE | SHMM_VM_MAYEXEC, 0, old_end >> SHMM_PAGE_SHIFT)
        if ret < 0:
            return ret
    return 0


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
