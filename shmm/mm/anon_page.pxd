"""Putting a fresh anonymous page in place: the tail that a first touch, a copy of a file page and a broken
copy-on-write share (v2 05/35 shares it too).

The frame comes charged, filled and unmapped, with one reference, which the pte takes over."""

from shmm.arch.arch cimport ld64_relaxed, mutant, u32, u64
from shmm.arch.mutants cimport SHMM_M_PTE_NONE
from shmm.layout cimport (
    SHMM_PAGE_SHIFT, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_WRITE, SHMM_VM_UFFD_MISSING, vcpu_t,
)
from shmm.mm.file cimport page_still_cached
from shmm.mm.frame cimport add_batched, free_frame, uncharge_one
from shmm.mm.lru cimport lru_add
from shmm.mm.page_table cimport set_entry
from shmm.mm.userfaultfd cimport handle_userfault, userfaultfd_missing
from shmm.mm.vma cimport linear_page_index, vm_get_page_prot
from shmm.mm.walk cimport VM_FAULT_RETRY, VM_FAULT_SIGBUS, pte_map_lock, pte_unmap_unlock, vm_fault_t


cdef inline u64 anon_pte(vm_fault_t *vmf, u32 pfn) noexcept nogil:
    """Writable, written and used: what a write fault leaves behind."""
    return (<u64> pfn << SHMM_PAGE_SHIFT | vm_get_page_prot(vmf.vma.flags)
            | SHMM_PTE_WRITE | SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED)


cdef inline void drop_anon_page(vcpu_t *c, u32 pfn) noexcept nogil:
    """The page is not wanted after all; nobody has seen it."""
    uncharge_one(c)
    free_frame(c, pfn)


cdef inline u32 install_anon_page(vcpu_t *c, vm_fault_t *vmf, u32 pfn) noexcept nogil:
    """Fills the empty pte of the fault; consumes the frame.  0, also when somebody else was first; VM_FAULT_RETRY when
    speculation gave up, or when the program has to answer (userfaultfd.pxd); VM_FAULT_SIGBUS when the file's page that
    was copied is none any more."""
    if not pte_map_lock(c, vmf):
        drop_anon_page(c, pfn)
        return VM_FAULT_RETRY
    if ld64_relaxed(vmf.pte) != 0 and not mutant(SHMM_M_PTE_NONE):
        pte_unmap_unlock(vmf)
        drop_anon_page(c, pfn)
        return 0
    if vmf.vma.file and not page_still_cached(c, vmf.vma.file, linear_page_index(&vmf.vma, vmf.address), vmf.page):
        pte_unmap_unlock(vmf)
        drop_anon_page(c, pfn)
        return VM_FAULT_SIGBUS
    if userfaultfd_missing(vmf):
        pte_unmap_unlock(vmf)
        drop_anon_page(c, pfn)
        return handle_userfault(c, vmf, SHMM_VM_UFFD_MISSING)
    add_batched(&c.me.rss_anon, &vmf.mm.rss_anon, 1)
    lru_add(c, pfn)
    set_entry(vmf.pte, anon_pte(vmf, pfn))
    pte_unmap_unlock(vmf)
    return 0
