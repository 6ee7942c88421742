"""The classical page fault: mmap_lock for read, and everything is stable.

    mmap_read_lock
    find_vma, access rights
    handle_mm_fault
    mmap_read_unlock

What writers owe it: the lock.  Its cost is two atomic operations on one line that every CPU of the process writes."""

from libc.errno cimport EFAULT, ENOMEM

from shmm.arch.arch cimport i64, u32, u64
from shmm.layout cimport (
    SHMM_C_faults_classic, SHMM_C_faults_oom, SHMM_C_faults_segv, SHMM_C_faults_sigbus, SHMM_PAGE_SIZE, SHMM_SIGBUS,
    SHMM_VM_EXEC, SHMM_VM_READ, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.fault cimport handle_mm_fault
from shmm.mm.find_vma cimport find_vma
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock
from shmm.mm.vma cimport vma_copy, vma_start
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport FAULT_INSTRUCTION, FAULT_WRITE, VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV, vm_fault_t


cdef inline bint access_error(u64 vm_flags, u32 access) noexcept nogil:
    """Whether the VMA forbids the access (x86: whatever is writable or executable is readable)."""
    if access & FAULT_WRITE:
        return not vm_flags & SHMM_VM_WRITE
    if access & FAULT_INSTRUCTION:
        return not vm_flags & SHMM_VM_EXEC
    return not vm_flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC)


cdef inline i64 fault_result(vcpu_t *c, u32 ret) noexcept nogil:
    """VM_FAULT_* as what the program gets: 0, -EFAULT (SIGSEGV), -SHMM_SIGBUS or -ENOMEM; counted."""
    if ret == 0:
        return 0
    if ret & VM_FAULT_OOM:
        count_vm_event(c, SHMM_C_faults_oom)
        return -ENOMEM
    if ret & VM_FAULT_SIGBUS:
        count_vm_event(c, SHMM_C_faults_sigbus)
        return -SHMM_SIGBUS
    count_vm_event(c, SHMM_C_faults_segv)
    return -EFAULT


cdef inline u32 fault_mmap_lock(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """0 or VM_FAULT_*."""
    cdef vm_fault_t vmf
    cdef u32 ret = VM_FAULT_SIGSEGV
    cdef u32 vma
    count_vm_event(c, SHMM_C_faults_classic)
    mmap_read_lock(c, mm)
    vma = find_vma(c, mm, addr)
    if vma and vma_start(c, vma) <= addr:
        vma_copy(&vmf.vma, c, vma)
        if not access_error(vmf.vma.flags, access):
            vmf.mm = mm
            vmf.address = addr & ~(SHMM_PAGE_SIZE - 1)
            vmf.flags = access
            vmf.speculative = False
            ret = handle_mm_fault(c, &vmf)
    mmap_read_unlock(c, mm)
    return ret
