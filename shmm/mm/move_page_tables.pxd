"""Moving translations from one place of an address space to another (mm/mremap.c: move_page_tables).

mmap_lock is held for write and mmap_seq is odd for the whole of it, both ranges belong to VMAs.  Two ways:

    move_ptes   one pte after the other, from the old table to the new, both tables' locks held, old before new.
                The old addresses are flushed before either lock is dropped: who finds a page at its new address,
                under that lock, may free it, and nobody may then still reach it through the old.
    move_pmd    "fast mremap": a table of 512 ptes changes place whole, by one store to each of two pmd entries

Why the fast way is the dangerous one.  A speculative fault that passed SEQ2 holds the lock of its table, and relies on
every writer taking that lock before it changes what the fault has seen (walk.pxd).  move_pmd has no need of it:

    speculative fault at old                    mremap
    trylock ptl of table T, SEQ2 holds
                                                pmd_new = T, pmd_old = 0, flush old
                                                another CPU reads new: its TLB caches the pte in T
    pte in T = copied page, flush *old*
                                                the other CPU goes on reading the page from before the copy

The kernel's page tables cannot tell: the fault knows only the address that it began with.  Android found this in the
series (spf.md's KALESH: a use after free), and its fix is the policy `fast_mremap` here:

    single    tables move whole only where nobody can speculate: under the classical scheme, or while this CPU is the
              mm's only user.  Who joins later reads mmap_seq after it has become a user, and finds it odd:

                  mremap                            newcomer
                  mmap_seq = odd                    users += 1         (a full barrier)
                  mb          ----- M -----
                  users == 1?                       mmap_seq odd?

    off       always pte by pte
    locked    always whole, but with T's lock held, so that a speculator that has it finishes first.  It is the rule of
              walk.pxd kept, at the price of one lock per 2 MiB; a move of whole puds would have to take 512."""

from shmm.arch.arch cimport a64, ld32_relaxed, ld64_relaxed, mutant, smp_mb, u32, u64, xchg64
from shmm.arch.mutants cimport SHMM_M_MREMAP_NO_FLUSH, SHMM_M_MREMAP_NO_PTL, SHMM_M_MREMAP_PMD_MOVE
from shmm.layout cimport (
    SHMM_C_pmds_moved, SHMM_C_ptes_moved, SHMM_FAST_MREMAP_LOCKED, SHMM_FAST_MREMAP_OFF, SHMM_PAGE_SIZE, SHMM_PMD_SHIFT,
    SHMM_SCHEME_MMAP_LOCK, mm_t, spinlock_t, vcpu_t,
)
from shmm.mm.huge_memory cimport split_huge_pmd
from shmm.mm.i_mmap cimport i_mmap_lock, i_mmap_unlock
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_alloc, pmd_entry_alloc, pmd_trans_huge, pte_lockptr,
    pte_present, set_entry,
)
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.spinlock cimport spin_lock, spin_lock_nested, spin_unlock
from shmm.mm.vmstat cimport count_vm_event, count_vm_events


cdef inline bint may_move_tables(vcpu_t *c, mm_t *mm) noexcept nogil:
    """The policy's answer for one mremap, asked once: moving back after a failure must go the same way."""
    if mutant(SHMM_M_MREMAP_PMD_MOVE):
        return True
    if c.g.fast_mremap == SHMM_FAST_MREMAP_OFF:
        return False
    if c.g.fast_mremap == SHMM_FAST_MREMAP_LOCKED or c.g.scheme == SHMM_SCHEME_MMAP_LOCK:
        return True
    smp_mb()        # M: pairs with the full barrier of the fetch_add in mm_attach
    return ld32_relaxed(&mm.users) == 1


cdef inline bint move_pmd(vcpu_t *c, mm_t *mm, a64 *old_pmd, u64 old, u64 new) noexcept nogil:
    """Both addresses at a boundary of 2 MiB.  False: it cannot be done so."""
    cdef a64 *new_pmd = pmd_entry_alloc(c, mm, new)
    cdef u64 pmd = get_entry(old_pmd)
    cdef bint locked = (c.g.fast_mremap == SHMM_FAST_MREMAP_LOCKED and not mutant(SHMM_M_MREMAP_PMD_MOVE)
                        and not pmd_trans_huge(pmd))
    if new_pmd == NULL or get_entry(new_pmd) != 0:
        return False
    spin_lock(c, &mm.page_table_lock)           # as every change of a pmd entry that others may be installing
    if locked:
        spin_lock(c, pte_lockptr(c, pmd))
    set_entry(old_pmd, 0)
    set_entry(new_pmd, pmd)
    if not mutant(SHMM_M_MREMAP_NO_FLUSH):
        flush_tlb_mm_range(c, mm, old, old + (<u64> 1 << SHMM_PMD_SHIFT))
    if locked:
        spin_unlock(pte_lockptr(c, pmd))
    spin_unlock(&mm.page_table_lock)
    count_vm_event(c, SHMM_C_pmds_moved)
    return True


