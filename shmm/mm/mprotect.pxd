"""mprotect: splits at the edges, changes flags, rewrites ptes, flushes, merges.

mmap_lock held for write.  Ptes are changed under their ptl; write permission of private pages is only taken away here,
and given by the next write fault, except to a page that is exclusive already (kernels since 6.1 save that fault)."""

from libc.errno cimport EACCES, EINVAL, ENOMEM

from shmm.arch.arch cimport a64, i64, ld32_relaxed, ld64_relaxed, cmpxchg64, mutant, st64_relaxed, u32, u64
from shmm.arch.mutants cimport SHMM_M_MPROTECT_NO_FLUSH
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_HPAGE_SIZE, SHMM_PAGE_SIZE, SHMM_PTE_NX, SHMM_PTE_PRESENT, SHMM_PTE_PROTNONE,
    SHMM_PTE_SPECIAL, SHMM_PTE_USER, SHMM_PTE_WRITE, SHMM_TASK_SIZE, SHMM_VM_EXEC, SHMM_VM_READ, SHMM_VM_SHARED,
    SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.find_vma cimport find_vma
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.huge_memory cimport split_huge_pmd
from shmm.mm.mmap cimport calc_vm_prot_bits
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu, tlb_track
from shmm.mm.munmap cimport page_align, split_at_edges
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_trans_huge, pte_lockptr, pte_pfn,
)
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vm_get_page_prot, vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_merge_neighbours
from shmm.mm.vma_tree cimport next_vma


cdef inline bint can_change_pte_writable(vcpu_t *c, u64 flags, u64 pte) noexcept nogil:
    """A private anonymous page that nobody shares may become writable without a fault."""
    return (flags & SHMM_VM_WRITE != 0 and not flags & SHMM_VM_SHARED and not pte & SHMM_PTE_SPECIAL
            and ld32_relaxed(&c.frames[compound_head(c, pte_pfn(pte))].kind) == SHMM_FRAME_ANON
            and ld32_relaxed(&c.frames[compound_head(c, pte_pfn(pte))].exclusive) != 0)


cdef inline u64 pte_modify(vcpu_t *c, u64 pte, u64 flags) noexcept nogil:
    """The pte with the VMA's new permissions: page, accessed and dirty bits stay."""
    cdef u64 prot = vm_get_page_prot(flags)
    if prot & SHMM_PTE_WRITE and not pte & SHMM_PTE_WRITE:
        prot &= ~SHMM_PTE_WRITE                 # a shared file page still waits for its first write
    if can_change_pte_writable(c, flags, pte):
        prot |= SHMM_PTE_WRITE
    return pte & ~(SHMM_PTE_PRESENT | SHMM_PTE_PROTNONE | SHMM_PTE_WRITE | SHMM_PTE_USER | SHMM_PTE_NX) | prot


cdef inline void change_pte_range(vcpu_t *c, mmu_gather_t *tlb, u64 pmd, u64 addr, u64 end, u64 flags) noexcept nogil:
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef u64 pte, new
    spin_lock(c, pte_lockptr(c, pmd))
    while addr < end:
        pte = ld64_relaxed(entry)
        if pte:
            new = pte_modify(c, pte, flags)
            while new != pte and cmpxchg64(entry, pte, new) != pte:     # the MMU set a bit meanwhile
                pte = ld64_relaxed(entry)
                new = pte_modify(c, pte, flags)
            if not mutant(SHMM_M_MPROTECT_NO_FLUSH):
                tlb_track(tlb, addr, addr + SHMM_PAGE_SIZE)
        entry += 1
        addr += SHMM_PAGE_SIZE
    spin_unlock(pte_lockptr(c, pmd))


