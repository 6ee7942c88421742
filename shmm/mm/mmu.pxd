"""The emulated MMU: translates one address for one instruction, interrupts off.

TLB first; on a miss, or an entry that does not allow the access (x86 drops it and looks again), a walk of the tables in
memory, which sets the accessed and dirty bits by compare-and-swap and fills the TLB.  No lock: what is read is true at
some moment of this irq-off section, and whoever takes it away waits for the section's end (G1).

A load or store of a program is: insn_begin, translate, fault if need be and again, access, insn_end."""

from shmm.arch.arch cimport a64, cmpxchg64, ld32_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_C_violations, SHMM_PAGE_SHIFT, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_NX, SHMM_PTE_PRESENT,
    SHMM_PTE_WRITE, mm_t, vcpu_t,
)
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.page_table cimport PTE, entry_below, find_pmd, get_entry, huge_part, pmd_trans_huge, pte_pfn
from shmm.mm.tlb cimport tlb_fill, tlb_flush_one, tlb_lookup
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport FAULT_INSTRUCTION, FAULT_WRITE

cdef enum:
    GEN_SHIFT = 52
    GEN_MASK = 0x7ff


cdef inline bint pte_allows(u64 pte, u32 access) noexcept nogil:
    if not pte & SHMM_PTE_PRESENT:
        return False
    if access & FAULT_WRITE:
        return pte & SHMM_PTE_WRITE != 0
    return not access & FAULT_INSTRUCTION or not pte & SHMM_PTE_NX


cdef inline u64 mmu_walk_huge(a64 *entry, u64 pmd, u64 addr, u32 access, u64 need) noexcept nogil:
    """The same for a huge pmd, which held pmd when it was read.  It may have become a table since: another CPU has
    zapped it, its flush waits for us, and a third has faulted."""
    cdef u64 seen
    while pmd_trans_huge(pmd) and pte_allows(pmd, access):
        if pmd & need == need:
            return huge_part(pmd, addr)
        seen = cmpxchg64(entry, pmd, pmd | need)
        if seen == pmd:
            return huge_part(pmd | need, addr)
        pmd = seen
    return 0


cdef inline u64 mmu_walk(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """The page's pte with accessed (and dirty) set, or 0: a page fault."""
    cdef u64 need = SHMM_PTE_ACCESSED | (SHMM_PTE_DIRTY if access & FAULT_WRITE else 0)
    cdef a64 *entry = find_pmd(c, mm, addr)
    cdef u64 pte
    if entry == NULL:
        return 0
    pte = get_entry(entry)
    if pte == 0:
        return 0
    if pmd_trans_huge(pte):
        return mmu_walk_huge(entry, pte, addr, access, need)
    entry = entry_below(c, pte, addr, PTE)
    while True:
        pte = get_entry(entry)
        if not pte_allows(pte, access):
            return 0
        if pte & need == need or cmpxchg64(entry, pte, pte | need) == pte:
            return pte | need


cdef inline void check_frame_alive(vcpu_t *c, u64 pte) noexcept nogil:
    """I3: the frame behind a cached translation has not been freed since it was cached."""
    if pte >> GEN_SHIFT & GEN_MASK != ld32_relaxed(&c.frames[compound_head(c, pte_pfn(pte))].gen) & GEN_MASK:
        count_vm_event(c, SHMM_C_violations)


cdef inline u64 mmu_refill(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """A TLB miss: walks and caches.  The TLB holds no entry for the page.  Interrupts are off."""
    cdef u64 pte = mmu_walk(c, mm, addr, access)
    if pte:
        if c.g.paranoid:
            pte |= <u64> (ld32_relaxed(&c.frames[compound_head(c, pte_pfn(pte))].gen) & GEN_MASK) << GEN_SHIFT
        tlb_fill(c, addr >> SHMM_PAGE_SHIFT, pte)
    return pte


cdef inline u64 mmu_translate(vcpu_t *c, mm_t *mm, u64 addr, u32 access) noexcept nogil:
    """The pte through which this access may go, or 0: a page fault.  Interrupts are off."""
    cdef u64 pte = tlb_lookup(c, addr >> SHMM_PAGE_SHIFT)
    if pte:
        if pte_allows(pte, access) and (not access & FAULT_WRITE or pte & SHMM_PTE_DIRTY):
            if c.g.paranoid:
                check_frame_alive(c, pte)
            return pte
        tlb_flush_one(c, <u32> (mm - c.mms), addr >> SHMM_PAGE_SHIFT)
    return mmu_refill(c, mm, addr, access)
