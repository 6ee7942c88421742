"""The speculative page-table walk and its commit primitive (v2 14, 16 and 17/35).

speculative_page_walk_begin/end keep page-table *memory* from being recycled while a walker that holds no lock reads it;
they say nothing about whether what it reads is still true.  Two policies:

  irq   interrupts off: tables are freed only after a shootdown, which waits for this CPU (G1)
  rcu   rcu_read_lock: tables are freed only after a grace period; needs table freeing by RCU

The truth of what was read is established once, at the commit, by pte_map_lock:

  1 begin                                           the memory stays
  2 SEQ1    mmap_seq unchanged?                     then the tables were still linked, the pmd pointer is good
  3 PMD     the pmd entry still what we walked?     excludes a huge-page collapse, which runs under the read lock
  4 PTL     try the table's lock, never wait        zap may flush under it and wait for us; and no starvation
  5 SEQ2    mmap_seq unchanged, now under the lock  any writer from now on meets this lock before it clears our pte
  6 end                                             interrupts are back on before the pte is written

Step 5 is the invariant the protocol rests on: every writer that tears this table down bumps mmap_seq before and takes
this ptl after; a faulter that holds the ptl with the old count will be seen, and undone, by that writer.

Step 3 adds nothing to 2 and 5 as long as a collapse holds mmap_lock for write, for mmap_seq moves then (khugepaged).
Under the policy in which it holds it for read, the pmd entry is all that tells; and where the walk is an RCU section,
which the collapse's shootdown does not wait for, it may change between the look and the lock.  So under that policy the
entry is looked at once more under the lock, as pte_offset_map_lock does since Linux 6.5, also by classical faults."""

from shmm.arch.arch cimport a64, cpu_relax, ld64_relaxed, mutant, u32, u64
from shmm.arch.mutants cimport (
    SHMM_M_COW_ABA, SHMM_M_PMD_SAME, SHMM_M_PMD_UNDER_PTL, SHMM_M_PTL_LOOP, SHMM_M_PTL_SPIN, SHMM_M_SEQ1, SHMM_M_SEQ2,
    SHMM_M_SEQ_BOTH, SHMM_M_VMA_MEMCMP, SHMM_M_WALK_UNPROTECTED,
)
from shmm.layout cimport (
    SHMM_COLLAPSE_READ, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PMD, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PTL,
    SHMM_C_SPF_ABORT_PTE_MAP_LOCK_SEQ1, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_SEQ2, SHMM_C_ptl_contended, SHMM_WALK_IRQ, mm_t,
    spinlock_t, vcpu_t,
)
from shmm.mm.irq cimport irq_disable, irq_enable
from shmm.mm.page_table cimport PTE, entry_below, pte_lockptr
from shmm.mm.rcu cimport rcu_read_lock, rcu_read_unlock
from shmm.mm.seqcount cimport mmap_seq_read_check
from shmm.mm.spinlock cimport spin_lock, spin_trylock, spin_unlock
from shmm.mm.vma cimport vma_copy_t, vma_unchanged
from shmm.mm.vmstat cimport count_vm_event

cdef enum:
    FAULT_WRITE = 1
    FAULT_INSTRUCTION = 2

cdef enum:                      # what a fault handler returns; 0 is success
    VM_FAULT_OOM = 1
    VM_FAULT_SIGBUS = 2
    VM_FAULT_SIGSEGV = 0x40
    VM_FAULT_RETRY = 0x400      # speculation gave up; classical: wait for userfaultfd, without the lock

# One fault in progress (struct vm_fault).
cdef struct vm_fault_t:
    mm_t *mm
    vma_copy_t vma
    u64 address                 # rounded down to the page
    u32 flags                   # FAULT_*
    bint speculative
    u64 seq                     # speculative: mmap_seq at the start
    a64 *pmd                    # the pmd entry; speculative: do not follow outside begin/end
    u64 orig_pmd                # what it held when it was walked
    a64 *pte
    u64 orig_pte                # what the pte held when it was walked
    u32 page                    # of a file's copy-on-write: the page that is copied
    spinlock_t *ptl             # the lock of the pte's table


