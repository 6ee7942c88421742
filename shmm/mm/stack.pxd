"""Stacks: VMAs that a fault below them makes grow (VM_GROWSDOWN; expand_stack of 5.17).

What may grow: down to the guard gap above the mapping below (256 pages, unless that is a stack itself or may not be
accessed at all), up to RLIMIT_STACK, as long as its offset does not wrap; else the access is a SIGSEGV.

The lock is the series': mmap_lock for *read*, under which other faults, other growths, MADV_DONTNEED and a downgraded
munmap may run, and page_table_lock, which orders growths among themselves.  mmap_seq does not move, so that speculation
sees a growth as it happens: either the old start, and it refuses (SPF_ABORT_UNMAPPED, as the series says), or the new
one, which is as good as a VMA that was there before.  Its copy may have the new start with the old offset; nobody uses
the offset of anonymous memory.

    G1  What grows is above all that a downgraded munmap tears down, or else munmap would not have downgraded
        (may_downgrade): its page tables, which end where the next VMA began, would be freed under the growth.
    G2  start only falls, in one store: a lookup without the lock never loses an address that was mapped.
    G3  A VMA never moves in the tree when it grows, so that the links stay; the gaps that growth changes are read by
        those who look for free address space, under the lock for write.

That G2 and G3 hold is why growing under the read lock is safe here.  It was not with the maple tree, where to grow is
to replace a node, which other holders of the read lock do not expect to be freed (StackRot, CVE-2023-3269): since 6.5
Linux takes the lock for write and goes back to reading.

Sources: mm/mmap.c of 5.17 (expand_downwards, acct_stack_growth, detach_vmas_to_be_unmapped); v2 13/35."""

from shmm.arch.arch cimport get64, ld64_relaxed, mutant, put64, u32, u64
from shmm.arch.mutants cimport SHMM_M_STACK_GROW_NO_LOCK, SHMM_M_STACK_GROW_UNCHECKED
from shmm.layout cimport (
    SHMM_C_stack_growths, SHMM_MMAP_MIN, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_STACK_GUARD_GAP, SHMM_VM_EXEC,
    SHMM_VM_GROWSDOWN, SHMM_VM_LOCKED, SHMM_VM_READ, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.anon cimport anon_vma_prepare
from shmm.mm.find_vma cimport find_vma
from shmm.mm.mmap cimport may_expand_vm, vm_enough_memory
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_set_range
from shmm.mm.vma_tree cimport prev_vma
from shmm.mm.vmstat cimport count_vm_event


cdef inline bint guard_gap_kept(vcpu_t *c, u32 vma, u64 addr) noexcept nogil:
    cdef u32 prev = prev_vma(c, vma)
    cdef u64 flags
    if prev == 0:
        return True
    flags = ld64_relaxed(&c.vmas[prev].flags)
    if flags & SHMM_VM_GROWSDOWN or not flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC):
        return True
    return addr - vma_end(c, prev) >= SHMM_STACK_GUARD_GAP


cdef inline bint acct_stack_growth(vcpu_t *c, mm_t *mm, u32 vma, u64 addr) noexcept nogil:
    """Whether the limits allow it.  page_table_lock is held."""
    cdef u64 grow = (vma_start(c, vma) - addr) >> SHMM_PAGE_SHIFT
    return (grow <= ld64_relaxed(&c.vmas[vma].pgoff) and may_expand_vm(c, mm, grow)
            and (vma_end(c, vma) - addr) >> SHMM_PAGE_SHIFT <= c.g.rlimit_stack
            and vm_enough_memory(c, grow << SHMM_PAGE_SHIFT))


cdef inline bint grow_to(vcpu_t *c, mm_t *mm, u32 vma, u64 addr) noexcept nogil:
    """Moves the start to addr, unless another fault did meanwhile.  page_table_lock is held."""
    cdef u64 pages = (vma_start(c, vma) - addr) >> SHMM_PAGE_SHIFT
    if vma_start(c, vma) <= addr and not mutant(SHMM_M_STACK_GROW_UNCHECKED):
        return True
    if not acct_stack_growth(c, mm, vma, addr):
        return False
    put64(&mm.total_vm, get64(&mm.total_vm) + pages)
    if ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_LOCKED:
        put64(&mm.locked_vm, get64(&mm.locked_vm) + pages)
    vma_set_range(c, vma, addr, vma_end(c, vma))
    count_vm_event(c, SHMM_C_stack_growths)
    return True


cdef inline u32 expand_stack(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """Nothing maps addr: the VMA above grows down to its page, if it is one that does.  That VMA, or 0.
    mmap_lock is held for read."""
    cdef u32 vma = find_vma(c, mm, addr)
    cdef bint ok
    addr &= ~(SHMM_PAGE_SIZE - 1)
    if vma == 0 or not ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_GROWSDOWN:
        return 0
    if addr < SHMM_MMAP_MIN or not guard_gap_kept(c, vma, addr) or not anon_vma_prepare(c, mm, vma):
        return 0
    if not mutant(SHMM_M_STACK_GROW_NO_LOCK):
        spin_lock(c, &mm.page_table_lock)
    ok = grow_to(c, mm, vma, addr)
    if not mutant(SHMM_M_STACK_GROW_NO_LOCK):
        spin_unlock(&mm.page_table_lock)
    return vma if ok else 0
