"""The speculative page fault of v2 (Lespinasse, January 2022): no lock until the page is ready.

    1  read mmap_seq; odd: a writer is at work              SPF_ABORT_ODD
    2  rcu: find_vma locklessly                             SPF_ABORT_UNMAPPED
       anonymous?                                           SPF_ABORT_NO_SPECULATE
       copy the VMA
    3  mmap_seq unchanged? then the copy is consistent      SPF_ABORT_VMA_COPY
    4  access rights, from the copy                         SPF_ABORT_ACCESS_ERROR
    5  handle_mm_fault on the copy                          the walk, the handler, the commit: walk.pxd, fault.pxd
    6  RETRY: fall back to the classical fault, once, for good

What writers owe it: mmap_seq odd before they touch VMAs or ptes, freed VMAs readable for a grace period, freed tables
readable for as long as a walk can last, and the ptl around every change of a pte.

Off while the mm has a single user (v2 28/35), unless force_speculation is set, which is for measuring; kernel-mode
faults never come here.  Every step that fails counts its reason; the sum of the reasons is spf_abort, except that a
failed mmu_notifier_trylock has no reason of its own, as in the series (I5 counts it as notifier_trylock_failed).
SPF_ABORT_FAULT stays 0: only the first posting's path for files counted it, which looked at mmap_seq before it called
the file system; v1 and v2 declare it, and refuse files at step 2.

An exception that wants to know a VMA and takes no fault (a uprobe's trap) needs steps 1 to 3 alone, with two
differences: it looks at mappings of every kind, and nothing behind it checks again, so that its one check of mmap_seq,
and the barriers of that, are all that stands between a torn tree and its answer.  There is no retry either: who cannot
speculate looks under the lock.

Sources: v2 13, 19, 28 and 31/35 (arch/x86/mm/fault.c); for the look-up mmap_lock_speculate_try_begin and
mmap_lock_speculate_retry as uprobes use them since Linux 6.13 (kernel/events/uprobes.c)."""

from shmm.arch.arch cimport (
    SHMM_SPECULATION_BEGINS, SHMM_SPECULATION_DROPPED, ld32_relaxed, mutant, speculation_event, u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_ODD, SHMM_M_PROBE_CHECK, SHMM_M_VMA_COPY
from shmm.layout cimport (
    SHMM_C_SPF_ABORT_ACCESS_ERROR, SHMM_C_SPF_ABORT_NO_SPECULATE, SHMM_C_SPF_ABORT_ODD, SHMM_C_SPF_ABORT_UNMAPPED,
    SHMM_C_SPF_ABORT_VMA_COPY, SHMM_C_probe_speculated, SHMM_C_spf_abort, SHMM_C_spf_attempt, SHMM_C_spf_success,
    SHMM_PAGE_SIZE, mm_t, vcpu_t,
)
from shmm.mm.fault cimport handle_mm_fault
from shmm.mm.find_vma cimport vma_lookup
from shmm.mm.rcu cimport rcu_read_lock, rcu_read_unlock
from shmm.mm.seqcount cimport mmap_seq_read_check, mmap_seq_read_start
from shmm.mm.vma cimport vma_copy, vma_is_anonymous
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport VM_FAULT_RETRY, vm_fault_t
from shmm.scheme.mmap_lock cimport access_error, fault_mmap_lock, probe_mmap_lock


cdef inline u32 find_and_copy_vma(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Step 2: 0, or the reason why not.  What it finds may be wrong until the count is checked."""
    cdef u32 vma = vma_lookup(c, vmf.mm, vmf.address)
    if vma == 0:                                            # stack growth included
        return SHMM_C_SPF_ABORT_UNMAPPED
    if not vma_is_anonymous(c, vma):                        # the live VMA, before the copy, as in the series
        return SHMM_C_SPF_ABORT_NO_SPECULATE
    vma_copy(&vmf.vma, c, vma)
    return 0


cdef inline u32 prepare_speculation(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Steps 1 to 4: 0, or the counter that says why not."""
    cdef u32 reason
    vmf.seq = mmap_seq_read_start(vmf.mm)
    if vmf.seq & 1 and not mutant(SHMM_M_ODD):
        return SHMM_C_SPF_ABORT_ODD
    rcu_read_lock(c)
    reason = find_and_copy_vma(c, vmf)
    rcu_read_unlock(c)
    if reason:
        return reason
    if not mutant(SHMM_M_VMA_COPY) and not mmap_seq_read_check(vmf.mm, vmf.seq):
        return SHMM_C_SPF_ABORT_VMA_COPY
    if access_error(vmf.vma.flags, vmf.flags):
        return SHMM_C_SPF_ABORT_ACCESS_ERROR
    return 0


cdef inline u32 fault_speculatively(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """One attempt: what the handler says, or VM_FAULT_RETRY."""
    cdef vm_fault_t vmf
    cdef u32 reason
    vmf.mm = mm
    vmf.address = addr & ~(SHMM_PAGE_SIZE - 1)
    vmf.flags = access
    vmf.speculative = True
    reason = prepare_speculation(c, &vmf)
    if reason:
        count_vm_event(c, reason)
        return VM_FAULT_RETRY
    return handle_mm_fault(c, &vmf)


cdef inline u32 fault_spf(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """0 or VM_FAULT_*."""
    cdef u32 ret
    if ld32_relaxed(&mm.users) == 1 and not c.g.force_speculation:
        return fault_mmap_lock(c, mm, addr, access)
    speculation_event(SHMM_SPECULATION_BEGINS)
    count_vm_event(c, SHMM_C_spf_attempt)
    ret = fault_speculatively(c, mm, addr, access)
    if ret & VM_FAULT_RETRY:
        count_vm_event(c, SHMM_C_spf_abort)
        speculation_event(SHMM_SPECULATION_DROPPED)
        return fault_mmap_lock(c, mm, addr, access)
    count_vm_event(c, SHMM_C_spf_success)
    return ret


cdef inline bint look_speculatively(vcpu_t *c, mm_t *mm, u64 addr, bint *mapped) noexcept nogil:
    """Whether what it says about addr was so, at one moment."""
    cdef u64 seq = mmap_seq_read_start(mm)
    if seq & 1 and not mutant(SHMM_M_ODD):
        return False
    rcu_read_lock(c)
    mapped[0] = vma_lookup(c, mm, addr) != 0
    rcu_read_unlock(c)
    return mutant(SHMM_M_PROBE_CHECK) or mmap_seq_read_check(mm, seq)


cdef inline bint probe_spf(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """Whether a VMA maps addr."""
    cdef bint mapped = False
    cdef bint speculates = ld32_relaxed(&mm.users) > 1 or c.g.force_speculation != 0
    if speculates and look_speculatively(c, mm, addr, &mapped):
        count_vm_event(c, SHMM_C_probe_speculated)
        return mapped
    return probe_mmap_lock(c, mm, addr)
