"""Splitting, merging and freeing VMAs.  mmap_lock held for write, mmap_seq odd: speculators see nothing of the steps.

Two neighbours merge iff they touch, have the same flags, the same file at contiguous offsets, and compatible anon_vmas.
The kernel's ten merge outcomes (new range or existing part; with the previous, the next, or both) are all compositions
of two steps here: put the range in place as a VMA of its own, then absorb what follows it, then be absorbed by what
precedes it; a new range that fits its neighbours never becomes a VMA at all (vma_expand)."""

from libc.errno cimport ENOMEM

from shmm.arch.arch cimport get32, i64, ld32_relaxed, ld64_relaxed, mutant, st32_relaxed, st64_relaxed, u32, u64
from shmm.arch.mutants cimport SHMM_M_VMA_FREE_NOW, SHMM_M_VMA_LINKS_REUSED
from shmm.layout cimport SHMM_MAX_MAP_COUNT, SHMM_PAGE_SHIFT, mm_t, vcpu_t, vma_t
from shmm.mm.anon cimport get_anon_vma, put_anon_vma
from shmm.mm.call_rcu cimport RCU_TABLE, call_rcu
from shmm.mm.file cimport get_file, put_file
from shmm.mm.huge_memory cimport split_huge_pmd_address
from shmm.mm.vma cimport vm_area_alloc, vm_area_free_now, vm_area_poison, vma_end, vma_start
from shmm.mm.vma_tree cimport gap_propagate, next_vma, prev_vma, vma_link, vma_unlink


cdef inline void vma_overlay_links(vcpu_t *c, u32 vma) noexcept nogil:
    """Only for a mutant: what a list of callbacks would do to the child links if it shared their memory.  One becomes
    the list's next entry, the other the address of a function, which taken for an index is any slot: the last one."""
    cdef u32 next = get32(&c.me.rcu_next_head)
    st32_relaxed(&c.vmas[vma].left, 0 if next & RCU_TABLE else next)
    st32_relaxed(&c.vmas[vma].right, c.g.nvma - 1)


cdef inline void vm_area_free(vcpu_t *c, mm_t *mm, u32 vma) noexcept nogil:
    """Drops what an unlinked VMA holds and frees the slot: after a grace period if anyone but us may be looking
    (v2 11 and 29/35: at once for a single-threaded mm)."""
    put_anon_vma(c, ld32_relaxed(&c.vmas[vma].anon_vma))
    put_file(c, ld32_relaxed(&c.vmas[vma].file))
    vm_area_poison(c, vma)
    if ld32_relaxed(&mm.users) > 1 and not mutant(SHMM_M_VMA_FREE_NOW):
        if mutant(SHMM_M_VMA_LINKS_REUSED):
            vma_overlay_links(c, vma)
        call_rcu(c, vma)
    else:
        vm_area_free_now(c, vma)


cdef inline void vma_set_range(vcpu_t *c, u32 vma, u64 start, u64 end) noexcept nogil:
    """Moves an edge of a linked VMA; the page offset follows the start."""
    cdef u64 old = vma_start(c, vma)
    st64_relaxed(&c.vmas[vma].pgoff, ld64_relaxed(&c.vmas[vma].pgoff)
                 + <u64> (<i64> (start - old) >> SHMM_PAGE_SHIFT))
    st64_relaxed(&c.vmas[vma].start, start)
    st64_relaxed(&c.vmas[vma].end, end)
    gap_propagate(c, vma)
    gap_propagate(c, next_vma(c, vma))


cdef inline bint anon_vmas_mergeable(u32 a, u32 b) noexcept nogil:
    return a == b or a == 0 or b == 0


cdef inline bint can_merge(vcpu_t *c, u32 a, u64 b_start, u64 b_flags, u64 b_pgoff, u32 b_file,
                           u32 b_anon) noexcept nogil:
    """Whether a range that begins at b_start may become the tail of VMA a."""
    cdef vma_t *v = &c.vmas[a]
    return (a != 0 and vma_end(c, a) == b_start and ld64_relaxed(&v.flags) == b_flags
            and ld32_relaxed(&v.file) == b_file
            and ld64_relaxed(&v.pgoff) + ((b_start - vma_start(c, a)) >> SHMM_PAGE_SHIFT) == b_pgoff
            and anon_vmas_mergeable(ld32_relaxed(&v.anon_vma), b_anon))


