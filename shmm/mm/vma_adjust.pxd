"""Splitting, merging and freeing VMAs.  mmap_lock held for write, mmap_seq odd: speculators see nothing of the steps.

Two neighbours merge iff they touch, have the same flags, the same file at contiguous offsets, and compatible anon_vmas;
special VMAs never do.  What a VMA's list of anon_vmas says in the kernel is the flag VM_FORKED here, so that a child's
VMA and one that never had an anon_vma differ in their flags already (mm/anon.pxd).

The kernel's ten outcomes (mm/vma.c since 6.11).  p and n: the neighbours, m: the VMA of which a part changes.

    a new range (vma_expand)                  a part of a VMA changes (vma_modify_flags)
                                                 none: split at its edges     p mmmMMMm n
    none: insert       p ***  n                  right part: next grows down, m shrinks       mmm|NNNNN
    previous grows     PPPPP  n                  left part: previous grows, m shrinks         PPPPP|mmm
    next grows down    p  NNNNN                  all: next grows down, m goes                 NNNNNNN
    both: previous     PPPPPPPP                  all: previous grows, m goes                  PPPPPPP
      grows, next goes                           all, both: previous grows, m and next go     PPPPPPPPPP

Left is asked first.  Both neighbours may fit the range and yet not each other (two anon_vmas, and none between them):
then only the left merge is made.  A left or right part moves to its neighbour without any new VMA, so it needs no
memory and no room under vm.max_map_count."""

from libc.errno cimport ENOMEM

