"""A fault on a page that is swapped out: reads it back (do_swap_page).

Classical only: v2 21/35 turns speculation away at the first line, whatever the entry is.  (The first version tried
pages found in the swap cache, with a trylock of the page.)

The slot is read under the ptl, once the pte is known to be the entry still.  Why not before, which would hold the lock
for less: the entry's reference is what keeps the slot, and only the ptl keeps the entry.

    CPU 0  load                                CPU 1  load, store, MADV_PAGEOUT
    sees slot 5 in the pte
    reads slot 5
                                               takes the page in, slot 5 is free; stores; puts the page out again,
                                               to slot 5
    pte says slot 5, as before
    maps what it has read: the store is lost

The kernel had that race where it read past the swap cache, and marks the slot there since (CVE-2024-26759).

The page is this process' own, whoever else has entries for the slot, and so it is mapped writable at once where the VMA
allows it, which saves the fault of a store after a load (as kernels since 6.11 do)."""

from shmm.arch.arch cimport copy_page, ld64_relaxed, mutant, u32, u64
from shmm.arch.mutants cimport SHMM_M_SWAP_READ_EARLY
from shmm.layout cimport (
    SHMM_C_SPF_ABORT_SWAP, SHMM_C_pgmajfault, SHMM_C_pswpin, SHMM_FRAME_ANON, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE,
    SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_UFFD_WP, SHMM_PTE_WRITE, SHMM_VM_WRITE, vcpu_t,
)
from shmm.mm.anon_page cimport drop_anon_page
from shmm.mm.frame cimport add_batched, alloc_frame, charge, frame_bytes
from shmm.mm.lru cimport lru_add
from shmm.mm.page_table cimport set_entry
from shmm.mm.swap_entry cimport swp_offset
from shmm.mm.swapfile cimport swap_bytes, swap_free
from shmm.mm.vma cimport vm_get_page_prot
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport (
    FAULT_WRITE, VM_FAULT_OOM, pte_map_lock, pte_unmap_unlock, spf_abort, vm_fault_t,
)


cdef inline u64 swapped_in_pte(vm_fault_t *vmf, u32 pfn) noexcept nogil:
    cdef u64 pte = <u64> pfn << SHMM_PAGE_SHIFT | vm_get_page_prot(vmf.vma.flags) | SHMM_PTE_ACCESSED
    if vmf.orig_pte & SHMM_PTE_UFFD_WP:         # the store that may have come here faults again, and waits
        return pte | SHMM_PTE_UFFD_WP
    if vmf.vma.flags & SHMM_VM_WRITE:
        pte |= SHMM_PTE_WRITE
    return pte | SHMM_PTE_DIRTY if vmf.flags & FAULT_WRITE else pte


cdef inline void swap_readpage(vcpu_t *c, u32 slot, u32 pfn) noexcept nogil:
    copy_page(frame_bytes(c, pfn), swap_bytes(c, slot), SHMM_PAGE_SIZE)


cdef inline u32 do_swap_page(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """vmf.orig_pte is a swap entry."""
    cdef u32 slot = swp_offset(vmf.orig_pte)
    cdef u32 pfn
    if vmf.speculative:
        return spf_abort(c, SHMM_C_SPF_ABORT_SWAP)
    pfn = alloc_frame(c, SHMM_FRAME_ANON)
    if pfn == 0:
        return VM_FAULT_OOM
    charge(c)
    if mutant(SHMM_M_SWAP_READ_EARLY):
        swap_readpage(c, slot, pfn)
    pte_map_lock(c, vmf)
    if ld64_relaxed(vmf.pte) != vmf.orig_pte:
        pte_unmap_unlock(vmf)                   # somebody else has read it, or it was unmapped
        drop_anon_page(c, pfn)
        return 0
    if not mutant(SHMM_M_SWAP_READ_EARLY):
        swap_readpage(c, slot, pfn)
    add_batched(&c.me.rss_anon, &vmf.mm.rss_anon, 1)
    lru_add(c, pfn)
    set_entry(vmf.pte, swapped_in_pte(vmf, pfn))
    pte_unmap_unlock(vmf)
    swap_free(c, slot)                          # the reference of the entry that was
    count_vm_event(c, SHMM_C_pswpin)
    count_vm_event(c, SHMM_C_pgmajfault)
    return 0
