"""A secondary MMU's accesses: what a guest of KVM does to the memory of the process that runs it.

An access finds a translation in the client's table (mm/notifier.pxd), or makes one:

    1  remember seq; wait while an invalidation is under way
    2  look the pte up without any lock, interrupts off (hva_to_pfn_fast); if it does not allow the access, fault as
       get_user_pages does: in kernel mode, hence never speculatively
    3  under the client's lock: if an invalidation has begun or ended since, once more from 1; else install and use

The use itself happens under the client's lock.  A real client lets its guest run and flushes it when start is called;
the lock stands for that.  No reference on the frame is held: the notifier alone keeps it from being freed under us."""

from libc.errno cimport EAGAIN, EFAULT, ENOSYS, ENXIO

from shmm.arch.arch cimport (
    a64, cpu_relax, get64, i64, ld32_acquire, ld32_relaxed, ld_user, mutant, put64, st_user, u8, u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_SECONDARY_NO_RETRY
from shmm.layout cimport (
    SHMM_C_secondary_fill, SHMM_C_secondary_hit, SHMM_C_secondary_retry, SHMM_C_secondary_stale, SHMM_C_violations,
    SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PTE_PFN, SHMM_PTE_PRESENT, SHMM_PTE_WRITE, SHMM_TASK_SIZE, mm_t, notifier_t,
    tlb_entry_t, vcpu_t,
)
from shmm.mm.frame cimport frame_bytes
from shmm.mm.irq cimport irq_disable, irq_enable, kernel_enter, kernel_exit
from shmm.mm.mm cimport current_mm
from shmm.mm.mmu cimport mmu_walk, pte_allows
from shmm.mm.notifier cimport has_client, secondary_entry
from shmm.mm.page_table cimport pte_at, pte_pfn
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport FAULT_WRITE
from shmm.scheme.scheme cimport do_kernel_addr_fault


cdef inline void check_promise(vcpu_t *c, mm_t *mm, u64 addr, u64 pte) noexcept nogil:
    """I7: the page table maps the same frame now, and allows as much."""
    cdef u64 now
    cdef u64 what = SHMM_PTE_PRESENT | SHMM_PTE_PFN | (pte & SHMM_PTE_WRITE)
    irq_disable(c)
    now = pte_at(c, mm, addr)
    irq_enable(c)
    if (now ^ pte) & what:
        count_vm_event(c, SHMM_C_secondary_stale)
        count_vm_event(c, SHMM_C_violations)


cdef inline void use_translation(vcpu_t *c, mm_t *mm, u64 addr, u64 pte, u32 access, u8 *byte) noexcept nogil:
    """The client's lock is held."""
    cdef u8 *p = frame_bytes(c, pte_pfn(pte)) + (addr & (SHMM_PAGE_SIZE - 1))
    if c.g.paranoid:
        check_promise(c, mm, addr, pte)
    if access & FAULT_WRITE:
        st_user(p, byte[0])
    else:
        byte[0] = ld_user(p)


cdef inline i64 secondary_hit(vcpu_t *c, mm_t *mm, u64 addr, u32 access, u8 *byte, u64 *seq) noexcept nogil:
    """0: done.  -EAGAIN: no translation; seq is what it must be made for.  -ENXIO: there is no client."""
    cdef notifier_t *n = &mm.notifier
    cdef tlb_entry_t *entry = secondary_entry(n, addr >> SHMM_PAGE_SHIFT)
    cdef i64 ret = -ENXIO
    spin_lock(c, &n.lock)
    if has_client(n):
        ret = -EAGAIN
        seq[0] = get64(&n.seq)
        if get64(&entry.tag) == (addr >> SHMM_PAGE_SHIFT) + 1 and pte_allows(get64(&entry.pte), access):
            use_translation(c, mm, addr, get64(&entry.pte), access, byte)
            count_vm_event(c, SHMM_C_secondary_hit)
            ret = 0
    spin_unlock(&n.lock)
    return ret


cdef inline i64 secondary_install(vcpu_t *c, mm_t *mm, u64 addr, u64 pte, u32 access, u8 *byte,
                                  u64 seq) noexcept nogil:
    """Step 3: 0, done; -EAGAIN, what was looked up may not be so any more."""
    cdef notifier_t *n = &mm.notifier
    cdef tlb_entry_t *entry = secondary_entry(n, addr >> SHMM_PAGE_SHIFT)
    cdef i64 ret = -EAGAIN
    spin_lock(c, &n.lock)
    if (ld32_relaxed(&n.in_progress) == 0 and get64(&n.seq) == seq) or mutant(SHMM_M_SECONDARY_NO_RETRY):
        if has_client(n):
            put64(&entry.pte, pte)
            put64(&entry.tag, (addr >> SHMM_PAGE_SHIFT) + 1)
            use_translation(c, mm, addr, pte, access, byte)
            ret = 0
    spin_unlock(&n.lock)
    count_vm_event(c, SHMM_C_secondary_retry if ret else SHMM_C_secondary_fill)
    return ret


cdef inline i64 secondary_fill(vcpu_t *c, mm_t *mm, u64 addr, u32 access, u8 *byte, u64 seq) noexcept nogil:
    """A translation that is not there: 0, -EAGAIN, or why there cannot be one."""
    cdef u32 turn = 0
    cdef u64 pte
    cdef i64 err
    # acquire: pairs with the release in mmu_notifier_invalidate_range_end
    while ld32_acquire(&mm.notifier.in_progress):
        cpu_relax(turn)
        turn += 1
    irq_disable(c)                      # G1: keeps the tables that the look-up reads
    pte = mmu_walk(c, mm, addr, access)
    irq_enable(c)
    if pte:
        return secondary_install(c, mm, addr, pte, access, byte, seq)
    err = do_kernel_addr_fault(c, mm, addr, access)
    return err if err else -EAGAIN


cdef inline i64 secondary_access(vcpu_t *c, u64 addr, u32 access, u8 *byte) noexcept nogil:
    """Loads or stores the byte at addr.  0, -EFAULT, -SHMM_SIGBUS, -ENOMEM; -ENXIO: no client has registered."""
    cdef mm_t *mm = current_mm(c)
    cdef u64 seq = 0
    cdef i64 ret
    if not c.g.mmu_notifier:
        return -ENOSYS
    if addr >= SHMM_TASK_SIZE:
        return -EFAULT
    kernel_enter(c)
    while True:
        ret = secondary_hit(c, mm, addr, access, byte, &seq)
        if ret == -EAGAIN:
            ret = secondary_fill(c, mm, addr, access, byte, seq)
        if ret != -EAGAIN:              # else at once: what was in the way is over, or begins to be waited for
            break
    kernel_exit(c)
    return ret
