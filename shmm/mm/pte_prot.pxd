"""What a change of permissions makes of a pte (pte_modify): mprotect, hints for NUMA balancing and their end.

Write permission of private pages is only taken away here, and given by the next write fault, except to a page that is
exclusive already (kernels since 6.1 save that fault)."""

from shmm.arch.arch cimport ld32_relaxed, u64
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_PTE_NX, SHMM_PTE_PRESENT, SHMM_PTE_PROTNONE, SHMM_PTE_SPECIAL, SHMM_PTE_UFFD_WP,
    SHMM_PTE_USER, SHMM_PTE_WRITE, SHMM_VM_SHARED, SHMM_VM_WRITE, vcpu_t,
)
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.page_table cimport pte_pfn
from shmm.mm.vma cimport vm_get_page_prot

cdef enum:
    NO_WRITENOTIFY = 0x800          # among the flags of a VMA: nobody need hear of the first write to a shared page


cdef inline bint can_change_pte_writable(vcpu_t *c, u64 flags, u64 pte) noexcept nogil:
    """A private anonymous page that nobody shares, nor watches, may become writable without a fault."""
    return (flags & SHMM_VM_WRITE != 0 and not flags & SHMM_VM_SHARED
            and not pte & (SHMM_PTE_SPECIAL | SHMM_PTE_UFFD_WP)
            and ld32_relaxed(&c.frames[compound_head(c, pte_pfn(pte))].kind) == SHMM_FRAME_ANON
            and ld32_relaxed(&c.frames[compound_head(c, pte_pfn(pte))].exclusive) != 0)


cdef inline u64 pte_modify(vcpu_t *c, u64 pte, u64 flags) noexcept nogil:
    """The pte with the permissions of a VMA with these flags: page, accessed and dirty bits stay."""
    cdef u64 prot = vm_get_page_prot(flags)
    if prot & SHMM_PTE_WRITE and not pte & SHMM_PTE_WRITE and not flags & NO_WRITENOTIFY:
        prot &= ~SHMM_PTE_WRITE                 # a shared file page still waits for its first write
    if can_change_pte_writable(c, flags, pte):
        prot |= SHMM_PTE_WRITE
    return pte & ~(SHMM_PTE_PRESENT | SHMM_PTE_PROTNONE | SHMM_PTE_WRITE | SHMM_PTE_USER | SHMM_PTE_NX) | prot
