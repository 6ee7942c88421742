"""Registering a range with userfaultfd, and the end of that (UFFDIO_REGISTER, UFFDIO_UNREGISTER).

A VMA's flags say which faults are the program's to answer: VM_UFFD_MISSING, VM_UFFD_WP.  Ranges split and merge as
for any flag; with one context per address space, registered VMAs merge when their flags are the same.  mmap_lock is
held for write: a speculative fault that does not know yet fails its check of mmap_seq.

Anonymous private memory only (the kernel also has shared and huge pages).  Who waits for a page of a range that is no
longer registered takes its fault again.

Source: userfaultfd_register, userfaultfd_unregister of fs/userfaultfd.c."""

from libc.errno cimport EINVAL, ENOMEM

from shmm.arch.arch cimport a64, cmpxchg64, i64, ld32_relaxed, ld64_relaxed, mutant, st64_relaxed, u32, u64
from shmm.arch.mutants cimport SHMM_M_UFFD_WP_NO_FLUSH
from shmm.layout cimport (
    SHMM_MMAP_MIN, SHMM_PAGE_SIZE, SHMM_PTE_UFFD_WP, SHMM_PTE_WRITE, SHMM_TASK_SIZE, SHMM_VM_UFFD_MISSING,
    SHMM_VM_UFFD_WP, mm_t, vcpu_t,
)
from shmm.mm.find_vma cimport find_vma
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu, tlb_track
from shmm.mm.munmap cimport split_at_edges
from shmm.mm.page_table cimport PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pte_lockptr, pte_present
from shmm.mm.pte_prot cimport can_change_pte_writable
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.userfaultfd cimport uffd_wake_range
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_merge_neighbours
from shmm.mm.vma_tree cimport next_vma

cdef enum:
    MODE_MISSING = 1            # UFFDIO_REGISTER_MODE_*
    MODE_WP = 2


cdef inline u64 wp_pte(vcpu_t *c, u64 pte, u64 flags, bint protect) noexcept nogil:
    """The pte, or swap entry, protected or not.  What was protected may be written at once where nobody shares it."""
    if protect:
        return pte & ~SHMM_PTE_WRITE | SHMM_PTE_UFFD_WP
    pte &= ~SHMM_PTE_UFFD_WP
    return pte | SHMM_PTE_WRITE if pte_present(pte) and can_change_pte_writable(c, flags, pte) else pte


cdef inline bint wants_wp_change(u64 pte, bint protect) noexcept nogil:
    """Empty ptes have nothing to protect (there are no markers, as without UFFD_FEATURE_WP_UNPOPULATED)."""
    return pte != 0 and (pte & SHMM_PTE_UFFD_WP == 0) == protect


cdef inline void wp_pte_range(vcpu_t *c, mmu_gather_t *tlb, u64 pmd, u64 addr, u64 end, u64 flags,
                              bint protect) noexcept nogil:
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef u64 pte
    spin_lock(c, pte_lockptr(c, pmd))
    while addr < end:
        pte = ld64_relaxed(entry)
        if wants_wp_change(pte, protect):
            while cmpxchg64(entry, pte, wp_pte(c, pte, flags, protect)) != pte:     # the MMU set a bit meanwhile
                pte = ld64_relaxed(entry)
            if not mutant(SHMM_M_UFFD_WP_NO_FLUSH):
                tlb_track(tlb, addr, addr + SHMM_PAGE_SIZE)
        entry += 1
        addr += SHMM_PAGE_SIZE
    spin_unlock(pte_lockptr(c, pmd))


cdef inline void uffd_wp_range(vcpu_t *c, mm_t *mm, u64 addr, u64 end, u64 flags, bint protect) noexcept nogil:
    """A part of one VMA; mmap_lock held for read at least.  When it returns nobody can write to what is protected."""
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
            wp_pte_range(c, &tlb, get_entry(pmd), addr, stop, flags, protect)
        addr = stop
    tlb_finish_mmu(c, &tlb)


cdef inline i64 validate_range(u64 start, u64 length) noexcept nogil:
    if start & (SHMM_PAGE_SIZE - 1) or length & (SHMM_PAGE_SIZE - 1) or length == 0:
        return -EINVAL
    if start < SHMM_MMAP_MIN or start >= SHMM_TASK_SIZE or length > SHMM_TASK_SIZE - start:
        return -EINVAL
    return 0


cdef inline bint can_userfault(vcpu_t *c, u32 vma, u64 start, u64 end) noexcept nogil:
    """Whether there is a mapping in the range, and none that cannot be registered."""
    if vma == 0 or vma_start(c, vma) >= end:
        return False
    while vma and vma_start(c, vma) < end:
        if ld32_relaxed(&c.vmas[vma].file):
            return False
        vma = next_vma(c, vma)
    return True


cdef inline i64 userfault_range(vcpu_t *c, mm_t *mm, u64 start, u64 end, u64 flags) noexcept nogil:
    """Gives what is mapped in the range these VM_UFFD_* flags.  mmap_lock held for write.  0 or a negative errno."""
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at, stop, old, new
    if not can_userfault(c, vma, start, end):
        return -EINVAL
    while vma and vma_start(c, vma) < end:
        at = max(start, vma_start(c, vma))
        stop = min(end, vma_end(c, vma))
        old = ld64_relaxed(&c.vmas[vma].flags)
        new = old & ~(SHMM_VM_UFFD_MISSING | SHMM_VM_UFFD_WP) | flags
        if new != old:
            if split_at_edges(c, mm, at, stop):
                return -ENOMEM
            vma = find_vma(c, mm, at)
            st64_relaxed(&c.vmas[vma].flags, new)
            if old & ~new & SHMM_VM_UFFD_WP:
                uffd_wp_range(c, mm, at, stop, new, False)
            vma = vma_merge_neighbours(c, mm, vma)
        if vma_end(c, vma) <= stop:
            vma = next_vma(c, vma)
        elif stop == end:
            break
    return 0


cdef inline i64 vm_userfault(vcpu_t *c, mm_t *mm, u64 start, u64 length, u64 modes) noexcept nogil:
    """modes: UFFDIO_REGISTER_MODE_*, or 0: not registered any more.  0 or a negative errno."""
    cdef i64 ret = validate_range(start, length)
    cdef u64 flags = SHMM_VM_UFFD_MISSING if modes & MODE_MISSING else 0
    if ret or modes & ~(<u64> (MODE_MISSING | MODE_WP)):
        return -EINVAL
    if modes & MODE_WP:
        flags |= SHMM_VM_UFFD_WP
    mmap_write_lock(c, mm)
    ret = userfault_range(c, mm, start, start + length, flags)
    mmap_write_unlock(c, mm)
    if modes == 0 and ret == 0:
        uffd_wake_range(c, mm, start, start + length)
    return ret
