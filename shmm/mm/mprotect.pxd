"""mprotect: splits at the edges, changes flags, rewrites ptes, flushes, merges.

mmap_lock held for write.  Ptes are changed under their ptl; write permission of private pages is only taken away here,
and given by the next write fault, except to a page that is exclusive already (kernels since 6.1 save that fault)."""

from libc.errno cimport EACCES, EINVAL, ENOMEM

from shmm.arch.arch cimport a64, cmpxchg64, get32, i64, ld32_relaxed, ld64_relaxed, mutant, u32, u64
from shmm.arch.mutants cimport SHMM_M_MPROTECT_NO_FLUSH, SHMM_M_NOTIFIER_MPROTECT
from shmm.layout cimport (
    SHMM_HPAGE_SIZE, SHMM_PAGE_SIZE, SHMM_VM_ACCOUNT, SHMM_VM_EXEC, SHMM_VM_GROWSDOWN, SHMM_VM_LOCKED,
    SHMM_VM_NORESERVE, SHMM_VM_READ, SHMM_VM_SHARED, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.anon cimport vma_anon
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.find_vma cimport find_vma
from shmm.mm.huge_memory cimport split_huge_pmd
from shmm.mm.mmap cimport calc_vm_prot_bits, vm_enough_memory
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_gather_mmu, tlb_track
from shmm.mm.munmap cimport page_align
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_trans_huge, pte_lockptr, pte_present,
)
from shmm.mm.populate cimport populate_vma_page_range
from shmm.mm.pte_prot cimport NO_WRITENOTIFY, pte_modify
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_modify_flags
from shmm.mm.vma_tree cimport next_vma

cdef enum:
    PROT_RWX = 7
    PROT_SEM = 8                    # accepted, and means nothing
    PROT_GROWSDOWN = 0x01000000
    PROT_GROWSUP = 0x02000000


cdef inline void change_pte_range(vcpu_t *c, mmu_gather_t *tlb, u64 pmd, u64 addr, u64 end, u64 flags) noexcept nogil:
    cdef a64 *entry = entry_below(c, pmd, addr, PTE)
    cdef u64 pte, new
    spin_lock(c, pte_lockptr(c, pmd))
    while addr < end:
        pte = ld64_relaxed(entry)
        if pte_present(pte):                    # a swap entry carries no permissions
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
    if not mutant(SHMM_M_NOTIFIER_MPROTECT):
        mmu_notifier_invalidate_range_start(c, mm, addr, end)
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
    if not mutant(SHMM_M_NOTIFIER_MPROTECT):
        mmu_notifier_invalidate_range_end(c, mm)


cdef inline i64 account_writable(vcpu_t *c, u32 vma, u64 start, u64 end, u64 *flags) noexcept nogil:
    """VM_ACCOUNT: of what became writable once the whole may be written, so it stays charged; unless nothing was ever
    written (kernels since 6.2).  Two neighbours that differ in it do not merge."""
    cdef u64 old = ld64_relaxed(&c.vmas[vma].flags)
    if flags[0] & SHMM_VM_WRITE:
        if not old & (SHMM_VM_ACCOUNT | SHMM_VM_WRITE | SHMM_VM_SHARED | SHMM_VM_NORESERVE):
            if not vm_enough_memory(c, end - start):
                return -ENOMEM
            flags[0] |= SHMM_VM_ACCOUNT
    elif old & SHMM_VM_ACCOUNT and ld32_relaxed(&c.vmas[vma].file) == 0 and vma_anon(c, vma) == 0:
        flags[0] &= ~SHMM_VM_ACCOUNT
    return 0


cdef inline bint vma_wants_writenotify(vcpu_t *c, u32 vma) noexcept nogil:
    """Whether a file system does; shared anonymous memory, and tmpfs, have nobody to tell."""
    cdef u32 file = ld32_relaxed(&c.vmas[vma].file)
    return file == 0 or not get32(&c.files[file].shmem)


cdef inline i64 mprotect_fixup(vcpu_t *c, mm_t *mm, u32 vma, u64 start, u64 end, u64 new, u32 *covers) noexcept nogil:
    """Gives the part [start, end) of a VMA new flags.  covers: the VMA that holds the part afterwards."""
    cdef u64 old = ld64_relaxed(&c.vmas[vma].flags)
    cdef i64 err
    covers[0] = vma
    if old == new:
        return 0
    err = account_writable(c, vma, start, end, &new)
    if err == 0:
        err = vma_modify_flags(c, mm, vma, start, end, new, covers)
    if err:
        return err
    change_protection(c, mm, start, end, new if vma_wants_writenotify(c, covers[0]) else new | NO_WRITENOTIFY)
    if old & (SHMM_VM_WRITE | SHMM_VM_SHARED | SHMM_VM_LOCKED) == SHMM_VM_LOCKED and new & SHMM_VM_WRITE:
        populate_vma_page_range(c, mm, covers[0], start, end)       # locked memory has no faults to come
    return 0


cdef inline i64 grow_range(vcpu_t *c, u32 vma, u64 *start, u64 end, u32 prot) noexcept nogil:
    """PROT_GROWSDOWN: the change begins where the VMA does.  Nothing grows up here, so that PROT_GROWSUP is refused."""
    if vma == 0 or vma_start(c, vma) >= end:
        return -ENOMEM
    if prot & PROT_GROWSDOWN:
        start[0] = vma_start(c, vma)
        return 0 if ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_GROWSDOWN else -EINVAL
    return -ENOMEM if vma_start(c, vma) > start[0] else -EINVAL


cdef inline i64 do_mprotect(vcpu_t *c, mm_t *mm, u64 start, u64 end, u32 prot) noexcept nogil:
    """mmap_lock held for write.  Stops at the first hole (-ENOMEM); what came before it is changed, as in Linux."""
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at = start
    cdef u64 flags
    cdef i64 err = 0
    cdef u32 covers = 0
    if prot & (PROT_GROWSDOWN | PROT_GROWSUP):
        err = grow_range(c, vma, &at, end, prot)
    while at < end and err == 0:
        if vma == 0 or vma_start(c, vma) > at:
            return -ENOMEM
        flags = ld64_relaxed(&c.vmas[vma].flags)
        flags = flags & ~(SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC) | calc_vm_prot_bits(prot)
        if (flags & ~(flags >> 4)) & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC):     # beyond the VM_MAY* bits
            return -EACCES
        err = mprotect_fixup(c, mm, vma, at, min(vma_end(c, vma), end), flags, &covers)
        if err:
            return err
        at = vma_end(c, covers)         # what merged with the part has these flags already
        vma = next_vma(c, covers)
    return err


cdef inline i64 vm_mprotect(vcpu_t *c, mm_t *mm, u64 start, u64 length, u32 prot) noexcept nogil:
    """mprotect(2): 0, -EINVAL, -ENOMEM or -EACCES."""
    cdef u64 end = start + page_align(length)
    cdef i64 ret
    if prot & PROT_GROWSDOWN and prot & PROT_GROWSUP or start & (SHMM_PAGE_SIZE - 1):
        return -EINVAL
    if length == 0:
        return 0
    if end <= start:
        return -ENOMEM
    if prot & ~(<u32> (PROT_RWX | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP)):
        return -EINVAL
    mmap_write_lock(c, mm)
    ret = do_mprotect(c, mm, start, end, prot)
    mmap_write_unlock(c, mm)
    rcu_relieve(c)
    return ret