cdef inline u32 spf_abort(vcpu_t *c, u32 reason) noexcept nogil:
    """Speculation gives up, for the reason that this counter names."""
    count_vm_event(c, reason)
    return VM_FAULT_RETRY


cdef inline void speculative_page_walk_begin(vcpu_t *c) noexcept nogil:
    if mutant(SHMM_M_WALK_UNPROTECTED):
        return
    if c.g.walk_policy == SHMM_WALK_IRQ:
        irq_disable(c)
    else:
        rcu_read_lock(c)


cdef inline void speculative_page_walk_end(vcpu_t *c) noexcept nogil:
    if mutant(SHMM_M_WALK_UNPROTECTED):
        return
    if c.g.walk_policy == SHMM_WALK_IRQ:
        irq_enable(c)
    else:
        rcu_read_unlock(c)


cdef inline void pte_set_table(vcpu_t *c, vm_fault_t *vmf, u64 pmd) noexcept nogil:
    vmf.orig_pmd = pmd
    vmf.pte = entry_below(c, pmd, vmf.address, PTE)
    vmf.ptl = pte_lockptr(c, pmd)


cdef inline bint nothing_changed(vcpu_t *c, vm_fault_t *vmf, int without) noexcept nogil:
    """Steps 2 and 5; without: the mutant that leaves this one out."""
    if mutant(without) or mutant(SHMM_M_SEQ_BOTH):
        return True
    if mutant(SHMM_M_VMA_MEMCMP) or mutant(SHMM_M_COW_ABA):
        return vma_unchanged(c, &vmf.vma)
    return mmap_seq_read_check(vmf.mm, vmf.seq)


cdef inline bint try_ptl(vcpu_t *c, spinlock_t *ptl) noexcept nogil:
    cdef u32 turn = 0
    if mutant(SHMM_M_PTL_SPIN):
        spin_lock(c, ptl)
        return True
    while not spin_trylock(c, ptl):
        if not mutant(SHMM_M_PTL_LOOP):
            return False
        cpu_relax(turn)
        turn += 1
    return True


cdef inline bint collapsed_meanwhile(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Under the ptl, where collapses take mmap_lock for read only: whether one has taken this table out of use."""
    return c.g.collapse_policy == SHMM_COLLAPSE_READ and ld64_relaxed(vmf.pmd) != vmf.orig_pmd


cdef inline bint pte_map_lock_speculative(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    if not nothing_changed(c, vmf, SHMM_M_SEQ1):
        count_vm_event(c, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_SEQ1)
        return False
    if ld64_relaxed(vmf.pmd) != vmf.orig_pmd and not mutant(SHMM_M_PMD_SAME):
        count_vm_event(c, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PMD)
        return False
    if not try_ptl(c, vmf.ptl):
        count_vm_event(c, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PTL)
        return False
    if collapsed_meanwhile(c, vmf) and not mutant(SHMM_M_PMD_SAME) and not mutant(SHMM_M_PMD_UNDER_PTL):
        spin_unlock(vmf.ptl)
        count_vm_event(c, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PMD)
        return False
    if not nothing_changed(c, vmf, SHMM_M_SEQ2):
        spin_unlock(vmf.ptl)
        count_vm_event(c, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_SEQ2)
        return False
    return True


cdef inline bint pte_map_lock(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Takes the pte's lock.  Speculative: with revalidation; False means that the walk's result is void, and nothing
    is held.  (One primitive for the kernel's pte_map_lock and pte_spinlock: frames are always mapped here.)"""
    cdef bint ok
    if not vmf.speculative:
        if not spin_trylock(c, vmf.ptl):
            count_vm_event(c, SHMM_C_ptl_contended)
            spin_lock(c, vmf.ptl)
        if not collapsed_meanwhile(c, vmf):
            return True
        spin_unlock(vmf.ptl)
        return False
    speculative_page_walk_begin(c)
    ok = pte_map_lock_speculative(c, vmf)
    speculative_page_walk_end(c)
    return ok


cdef inline void pte_unmap_unlock(vm_fault_t *vmf) noexcept nogil:
    spin_unlock(vmf.ptl)
