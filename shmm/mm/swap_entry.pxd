"""Ptes that are neither empty nor present: the page is somewhere else.

    63       52 51                    12 11   10   9         0
    +----------+------------------------+--+-------+-----------+
    | 0        | slot                   | 0|uffd_wp| 0         |  swap entry: the page's contents are there
    +----------+------------------------+--+-------+-----------+

A slot's number is never 0, so that an entry is never taken for an empty pte; PRESENT and PROTNONE are clear, so that
the MMU sees no page and pte_present says no.  Whoever goes through ptes has three cases: nothing, a page, an entry.  An
entry has no permissions, these come from the VMA when the page does (so mprotect leaves it alone); it counts as one
reference on its slot, which zap gives back and fork takes another of.

There are no migration entries: who moves a page keeps its ptl from the unmapping to the new pte, so that nobody finds
the time in between, and what waits for a migration's end waits for that lock (migrate.pxd).

Source: include/linux/swapops.h."""

from shmm.arch.arch cimport u32, u64
from shmm.layout cimport SHMM_PAGE_SHIFT
from shmm.mm.page_table cimport pte_pfn, pte_present


cdef inline u64 swp_entry(u32 slot) noexcept nogil:
    return <u64> slot << SHMM_PAGE_SHIFT


cdef inline bint is_swap_pte(u64 pte) noexcept nogil:
    return pte != 0 and not pte_present(pte)


cdef inline u32 swp_offset(u64 pte) noexcept nogil:
    """The slot of a swap entry."""
    return pte_pfn(pte)
