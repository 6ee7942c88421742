"""I7: what a secondary MMU believes is what the page table says, and nobody is in the middle of telling it otherwise.

Looked at here for every translation it has, all CPUs stopped; and at each use under --paranoid (exec/secondary.pxd),
where it is only counted."""

from shmm.arch.arch cimport get32, get64, ld32_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_C_secondary_stale, SHMM_PAGE_SHIFT, SHMM_PTE_PFN, SHMM_PTE_PRESENT, SHMM_PTE_WRITE, SHMM_SECONDARY_ENTRIES,
    notifier_t, vcpu_t,
)
from shmm.mm.breach cimport breach, breach_t, check_free, sum_counter
from shmm.mm.notifier cimport has_client
from shmm.mm.page_table cimport pte_at


cdef inline u64 check_secondary(vcpu_t *c, u32 slot, breach_t *found) noexcept nogil:
    """The table of one mm's secondary MMU against its page table."""
    cdef notifier_t *n = &c.mms[slot].notifier
    cdef u64 bad = 0
    cdef u64 addr, pte, now, what
    cdef u32 i
    if ld32_relaxed(&n.in_progress):
        bad += breach(found, 7, slot, b"invalidations under way", 0, ld32_relaxed(&n.in_progress), 0)
    bad += check_free(&n.lock, slot, b"notifier.lock", found)
    for i in range(SHMM_SECONDARY_ENTRIES):
        if get64(&n.entry[i].tag) == 0:
            continue
        addr = (get64(&n.entry[i].tag) - 1) << SHMM_PAGE_SHIFT
        pte = get64(&n.entry[i].pte)
        now = pte_at(c, &c.mms[slot], addr)
        what = SHMM_PTE_PRESENT | SHMM_PTE_PFN | (pte & SHMM_PTE_WRITE)
        if (now ^ pte) & what or not has_client(n):
            bad += breach(found, 7, slot, b"stale translation of a secondary MMU", addr, pte, now)
    return bad


cdef inline u64 check_I7(vcpu_t *c, breach_t *found) noexcept nogil:
    cdef u64 bad = sum_counter(c, SHMM_C_secondary_stale)
    cdef u32 i
    if bad:
        breach(found, 7, 0, b"use of a translation of a secondary MMU that is not the page table's", 0, bad, 0)
    for i in range(1, c.g.nmm):
        if get32(&c.mms[i].in_use):
            bad += check_secondary(c, i, found)
    return bad