from shmm.arch.arch cimport get32, i64, ld32_relaxed, ld64_relaxed, mutant, st32_relaxed, st64_relaxed, u32, u64
from shmm.arch.mutants cimport SHMM_M_VMA_FREE_NOW, SHMM_M_VMA_LINKS_REUSED
from shmm.layout cimport SHMM_PAGE_SHIFT, SHMM_VMA_FREE_AUTO, SHMM_VM_SPECIAL, mm_t, vcpu_t, vma_t
from shmm.mm.anon cimport get_anon_vma, put_anon_vma
from shmm.mm.call_rcu cimport RCU_TABLE, call_rcu
from shmm.mm.file cimport put_file
from shmm.mm.huge_memory cimport split_huge_pmd_address
from shmm.mm.i_mmap cimport (
    i_mmap_lock, i_mmap_remove, i_mmap_unlock, vma_file, vma_link_file,
)
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
    (v2 11 and 29/35: at once for a single-threaded mm, unless the policy is to wait always)."""
    cdef bint alone = c.g.vma_free_policy == SHMM_VMA_FREE_AUTO and ld32_relaxed(&mm.users) <= 1
    put_anon_vma(c, ld32_relaxed(&c.vmas[vma].anon_vma))
    put_file(c, ld32_relaxed(&c.vmas[vma].file))
    vm_area_poison(c, vma)
    if not alone and not mutant(SHMM_M_VMA_FREE_NOW):
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
            and not b_flags & SHMM_VM_SPECIAL and ld32_relaxed(&v.file) == b_file
            and ld64_relaxed(&v.pgoff) + ((b_start - vma_start(c, a)) >> SHMM_PAGE_SHIFT) == b_pgoff
            and anon_vmas_mergeable(ld32_relaxed(&v.anon_vma), b_anon))


cdef inline bint can_merge_vmas(vcpu_t *c, u32 a, u32 b) noexcept nogil:
    return a != 0 and b != 0 and can_merge(
        c, a, vma_start(c, b), ld64_relaxed(&c.vmas[b].flags), ld64_relaxed(&c.vmas[b].pgoff),
        ld32_relaxed(&c.vmas[b].file), ld32_relaxed(&c.vmas[b].anon_vma))


cdef inline bint can_merge_before(vcpu_t *c, u32 b, u64 a_end, u64 a_flags, u64 a_end_pgoff, u32 a_file,
                                  u32 a_anon) noexcept nogil:
    """Whether a range that ends at a_end, where its offset would be a_end_pgoff, may become the head of VMA b."""
    cdef vma_t *v = &c.vmas[b]
    return (b != 0 and vma_start(c, b) == a_end and ld64_relaxed(&v.flags) == a_flags
            and not a_flags & SHMM_VM_SPECIAL and ld32_relaxed(&v.file) == a_file
            and ld64_relaxed(&v.pgoff) == a_end_pgoff
            and anon_vmas_mergeable(ld32_relaxed(&v.anon_vma), a_anon))


cdef inline void dup_anon_vma(vcpu_t *c, u32 to, u32 vma) noexcept nogil:
    """to grows over pages of vma: it needs the anon_vma that those have."""
    cdef u32 anon = ld32_relaxed(&c.vmas[vma].anon_vma)
    if anon and ld32_relaxed(&c.vmas[to].anon_vma) == 0:
        get_anon_vma(c, anon)
        st32_relaxed(&c.vmas[to].anon_vma, anon)


cdef inline void vma_absorb_next(vcpu_t *c, mm_t *mm, u32 vma) noexcept nogil:
    """vma and its successor are mergeable: the successor goes."""
    cdef u32 next = next_vma(c, vma)
    cdef u64 end = vma_end(c, next)
    cdef u32 file = vma_file(c, next)
    dup_anon_vma(c, vma, next)
    vma_unlink(c, mm, next)
    i_mmap_lock(c, file)
    vma_set_range(c, vma, vma_start(c, vma), end)
    if file:
        i_mmap_remove(c, file, next)
    i_mmap_unlock(c, file)
    vm_area_free(c, mm, next)


cdef inline u32 vma_merge_neighbours(vcpu_t *c, mm_t *mm, u32 vma) noexcept nogil:
    """Merges a linked VMA with what it touches, as far as it goes; returns the VMA that now covers it."""
    cdef u32 prev = prev_vma(c, vma)
    if can_merge_vmas(c, prev, vma):
        vma_absorb_next(c, mm, prev)
        vma = prev
    if can_merge_vmas(c, vma, next_vma(c, vma)):
        vma_absorb_next(c, mm, vma)
    return vma


cdef inline u32 vma_expand(vcpu_t *c, mm_t *mm, u32 prev, u32 next, u64 start, u64 end, u64 flags, u64 pgoff,
                           u32 file) noexcept nogil:
    """A new mapping of the free range [start, end) between prev and next: widens a neighbour if one fits.
    Returns the VMA that covers it, or 0."""
    cdef bint after = can_merge(c, prev, start, flags, pgoff, file, 0)
    cdef bint before = can_merge_before(c, next, end, flags, pgoff + ((end - start) >> SHMM_PAGE_SHIFT), file, 0)
    if after:
        i_mmap_lock(c, file)
        vma_set_range(c, prev, vma_start(c, prev), end)
        i_mmap_unlock(c, file)
        if before and can_merge_vmas(c, prev, next):
            vma_absorb_next(c, mm, prev)
        return prev
    if before:
        i_mmap_lock(c, file)
        vma_set_range(c, next, start, vma_end(c, next))
        i_mmap_unlock(c, file)
        return next
    return 0


cdef inline i64 vma_cut(vcpu_t *c, mm_t *mm, u32 vma, u64 addr) noexcept nogil:
    """Cuts a VMA in two at addr, strictly inside it; the new VMA is the upper part (__split_vma).  0 or -ENOMEM."""
    cdef vma_t *v = &c.vmas[vma]
    cdef u64 end = vma_end(c, vma)
    cdef u64 pgoff = ld64_relaxed(&v.pgoff) + ((addr - vma_start(c, vma)) >> SHMM_PAGE_SHIFT)
    cdef u32 file, upper
    split_huge_pmd_address(c, mm, addr)
    upper = vm_area_alloc(c, <u32> (mm - c.mms), addr, end, ld64_relaxed(&v.flags), pgoff, ld32_relaxed(&v.file))
    if upper == 0:
        return -ENOMEM
    file = ld32_relaxed(&v.file)
    vma_link_file(c, upper, file, vma)
    get_anon_vma(c, ld32_relaxed(&v.anon_vma))
    st32_relaxed(&c.vmas[upper].anon_vma, ld32_relaxed(&v.anon_vma))
    i_mmap_lock(c, file)
    vma_set_range(c, vma, vma_start(c, vma), addr)
    i_mmap_unlock(c, file)
    vma_link(c, mm, upper)
    return 0


cdef inline i64 split_vma(vcpu_t *c, mm_t *mm, u32 vma, u64 addr) noexcept nogil:
    """vma_cut, if vm.max_map_count allows one more.  munmap, which takes away what it splits off, does not ask."""
    if get32(&mm.map_count) >= c.g.max_map_count:
        return -ENOMEM
    return vma_cut(c, mm, vma, addr)


cdef inline u32 merge_part(vcpu_t *c, u32 vma, u64 start, u64 end, u64 flags) noexcept nogil:
    """A proper part of a VMA, at one of its edges, gets new flags: it moves to the neighbour there, if that has them
    already.  Returns the neighbour, or 0."""
    cdef vma_t *v = &c.vmas[vma]
    cdef u64 pgoff = ld64_relaxed(&v.pgoff)
    cdef u64 low = vma_start(c, vma)
    cdef u64 high = vma_end(c, vma)
    cdef u32 file = vma_file(c, vma)
    cdef u32 near = 0
    if start == low:
        near = prev_vma(c, vma)
        if not can_merge(c, near, start, flags, pgoff, ld32_relaxed(&v.file), ld32_relaxed(&v.anon_vma)):
            return 0
        i_mmap_lock(c, file)
        vma_set_range(c, vma, end, high)            # first shrink, so that the two never overlap
        vma_set_range(c, near, vma_start(c, near), end)
        i_mmap_unlock(c, file)
    elif end == high:
        near = next_vma(c, vma)
        if not can_merge_before(c, near, end, flags, pgoff + ((end - low) >> SHMM_PAGE_SHIFT), ld32_relaxed(&v.file),
                                ld32_relaxed(&v.anon_vma)):
            return 0
        i_mmap_lock(c, file)
        vma_set_range(c, vma, low, start)
        vma_set_range(c, near, start, vma_end(c, near))
        i_mmap_unlock(c, file)
    if near:
        dup_anon_vma(c, near, vma)
    return near


cdef inline i64 vma_modify_flags(vcpu_t *c, mm_t *mm, u32 vma, u64 start, u64 end, u64 flags,
                                 u32 *covers) noexcept nogil:
    """Gives the part [start, end) of a VMA new flags, merging or splitting.  covers: the VMA that holds the part
    afterwards.  0, or -ENOMEM with the flags as they were; the part may then have been split off at its lower edge,
    and stays so, as in Linux."""
    cdef i64 err = 0
    if start != vma_start(c, vma) or end != vma_end(c, vma):
        covers[0] = merge_part(c, vma, start, end, flags)
        if covers[0]:
            return 0
        if start > vma_start(c, vma):
            err = split_vma(c, mm, vma, start)
            if err:
                return err
            vma = next_vma(c, vma)
        if end < vma_end(c, vma):
            err = split_vma(c, mm, vma, end)
            if err:
                return err
        st64_relaxed(&c.vmas[vma].flags, flags)
        covers[0] = vma
        return 0
    st64_relaxed(&c.vmas[vma].flags, flags)
    covers[0] = vma_merge_neighbours(c, mm, vma)
    return 0
