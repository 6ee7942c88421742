"""Address spaces: made, run, left and taken down (mm_init, switch_mm, mmput, exit_mmap).

An address space lives in a slot of the segment while CPUs run it; mm.users counts them (v2 keeps speculation off while
it is 1).  A CPU enters mm.cpumask before it can cache a translation and stays there until the slot is torn down."""

from libc.errno cimport EBUSY, EINVAL, ENOMEM

from shmm.arch.arch cimport (
    fetch_add32, fetch_or64, get32, i64, ld32_relaxed, put32, put64, st32_relaxed, st64_relaxed, u32, u64,
)
from shmm.layout cimport SHMM_BRK_BASE, SHMM_MAX_CPU, SHMM_MMAP_BASE, mm_t, vcpu_t
from shmm.mm.frame cimport sync_rss
from shmm.mm.irq cimport irq_disable, irq_enable
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.munmap cimport detach_vmas, unmap_region
from shmm.mm.notifier cimport mmu_notifier_exit_mmap
from shmm.mm.page_table cimport PGD, alloc_table, free_table
from shmm.mm.shootdown cimport flush_tlb_mm
from shmm.mm.tlb cimport tlb_switch_mm
from shmm.mm.vma_adjust cimport vm_area_free
from shmm.mm.vma_tree cimport next_vma


cdef inline mm_t *current_mm(vcpu_t *c) noexcept nogil:
    return &c.mms[ld32_relaxed(&c.me.mm)]


cdef inline i64 mm_init(vcpu_t *c, mm_t *mm, u64 mmap_base, u64 brk) noexcept nogil:
    """An empty address space with no users.  0, -EBUSY (the slot is taken) or -ENOMEM."""
    if get32(&mm.in_use):
        return -EBUSY
    put32(&mm.pgd, alloc_table(c, mm, PGD))
    if get32(&mm.pgd) == 0:
        return -ENOMEM
    put32(&mm.in_use, 1)
    st32_relaxed(&mm.users, 0)
    st32_relaxed(&mm.vma_root, 0)
    st32_relaxed(&mm.latch_root, 0)
    put32(&mm.vma_first, 0)
    put32(&mm.vma_last, 0)
    put32(&mm.map_count, 0)
    put64(&mm.mmap_base, mmap_base if mmap_base else SHMM_MMAP_BASE)
    put64(&mm.start_brk, brk if brk else SHMM_BRK_BASE)
    put64(&mm.brk, brk if brk else SHMM_BRK_BASE)
    put64(&mm.start_stack, 0)
    put64(&mm.total_vm, 0)
    put64(&mm.locked_vm, 0)
    return 0


cdef inline void mm_run(vcpu_t *c, mm_t *mm) noexcept nogil:
    """This CPU runs mm from now on, and no other."""
    # a full barrier: in the mask before the first translation is cached, so that every later shootdown comes here
    fetch_or64(&mm.cpumask[c.id >> 6], <u64> 1 << (c.id & 63))
    irq_disable(c)
    st32_relaxed(&c.me.mm, <u32> (mm - c.mms))
    tlb_switch_mm(c, <u32> (mm - c.mms))
    irq_enable(c)


cdef inline void mm_attach(vcpu_t *c, mm_t *mm) noexcept nogil:
    """A thread of mm begins, on this CPU, which must have left the one before."""
    fetch_add32(&mm.users, 1)
    mm_run(c, mm)


cdef inline void exit_mmap(vcpu_t *c, mm_t *mm) noexcept nogil:
    """Nobody runs mm any more: everything it holds is given back.  This CPU's own rss batch is empty."""
    cdef u32 vma, next
    cdef u32 i
    mmu_notifier_exit_mmap(c, mm)
    mmap_write_lock(c, mm)
    vma = detach_vmas(c, mm, get32(&mm.vma_first), ~(<u64> 0))
    if vma:
        unmap_region(c, mm, vma, 0, <u64> 1 << 48)
    while vma:
        next = next_vma(c, vma)
        vm_area_free(c, mm, vma)
        vma = next
    flush_tlb_mm(c, mm)                 # the slot may become another address space
    for i in range(SHMM_MAX_CPU // 64):
        st64_relaxed(&mm.cpumask[i], 0)
    free_table(c, get32(&mm.pgd))
    st64_relaxed(&mm.pgtables, 0)
    sync_rss(c, mm)                     # what the unmapping took away is this mm's, not that of the CPU's next one
    mmap_write_unlock(c, mm)
    put32(&mm.in_use, 0)


cdef inline void mm_leave(vcpu_t *c) noexcept nogil:
    """This CPU stops running its address space; the last one out tears it down (mmput)."""
    cdef mm_t *mm = current_mm(c)
    if ld32_relaxed(&c.me.mm) == 0:
        return
    sync_rss(c, mm)
    st32_relaxed(&c.me.mm, 0)
    if fetch_add32(&mm.users, <u32> -1) == 1:
        exit_mmap(c, mm)


cdef inline i64 mm_exec(vcpu_t *c, u32 slot, u64 mmap_base, u64 brk) noexcept nogil:
    """Leaves the current address space and runs a fresh one in slot.  0 or negative errno."""
    cdef i64 err
    if slot == 0 or slot >= c.g.nmm:
        return -EINVAL
    mm_leave(c)
    err = mm_init(c, &c.mms[slot], mmap_base, brk)
    if err == 0:
        mm_attach(c, &c.mms[slot])
    return err


cdef inline i64 mm_join(vcpu_t *c, u32 slot) noexcept nogil:
    """Runs the address space in slot from now on, as one more thread of it.  0 or -EINVAL."""
    if slot == 0 or slot >= c.g.nmm or not get32(&c.mms[slot].in_use):
        return -EINVAL
    if ld32_relaxed(&c.me.mm) != slot:
        mm_leave(c)
        mm_attach(c, &c.mms[slot])
    return 0


cdef inline i64 mm_switch(vcpu_t *c, u32 slot, bint begins) noexcept nogil:
    """A context switch: this CPU goes on with a thread of the address space in slot, and that of the one before waits.
    users counts threads wherever they are, so it stays; begins: the thread is new.  0 or -EINVAL."""
    if slot == 0 or slot >= c.g.nmm or not get32(&c.mms[slot].in_use):
        return -EINVAL
    if begins:
        fetch_add32(&c.mms[slot].users, 1)
    if ld32_relaxed(&c.me.mm) != slot:
        if ld32_relaxed(&c.me.mm):
            sync_rss(c, current_mm(c))
        mm_run(c, &c.mms[slot])
    return 0
