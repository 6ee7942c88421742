"""The one place that chooses a scheme: how a fault, or a mere look-up, gains the right to use a VMA.

One of: mmap_lock (classical), spf (Lespinasse v2).  do_user_addr_fault is the arch entry: interrupts are on, the CPU is
in the kernel on behalf of a program's instruction.  A fault that the kernel takes itself, or makes up because it wants
the page (get_user_pages), is classical under every scheme (v2 28/35)."""

from shmm.arch.arch cimport i64, u32, u64
from shmm.layout cimport SHMM_C_user_faults, SHMM_SCHEME_SPF, mm_t, vcpu_t
from shmm.mm.call_rcu cimport rcu_barrier
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport VM_FAULT_OOM
from shmm.scheme.mmap_lock cimport fault_mmap_lock, fault_result, probe_mmap_lock
from shmm.scheme.spf cimport fault_spf, probe_spf


cdef inline u32 fault_by_scheme(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    if c.g.scheme == SHMM_SCHEME_SPF:
        return fault_spf(c, mm, addr, access)
    return fault_mmap_lock(c, mm, addr, access)


cdef inline bint probe_by_scheme(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """Whether a VMA maps addr.  The CPU is in the kernel, and so an RCU reader, and holds no lock."""
    if c.g.scheme == SHMM_SCHEME_SPF:
        return probe_spf(c, mm, addr)
    return probe_mmap_lock(c, mm, addr)


cdef inline i64 do_user_addr_fault(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """0: try the instruction again.  -EFAULT: SIGSEGV.  -SHMM_SIGBUS.  -ENOMEM: memory is out, also after what this
    CPU has deferred was reclaimed.  -SHMM_STOPPED or -EAGAIN: the answer it waits for does not come
    (userfaultfd.pxd)."""
    cdef u32 ret
    count_vm_event(c, SHMM_C_user_faults)
    ret = fault_by_scheme(c, mm, addr, access)
    if ret & VM_FAULT_OOM:
        rcu_barrier(c)
        ret = fault_by_scheme(c, mm, addr, access)
    return fault_result(c, ret)


cdef inline i64 do_kernel_addr_fault(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """A page that the kernel itself wants: results as above, no speculation, and no user fault is counted."""
    cdef u32 ret = fault_mmap_lock(c, mm, addr, access)
    if ret & VM_FAULT_OOM:
        rcu_barrier(c)
        ret = fault_mmap_lock(c, mm, addr, access)
    return fault_result(c, ret)
