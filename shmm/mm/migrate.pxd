"""Moving a page to the node of the CPU that uses it (migrate_misplaced_page).

    alloc_misplaced_dst    a frame of this CPU's own node, or no migration
    replace_page           under the ptl: clear the pte, flush, copy, set the new pte

The page is mapped by one pte, and the only other reference is the caller's: without a reverse map a page that several
ptes map cannot be moved, nor one that somebody else holds on to.  The ptl is held from the unmapping to the new pte, so
there are no migration entries: who faults in between waits for the lock, or gives speculation up.

The flush is needed although the pte allows no access: the hint that it is may be so new that its own flush is still to
come, and a CPU then writes through the translation it has (mm_tlb_flush_pending in the kernel).

    CPU 0  numa_scan          CPU 1  a store           CPU 2  a load, of another node
    pte: no access
                                                       fault: hint, copies the page
                              writes to the old page
    flush                                              maps the copy: the store is lost

Source: mm/migrate.c."""

from shmm.arch.arch cimport copy_page, ld32_relaxed, mutant, u32, u64
from shmm.arch.mutants cimport SHMM_M_MIGRATE_NO_FLUSH
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PTE_ACCESSED, SHMM_PTE_PFN, vcpu_t,
)
from shmm.mm.frame cimport alloc_frame, charge, frame_bytes, refill_home
from shmm.mm.lru cimport lru_add
from shmm.mm.page_table cimport set_entry
from shmm.mm.pte_prot cimport pte_modify
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.walk cimport vm_fault_t

cdef enum:
    EXPECTED_REFS = 2           # the pte's, and that of whoever wants to move the page


cdef inline bint page_is_movable(vcpu_t *c, u32 pfn) noexcept nogil:
    return ld32_relaxed(&c.frames[pfn].refs) == EXPECTED_REFS


cdef inline u32 alloc_misplaced_dst(vcpu_t *c, u32 old) noexcept nogil:
    """Where to move the page, charged; or 0: it cannot be moved, or there is no memory on this node."""
    cdef u32 new
    if not page_is_movable(c, old) or not refill_home(c):
        return 0
    new = alloc_frame(c, SHMM_FRAME_ANON)
    charge(c)
    return new


cdef inline void replace_page(vcpu_t *c, vm_fault_t *vmf, u32 old, u32 new) noexcept nogil:
    """Under the ptl; the pte is vmf.orig_pte and maps old.  The pte's reference on old is the caller's then."""
    cdef u64 pte = pte_modify(c, vmf.orig_pte & ~SHMM_PTE_PFN | <u64> new << SHMM_PAGE_SHIFT, vmf.vma.flags)
    set_entry(vmf.pte, 0)
    if not mutant(SHMM_M_MIGRATE_NO_FLUSH):
        flush_tlb_mm_range(c, vmf.mm, vmf.address, vmf.address + SHMM_PAGE_SIZE)
    copy_page(frame_bytes(c, new), frame_bytes(c, old), SHMM_PAGE_SIZE)
    lru_add(c, new)
    set_entry(vmf.pte, pte | SHMM_PTE_ACCESSED)
