"""populate: faults pages in on behalf of a system call (MAP_POPULATE, MAP_LOCKED, MADV_POPULATE_READ and _WRITE).

mmap_lock is held for read, by the caller, so each fault is a classical one, taken in the kernel: no exception, no
speculation (the series leaves kernel-mode faults alone).  A page that is there already as wanted costs no fault.  The
faults are counted (gup_faults) because /proc/PID/stat counts them with the program's own.

What populating may do differs.  MAP_POPULATE writes to private writable mappings, so that no copy-on-write is left,
and reads all others, whatever their protection allows, except that PROT_NONE is passed over; what fails is passed over,
too.
MADV_POPULATE_* does what it says, only where a program's access would be allowed, and reports: a hole is -ENOMEM, a
protection that forbids it -EINVAL, a fault that would be a signal -EFAULT.

Sources: mm/gup.c (populate_vma_page_range, faultin_page_range), mm/madvise.c (madvise_populate) of 6.18."""

from libc.errno cimport EFAULT, EINVAL, ENOMEM

from shmm.arch.arch cimport i64, ld64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_C_gup_faults, SHMM_PAGE_SIZE, SHMM_PTE_WRITE, SHMM_VM_EXEC, SHMM_VM_IO, SHMM_VM_PFNMAP, SHMM_VM_READ,
    SHMM_VM_SHARED, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.fault cimport handle_kernel_fault
from shmm.mm.find_vma cimport find_vma, vma_lookup
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock
from shmm.mm.page_table cimport pte_at, pte_present
from shmm.mm.vma cimport vma_copy, vma_end, vma_start
from shmm.mm.vma_tree cimport next_vma
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport FAULT_WRITE, VM_FAULT_OOM, vm_fault_t


cdef inline bint page_is_there(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """Whether a page is mapped as wanted (follow_page)."""
    cdef u64 pte = pte_at(c, mm, addr)
    return pte_present(pte) and (not access & FAULT_WRITE or pte & SHMM_PTE_WRITE != 0)


cdef inline i64 faultin_page(vcpu_t *c, mm_t *mm, u32 vma, u64 addr, u32 access) noexcept nogil:
    """0, -EFAULT or -ENOMEM."""
    cdef vm_fault_t vmf
    cdef u32 ret
    if page_is_there(c, mm, addr, access):
        return 0
    vma_copy(&vmf.vma, c, vma)
    vmf.mm = mm
    vmf.address = addr
    vmf.flags = access
    vmf.speculative = False
    ret = handle_kernel_fault(c, &vmf)
    if ret:
        return -ENOMEM if ret & VM_FAULT_OOM else -EFAULT
    count_vm_event(c, SHMM_C_gup_faults)
    return 0


cdef inline void populate_vma_page_range(vcpu_t *c, mm_t *mm, u32 vma, u64 start, u64 end) noexcept nogil:
    """mmap_lock held for read at least; up to the first page that cannot be had."""
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    cdef u32 access = FAULT_WRITE if flags & (SHMM_VM_WRITE | SHMM_VM_SHARED) == SHMM_VM_WRITE else 0
    if not flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC) or flags & (SHMM_VM_IO | SHMM_VM_PFNMAP):
        return
    while start < end and faultin_page(c, mm, vma, start, access) == 0:
        start += SHMM_PAGE_SIZE


cdef inline void mm_populate(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """After mmap, whose lock has been dropped meanwhile: of what is mapped there now."""
    cdef u32 vma
    mmap_read_lock(c, mm)
    vma = find_vma(c, mm, start)
    while vma and vma_start(c, vma) < end:
        populate_vma_page_range(c, mm, vma, max(start, vma_start(c, vma)), min(end, vma_end(c, vma)))
        vma = next_vma(c, vma)
    mmap_read_unlock(c, mm)


cdef inline i64 populate_page(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """One page as a program would get it.  0 or negative errno."""
    cdef u32 vma = vma_lookup(c, mm, addr)
    cdef u64 flags
    if vma == 0:
        return -ENOMEM
    flags = ld64_relaxed(&c.vmas[vma].flags)
    if flags & (SHMM_VM_IO | SHMM_VM_PFNMAP) or not flags & (SHMM_VM_WRITE if access & FAULT_WRITE else SHMM_VM_READ):
        return -EINVAL
    return faultin_page(c, mm, vma, addr, access)


cdef inline i64 madvise_populate(vcpu_t *c, mm_t *mm, u64 start, u64 end, bint write) noexcept nogil:
    """MADV_POPULATE_READ and MADV_POPULATE_WRITE: stops at the first page that cannot be had and says why."""
    cdef i64 err = 0
    mmap_read_lock(c, mm)
    while start < end and err == 0:
        err = populate_page(c, mm, start, FAULT_WRITE if write else 0)
        start += SHMM_PAGE_SIZE
    mmap_read_unlock(c, mm)
    return err