cdef inline u64 move_ptes_locked(vcpu_t *c, a64 *from_pte, a64 *to_pte, u64 n, bint *present) noexcept nogil:
    """How many there were; present: whether a TLB may know one of them."""
    cdef u64 moved = 0
    cdef u64 i, pte
    for i in range(n):
        if ld64_relaxed(from_pte + i) == 0:
            continue
        pte = xchg64(from_pte + i, 0)           # atomic: the MMU may be setting the accessed or dirty bit
        present[0] |= pte_present(pte)
        set_entry(to_pte + i, pte)
        moved += 1
    return moved


cdef inline void move_ptes(vcpu_t *c, mm_t *mm, u64 old_pmd, u64 new_pmd, u64 old, u64 new, u64 length) noexcept nogil:
    """Within one table on each side, perhaps the same."""
    cdef spinlock_t *old_ptl = pte_lockptr(c, old_pmd)
    cdef spinlock_t *new_ptl = pte_lockptr(c, new_pmd)
    cdef bint locks = not mutant(SHMM_M_MREMAP_NO_PTL)
    cdef bint present = False
    cdef u64 moved
    if locks:
        spin_lock(c, old_ptl)
        if new_ptl != old_ptl:
            spin_lock_nested(c, new_ptl)
    moved = move_ptes_locked(c, entry_below(c, old_pmd, old, PTE), entry_below(c, new_pmd, new, PTE),
                             length // SHMM_PAGE_SIZE, &present)
    if present and not mutant(SHMM_M_MREMAP_NO_FLUSH):
        flush_tlb_mm_range(c, mm, old, old + length)
    if locks:
        if new_ptl != old_ptl:
            spin_unlock(new_ptl)
        spin_unlock(old_ptl)
    count_vm_events(c, SHMM_C_ptes_moved, moved)


cdef inline bint move_step(vcpu_t *c, mm_t *mm, a64 *pmd, u64 old, u64 new, u64 length, bint tables) noexcept nogil:
    """What one pmd entry maps of the range, within one table on the other side, too.  False: out of memory."""
    cdef bint huge = pmd_trans_huge(get_entry(pmd))     # no speculator uses one
    cdef a64 *to
    if get_entry(pmd) == 0 or ((tables or huge) and length >> SHMM_PMD_SHIFT and move_pmd(c, mm, pmd, old, new)):
        return True
    if huge:
        split_huge_pmd(c, mm, pmd, old)
    to = pmd_alloc(c, mm, new)
    if to == NULL:
        return False
    move_ptes(c, mm, get_entry(pmd), get_entry(to), old, new, length)
    return True


cdef inline u64 move_page_tables(vcpu_t *c, mm_t *mm, u64 old, u64 new, u64 length, u32 file,
                                 bint tables) noexcept nogil:
    """Moves what is mapped in [old, old + length), of this file or none, to new; tables: whole ones where they fit.
    Returns how far it came: length, or less when memory for a table is out; what it moved until then stays there."""
    cdef u64 done = 0
    cdef u64 step
    cdef bint moved
    cdef a64 *pmd
    mmu_notifier_invalidate_range_start(c, mm, old, old + length)
    while done < length:
        pmd = find_pmd(c, mm, old + done)
        if pmd == NULL:                         # nothing in the whole pud entry, if not more
            done = end_of_entry(old + done, old + length, PMD + 1) - old
            continue
        step = min(end_of_entry(old + done, old + length, PMD) - old,
                   end_of_entry(new + done, new + length, PMD) - new) - done
        i_mmap_lock(c, file)                    # or a truncation could miss what changes place
        moved = move_step(c, mm, pmd, old + done, new + done, step, tables)
        i_mmap_unlock(c, file)
        if not moved:
            break
        done += step
    mmu_notifier_invalidate_range_end(c, mm)
    return min(done, length)
