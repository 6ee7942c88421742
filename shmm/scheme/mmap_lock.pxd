"""The classical page fault: mmap_lock for read, and everything is stable.

    mmap_read_lock
    find_vma (a stack grows here), access rights
    handle_mm_fault
    mmap_read_unlock

VM_FAULT_RETRY of a handler means that the program has to answer first (userfaultfd.pxd): the wait comes after the
unlock, for whoever answers may want the lock for write, and the fault begins anew, with whatever VMA is there then.

What writers owe it: the lock.  Its cost is two atomic operations on one line that every CPU of the process writes, also
where nothing but the VMA is wanted (probe_mmap_lock)."""

from libc.errno cimport EAGAIN, EFAULT, ENOMEM

from shmm.arch.arch cimport i64, u32, u64
from shmm.layout cimport (
    SHMM_C_faults_classic, SHMM_C_faults_oom, SHMM_C_faults_segv, SHMM_C_faults_sigbus, SHMM_C_probe_locked,
    SHMM_PAGE_SIZE, SHMM_SIGBUS, SHMM_STOPPED, SHMM_VM_EXEC, SHMM_VM_READ, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.fault cimport handle_mm_fault
from shmm.mm.find_vma cimport vma_lookup
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock
from shmm.mm.stack cimport expand_stack
from shmm.mm.userfaultfd cimport userfaultfd_wait
from shmm.mm.vma cimport vma_copy
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport (
    FAULT_INSTRUCTION, FAULT_WRITE, VM_FAULT_OOM, VM_FAULT_RETRY, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV, vm_fault_t,
)


cdef inline bint access_error(u64 vm_flags, u32 access) noexcept nogil:
    """Whether the VMA forbids the access (x86: whatever is writable or executable is readable)."""
    if access & FAULT_WRITE:
        return not vm_flags & SHMM_VM_WRITE
    if access & FAULT_INSTRUCTION:
        return not vm_flags & SHMM_VM_EXEC
    return not vm_flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC)


cdef inline i64 fault_result(vcpu_t *c, u32 ret) noexcept nogil:
    """VM_FAULT_* as what the program gets: 0, -EFAULT (SIGSEGV), -SHMM_SIGBUS, -ENOMEM, -EAGAIN or
    -SHMM_STOPPED; counted."""
    if ret == 0:
        return 0
    if ret & VM_FAULT_OOM:
        count_vm_event(c, SHMM_C_faults_oom)
        return -ENOMEM
    if ret & VM_FAULT_SIGBUS:
        count_vm_event(c, SHMM_C_faults_sigbus)
        return -SHMM_SIGBUS
    if ret & VM_FAULT_RETRY:                # the run was stopped, or this CPU cannot wait
        return -EAGAIN if c.alone else -SHMM_STOPPED
    count_vm_event(c, SHMM_C_faults_segv)
    return -EFAULT


cdef inline u32 fault_under_lock(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    cdef vm_fault_t vmf
    cdef u32 ret = VM_FAULT_SIGSEGV
    cdef u32 vma
    mmap_read_lock(c, mm)
    vma = vma_lookup(c, mm, addr)
    if vma == 0 and c.g.stack_growth:
        vma = expand_stack(c, mm, addr)
    if vma:
        vma_copy(&vmf.vma, c, vma)
        if not access_error(vmf.vma.flags, access):
            vmf.mm = mm
            vmf.address = addr & ~(SHMM_PAGE_SIZE - 1)
            vmf.flags = access
            vmf.speculative = False
            ret = handle_mm_fault(c, &vmf)
    mmap_read_unlock(c, mm)
    return ret


cdef inline u32 fault_mmap_lock(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """0 or VM_FAULT_*; VM_FAULT_RETRY: nobody answers any more."""
    cdef u32 ret
    count_vm_event(c, SHMM_C_faults_classic)
    ret = fault_under_lock(c, mm, addr, access)
    while ret & VM_FAULT_RETRY and userfaultfd_wait(c, mm):
        ret = fault_under_lock(c, mm, addr, access)
    return ret


cdef inline bint probe_mmap_lock(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """Whether a VMA maps addr."""
    cdef bint mapped
    count_vm_event(c, SHMM_C_probe_locked)
    mmap_read_lock(c, mm)
    mapped = vma_lookup(c, mm, addr) != 0
    mmap_read_unlock(c, mm)
    return mapped