cdef inline u64 change_huge_pmd(vcpu_t *c, mmu_gather_t *tlb, a64 *pmd, u64 addr, u64 end, u64 flags) noexcept nogil:
    """The entry is huge.  A whole one changes in place: 0; else the table that it is split into."""
    cdef u64 old, new
    if end - addr != SHMM_HPAGE_SIZE:
        split_huge_pmd(c, tlb.mm, pmd, addr)
        return get_entry(pmd)
    spin_lock(c, &tlb.mm.page_table_lock)
    old = ld64_relaxed(pmd)
    new = pte_modify(c, old, flags)
    while new != old and cmpxchg64(pmd, old, new) != old:               # the MMU set a bit meanwhile
        old = ld64_relaxed(pmd)
        new = pte_modify(c, old, flags)
    spin_unlock(&tlb.mm.page_table_lock)
    if not mutant(SHMM_M_MPROTECT_NO_FLUSH):
        tlb_track(tlb, addr, end)
    return 0


cdef inline void change_pmd_range(vcpu_t *c, mmu_gather_t *tlb, a64 *pmd, u64 addr, u64 end, u64 flags) noexcept nogil:
    cdef u64 entry = get_entry(pmd)
    if pmd_trans_huge(entry):
        entry = change_huge_pmd(c, tlb, pmd, addr, end, flags)
    if entry:
        change_pte_range(c, tlb, entry, addr, end, flags)


cdef inline void change_protection(vcpu_t *c, mm_t *mm, u64 addr, u64 end, u64 flags) noexcept nogil:
    cdef mmu_gather_t tlb
    cdef a64 *pmd
    cdef u64 stop
    tlb_gather_mmu(&tlb, mm)
    while addr < end:
        stop = end_of_entry(addr, end, PMD)
        pmd = find_pmd(c, mm, addr)
        if pmd == NULL:
            stop = end_of_entry(addr, end, PMD + 1)
        elif get_entry(pmd) != 0:
            change_pmd_range(c, &tlb, pmd, addr, stop, flags)
        addr = stop
    tlb_finish_mmu(c, &tlb)


cdef inline i64 mprotect_fixup(vcpu_t *c, mm_t *mm, u32 vma, u64 start, u64 end, u64 new, u32 *covers) noexcept nogil:
    """Gives the part [start, end) of a VMA new flags.  covers: the VMA that holds the part afterwards."""
    cdef i64 err
    covers[0] = vma
    if ld64_relaxed(&c.vmas[vma].flags) == new:
        return 0
    err = split_at_edges(c, mm, start, end)
    if err:
        return err
    vma = find_vma(c, mm, start)
    st64_relaxed(&c.vmas[vma].flags, new)
    change_protection(c, mm, start, end, new)
    covers[0] = vma_merge_neighbours(c, mm, vma)
    return 0


cdef inline i64 do_mprotect(vcpu_t *c, mm_t *mm, u64 start, u64 end, u32 prot) noexcept nogil:
    """mmap_lock held for write.  Stops at the first hole (-ENOMEM); what came before it is changed, as in Linux."""
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at = start
    cdef u64 stop, flags
    cdef i64 err = 0
    cdef u32 covers = 0
    while at < end and err == 0:
        if vma == 0 or vma_start(c, vma) > at:
            return -ENOMEM
        flags = ld64_relaxed(&c.vmas[vma].flags)
        flags = flags & ~(SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC) | calc_vm_prot_bits(prot)
        if (flags & ~(flags >> 4)) & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC):     # beyond the VM_MAY* bits
            return -EACCES
        stop = min(vma_end(c, vma), end)
        err = mprotect_fixup(c, mm, vma, at, stop, flags, &covers)
        at = stop
        vma = covers if vma_end(c, covers) > at else next_vma(c, covers)
    return err


cdef inline i64 vm_mprotect(vcpu_t *c, mm_t *mm, u64 start, u64 length, u32 prot) noexcept nogil:
    """mprotect(2): 0, -EINVAL, -ENOMEM or -EACCES."""
    cdef u64 end
    cdef i64 ret
    if start & (SHMM_PAGE_SIZE - 1) or prot & ~(<u32> 7):
        return -EINVAL
    if length == 0:
        return 0
    end = start + page_align(length)
    if end <= start or end > SHMM_TASK_SIZE:
        return -ENOMEM
    mmap_write_lock(c, mm)
    ret = do_mprotect(c, mm, start, end, prot)
    mmap_write_unlock(c, mm)
    rcu_relieve(c)
    return ret