cdef inline bint can_merge_vmas(vcpu_t *c, u32 a, u32 b) noexcept nogil:
    return a != 0 and b != 0 and can_merge(
        c, a, vma_start(c, b), ld64_relaxed(&c.vmas[b].flags), ld64_relaxed(&c.vmas[b].pgoff),
        ld32_relaxed(&c.vmas[b].file), ld32_relaxed(&c.vmas[b].anon_vma))


cdef inline void vma_absorb_next(vcpu_t *c, mm_t *mm, u32 vma) noexcept nogil:
    """vma and its successor are mergeable: the successor goes."""
    cdef u32 next = next_vma(c, vma)
    cdef u64 end = vma_end(c, next)
    cdef u32 anon = ld32_relaxed(&c.vmas[next].anon_vma)
    if ld32_relaxed(&c.vmas[vma].anon_vma) == 0 and anon:
        get_anon_vma(c, anon)
        st32_relaxed(&c.vmas[vma].anon_vma, anon)
    vma_unlink(c, mm, next)
    vma_set_range(c, vma, vma_start(c, vma), end)
    vm_area_free(c, mm, next)


cdef inline u32 vma_merge_neighbours(vcpu_t *c, mm_t *mm, u32 vma) noexcept nogil:
    """Merges a linked VMA with what it touches, as far as it goes; returns the VMA that now covers it."""
    cdef u32 prev = prev_vma(c, vma)
    if can_merge_vmas(c, vma, next_vma(c, vma)):
        vma_absorb_next(c, mm, vma)
    if can_merge_vmas(c, prev, vma):
        vma_absorb_next(c, mm, prev)
        return prev
    return vma


cdef inline u32 vma_expand(vcpu_t *c, mm_t *mm, u32 prev, u32 next, u64 start, u64 end, u64 flags, u64 pgoff,
                           u32 file) noexcept nogil:
    """A new mapping of the free range [start, end) between prev and next: widens a neighbour if one fits.
    Returns the VMA that covers it, or 0."""
    cdef bint after = can_merge(c, prev, start, flags, pgoff, file, 0)
    cdef bint before = (
        next != 0 and vma_start(c, next) == end and ld64_relaxed(&c.vmas[next].flags) == flags
        and ld32_relaxed(&c.vmas[next].file) == file
        and ld64_relaxed(&c.vmas[next].pgoff) == pgoff + ((end - start) >> SHMM_PAGE_SHIFT))
    if after:
        vma_set_range(c, prev, vma_start(c, prev), end)
        if before and can_merge_vmas(c, prev, next):
            vma_absorb_next(c, mm, prev)
        return prev
    if before:
        vma_set_range(c, next, start, vma_end(c, next))
        return next
    return 0


cdef inline i64 split_vma(vcpu_t *c, mm_t *mm, u32 vma, u64 addr) noexcept nogil:
    """Cuts a VMA in two at addr, strictly inside it; the new VMA is the upper part.  0 or -ENOMEM."""
    cdef vma_t *v = &c.vmas[vma]
    cdef u64 end = vma_end(c, vma)
    cdef u64 pgoff = ld64_relaxed(&v.pgoff) + ((addr - vma_start(c, vma)) >> SHMM_PAGE_SHIFT)
    cdef u32 upper
    if get32(&mm.map_count) >= SHMM_MAX_MAP_COUNT:
        return -ENOMEM
    split_huge_pmd_address(c, mm, addr)
    upper = vm_area_alloc(c, <u32> (mm - c.mms), addr, end, ld64_relaxed(&v.flags), pgoff, ld32_relaxed(&v.file))
    if upper == 0:
        return -ENOMEM
    get_file(c, ld32_relaxed(&v.file))
    get_anon_vma(c, ld32_relaxed(&v.anon_vma))
    st32_relaxed(&c.vmas[upper].anon_vma, ld32_relaxed(&v.anon_vma))
    vma_set_range(c, vma, vma_start(c, vma), addr)
    vma_link(c, mm, upper)
    return 0
