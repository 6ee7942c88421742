"""NUMA balancing, the half that asks: takes access away for a while, to see by the faults who uses which page
(task_numa_work, change_prot_numa).

Present ptes of accessible VMAs become PROTNONE, as mprotect(PROT_NONE) would make them, but the VMA keeps its
permissions: that difference is what tells a hint from a forbidden access.  In the kernel a task does so to a part of
its memory at a time, on its way back to user mode; here a program says when and where.

mmap_lock is held for read: mmap_seq does not move, and a speculative fault that has seen the pte before finds it
changed under the ptl.  The flush comes after the ptl is dropped.  Until then a CPU may still write through the
translation it has, while another already faults: so whoever moves the page flushes once more (migrate.pxd).

Left alone, as in the kernel: the zero page, pages that processes share copy-on-write (whose would the fault be?), and
mappings of files that are only read.

Source: change_pte_range with MM_CP_PROT_NUMA, mm/mprotect.c; task_numa_work, kernel/sched/fair.c."""

from libc.errno cimport EINVAL

from shmm.arch.arch cimport a64, cmpxchg64, i64, ld32_relaxed, ld64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_C_numa_pte_updates, SHMM_PAGE_SIZE, SHMM_PTE_SPECIAL, SHMM_TASK_SIZE, SHMM_VM_READ, SHMM_VM_SHARED,
    SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.find_vma cimport find_vma
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu, tlb_track
from shmm.mm.munmap cimport page_align
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_trans_huge, pte_lockptr, pte_pfn, pte_present,
    pte_protnone,
)
from shmm.mm.pte_prot cimport pte_modify
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_end, vma_is_accessible, vma_start
from shmm.mm.vma_tree cimport next_vma
from shmm.mm.vmstat cimport count_vm_event


cdef inline bint wants_hint(vcpu_t *c, u64 pte, u64 flags) noexcept nogil:
    """Under the ptl."""
    if not pte_present(pte) or pte_protnone(pte) or pte & SHMM_PTE_SPECIAL:
        return False
    return flags & SHMM_VM_SHARED != 0 or ld32_relaxed(&c.frames[pte_pfn(pte)].refs) == 1


cdef inline void hint_pte_range(vcpu_t *c, mmu_gather_t *tlb, u64 pmd, u64 addr, u64 end, u64 flags) noexcept nogil:
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef u64 pte
    spin_lock(c, pte_lockptr(c, pmd))
    while addr < end:
        pte = ld64_relaxed(entry)
        if wants_hint(c, pte, flags):
            while cmpxchg64(entry, pte, pte_modify(c, pte, 0)) != pte:      # the MMU set a bit meanwhile
                pte = ld64_relaxed(entry)
            tlb_track(tlb, addr, addr + SHMM_PAGE_SIZE)
            count_vm_event(c, SHMM_C_numa_pte_updates)
        entry += 1
        addr += SHMM_PAGE_SIZE
    spin_unlock(pte_lockptr(c, pmd))


cdef inline void change_prot_numa(vcpu_t *c, mm_t *mm, u64 addr, u64 end, u64 flags) noexcept nogil:
    """A part of one VMA."""
    cdef mmu_gather_t tlb
    cdef a64 *pmd
    cdef u64 stop
    mmu_notifier_invalidate_range_start(c, mm, addr, end)
    tlb_gather_mmu(&tlb, mm)
    while addr < end:
        stop = end_of_entry(addr, end, PMD)
        pmd = find_pmd(c, mm, addr)
        if pmd == NULL:
            stop = end_of_entry(addr, end, PMD + 1)
        elif get_entry(pmd) != 0 and not pmd_trans_huge(get_entry(pmd)):        # huge pages stay
            hint_pte_range(c, &tlb, get_entry(pmd), addr, stop, flags)
        addr = stop
    tlb_finish_mmu(c, &tlb)
    mmu_notifier_invalidate_range_end(c, mm)


cdef inline bint balances(vcpu_t *c, u32 vma) noexcept nogil:
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    return vma_is_accessible(flags) and (
        ld32_relaxed(&c.vmas[vma].file) == 0 or flags & (SHMM_VM_READ | SHMM_VM_WRITE) != SHMM_VM_READ)


cdef inline i64 task_numa_work(vcpu_t *c, mm_t *mm, u64 start, u64 length) noexcept nogil:
    """Asks for hints in the range; what is not mapped, or not accessible, is passed over.  0 or -EINVAL."""
    cdef u64 end = start + page_align(length)
    cdef u32 vma
    if start & (SHMM_PAGE_SIZE - 1) or end < start or end > SHMM_TASK_SIZE:
        return -EINVAL
    mmap_read_lock(c, mm)
    vma = find_vma(c, mm, start)
    while vma and vma_start(c, vma) < end:
        if balances(c, vma):
            change_prot_numa(c, mm, max(start, vma_start(c, vma)), min(end, vma_end(c, vma)),
                             ld64_relaxed(&c.vmas[vma].flags))
        vma = next_vma(c, vma)
    mmap_read_unlock(c, mm)
    return 0
