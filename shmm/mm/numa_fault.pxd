"""NUMA hint faults (do_numa_page): a pte without access in a VMA that allows it.

    lock, the pte still the same?
    the page is on this node, or not one to move:   give access back, unlock
    else take a reference, unlock
      movable, and memory on this node:             lock again, move it (migrate.pxd)
      not:                                          lock again, give access back

Speculation does all of it (v2 20 and 21/35), and may: whatever it changes, it changes under a ptl that was taken with
mmap_seq unchanged.  Each lock must be taken so, for between two of them nothing is held.

The hole.  The series made the first lock a revalidating one and left the rest as it was; but in kernels from 5.13 to
6.x the failure of the migration takes the lock a second time, by pte_offset_map and spin_lock:

    CPU 0  speculative fault                     CPU 1  munmap
    locks, refers to the page, unlocks
    cannot move it
                                                 zaps, frees the table; it becomes somebody's page
    locks the lock of what was the table,
    reads what was the pte

Classical faults are safe there, for they hold mmap_lock.  Here the second lock revalidates like the first, and gives
up where that fails.  The mutant NUMA_SECOND_LOCK is the series to the letter.  (Found by reading, no mail has it.)

Which node is right is decided by the first fault, not by the second from the same node as in
should_numa_migrate_memory; only anonymous pages move."""

from shmm.arch.arch cimport ld32_relaxed, ld64_relaxed, mutant, u32, u64
from shmm.arch.mutants cimport SHMM_M_NUMA_SECOND_LOCK
from shmm.layout cimport (
    SHMM_C_SPF_ATTEMPT_NUMA, SHMM_C_numa_hint_faults, SHMM_C_numa_hint_faults_local, SHMM_C_numa_pages_migrated,
    SHMM_C_pgmigrate_fail, SHMM_C_pgmigrate_success, SHMM_FRAME_ANON, SHMM_PTE_ACCESSED, vcpu_t,
)
from shmm.mm.anon_page cimport drop_anon_page
from shmm.mm.frame cimport frame_node, get_frame
from shmm.mm.lru cimport put_page
from shmm.mm.migrate cimport alloc_misplaced_dst, page_is_movable, replace_page
from shmm.mm.page_table cimport get_entry, pte_pfn, set_entry
from shmm.mm.pte_prot cimport pte_modify
from shmm.mm.spinlock cimport spin_lock
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport VM_FAULT_RETRY, pte_map_lock, pte_set_table, pte_unmap_unlock, vm_fault_t


cdef inline bint misplaced(vcpu_t *c, u32 pfn) noexcept nogil:
    """Counts the hint; whether the page should be on this CPU's node, and is not."""
    count_vm_event(c, SHMM_C_numa_hint_faults)
    if frame_node(c, pfn) == c.node:
        count_vm_event(c, SHMM_C_numa_hint_faults_local)
        return False
    return ld32_relaxed(&c.frames[pfn].kind) == SHMM_FRAME_ANON


cdef inline void give_access_back(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Under the ptl, which is dropped.  No TLB holds a pte that allows nothing: no flush."""
    set_entry(vmf.pte, pte_modify(c, vmf.orig_pte, vmf.vma.flags) | SHMM_PTE_ACCESSED)
    pte_unmap_unlock(vmf)


cdef inline bint pte_lock_again(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """After the lock was dropped.  False: nothing can be said about the pte any more."""
    if mutant(SHMM_M_NUMA_SECOND_LOCK):
        pte_set_table(c, vmf, get_entry(vmf.pmd))
        spin_lock(c, vmf.ptl)
        return True
    return pte_map_lock(c, vmf)


cdef inline u32 numa_stay(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """The page was not moved."""
    count_vm_event(c, SHMM_C_pgmigrate_fail)
    if not pte_lock_again(c, vmf):
        return VM_FAULT_RETRY
    if ld64_relaxed(vmf.pte) != vmf.orig_pte:
        pte_unmap_unlock(vmf)
    else:
        give_access_back(c, vmf)
    return 0


cdef inline u32 numa_move(vcpu_t *c, vm_fault_t *vmf, u32 old, u32 new) noexcept nogil:
    """Moves the page, unless something came between.  Consumes new and the caller's reference on old."""
    cdef bint locked = pte_map_lock(c, vmf)
    cdef bint same = locked and ld64_relaxed(vmf.pte) == vmf.orig_pte
    cdef bint moves = same and page_is_movable(c, old)
    if moves:
        replace_page(c, vmf, old, new)
        put_page(c, old)                        # the pte's reference
    if same and not moves:
        give_access_back(c, vmf)
    elif locked:
        pte_unmap_unlock(vmf)
    put_page(c, old)
    if not moves:
        drop_anon_page(c, new)
        count_vm_event(c, SHMM_C_pgmigrate_fail)
        return 0 if locked else VM_FAULT_RETRY
    count_vm_event(c, SHMM_C_numa_pages_migrated)
    count_vm_event(c, SHMM_C_pgmigrate_success)
    return 0


cdef inline u32 do_numa_page(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """vmf.orig_pte allows no access, and vmf.vma does."""
    cdef u32 old = pte_pfn(vmf.orig_pte)
    cdef u32 new
    if vmf.speculative:
        count_vm_event(c, SHMM_C_SPF_ATTEMPT_NUMA)
    if not pte_map_lock(c, vmf):
        return VM_FAULT_RETRY
    if ld64_relaxed(vmf.pte) != vmf.orig_pte:
        pte_unmap_unlock(vmf)
        return 0
    if not misplaced(c, old):
        give_access_back(c, vmf)
        return 0
    get_frame(c, old)
    pte_unmap_unlock(vmf)
    new = alloc_misplaced_dst(c, old)
    if new:
        return numa_move(c, vmf, old, new)
    put_page(c, old)
    return numa_stay(c, vmf)
