"""find_vma: the first VMA that ends above an address, and the searches for free address space.

find_vma is the same descent for everybody.  With mmap_lock held its answer is right; under rcu_read_lock alone it is a
guess that some VMA slot is meant (vma_tree.pxd T1 to T3), to be used only after a sequence check."""

from shmm.arch.arch cimport get32, get64, ld32_acquire, ld32_relaxed, ld64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_LEGACY_BASE, SHMM_MMAP_MIN, SHMM_PMD_SHIFT, SHMM_STACK_GUARD_GAP, SHMM_TASK_SIZE, SHMM_VM_GROWSDOWN, mm_t,
    vcpu_t,
)
from shmm.mm.latch_tree cimport is_latched, latch_find_vma
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_tree cimport left_of, next_vma, prev_vma, right_of


cdef inline u32 find_vma(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The lowest VMA whose end is above addr, or 0.  It may begin above addr."""
    cdef u32 node = ld32_acquire(&mm.vma_root)              # acquires: pair with the releases of vma_tree (T1)
    cdef u32 best = 0
    while node:
        if vma_end(c, node) > addr:
            best = node
            if vma_start(c, node) <= addr:
                break
            node = ld32_acquire(&c.vmas[node].left)         # (T1)
        else:
            node = ld32_acquire(&c.vmas[node].right)        # (T1)
    return best


cdef inline u32 vma_lookup(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The VMA that maps addr, or 0: what faults ask, and the one place that chooses between the trees."""
    cdef u32 v = latch_find_vma(c, mm, addr) if is_latched(c) else find_vma(c, mm, addr)
    return v if v and vma_start(c, v) <= addr else 0


cdef inline u32 find_vma_intersection(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """The first VMA that overlaps [start, end), or 0.  mmap_lock held."""
    cdef u32 v = find_vma(c, mm, start)
    return v if v and vma_start(c, v) < end else 0


cdef inline u64 vm_start_gap(vcpu_t *c, u32 v) noexcept nogil:
    """Where the room ends that a mapping below v may use: a stack keeps a guard gap, as long as nobody insists."""
    cdef u64 start = vma_start(c, v)
    if not c.g.stack_growth or not ld64_relaxed(&c.vmas[v].flags) & SHMM_VM_GROWSDOWN:
        return start
    return start - SHMM_STACK_GUARD_GAP if start > SHMM_STACK_GUARD_GAP else 0


cdef inline u64 hole_below(vcpu_t *c, u32 v, u64 length, u64 high) noexcept nogil:
    """The highest address for length bytes in the hole before v, below high; 0: it does not fit."""
    cdef u32 prev = prev_vma(c, v)
    cdef u64 low = max(vma_end(c, prev) if prev else 0, <u64> SHMM_MMAP_MIN)
    high = min(high, vm_start_gap(c, v))
    return high - length if high > low and high - low >= length else 0


cdef inline u64 highest_hole(vcpu_t *c, u32 v, u64 length, u64 high) noexcept nogil:
    """In the subtree v, right to left, passing over subtrees without a large enough gap."""
    cdef u64 addr
    if v == 0 or get64(&c.vmas[v].subtree_gap) < length:
        return 0
    if vma_start(c, v) < high:          # else everything to the right is above high
        addr = highest_hole(c, right_of(c, v), length, high)
        if addr:
            return addr
    addr = hole_below(c, v, length, high)
    return addr if addr else highest_hole(c, left_of(c, v), length, high)


cdef inline u64 unmapped_area_topdown(vcpu_t *c, mm_t *mm, u64 length) noexcept nogil:
    """The highest free range of length bytes below mmap_base, or 0.  mmap_lock held for write."""
    cdef u64 high = get64(&mm.mmap_base)
    cdef u32 last = get32(&mm.vma_last)
    cdef u64 end = vma_end(c, last) if last else <u64> SHMM_MMAP_MIN
    if end <= high and high - end >= length:
        return high - length
    return highest_hole(c, ld32_relaxed(&mm.vma_root), length, high)


cdef inline u64 unmapped_area(vcpu_t *c, mm_t *mm, u64 length, u64 low, u64 high) noexcept nogil:
    """The lowest free range of length bytes in [low, high), or 0: along the list, since it is seldom asked for (what
    is below mmap_base is full, or MAP_32BIT)."""
    cdef u32 v = find_vma(c, mm, low)
    cdef u64 at = low
    if v and vma_start(c, v) < low:
        at = vma_end(c, v)
        v = next_vma(c, v)
    while v and at < high and vm_start_gap(c, v) < at + length:
        at = max(at, vma_end(c, v))
        v = next_vma(c, v)
    return at if at < high and high - at >= length else 0


cdef inline u64 find_hole(vcpu_t *c, mm_t *mm, u64 length) noexcept nogil:
    """Where a mapping goes that may go anywhere: as high as it fits below mmap_base, or else from below, where that
    leaves off, so that the part above is used, too.  0: nowhere."""
    cdef u64 addr = unmapped_area_topdown(c, mm, length)
    return addr if addr else unmapped_area(c, mm, length, SHMM_LEGACY_BASE, SHMM_TASK_SIZE)


cdef inline u64 find_hole_aligned(vcpu_t *c, mm_t *mm, u64 length, u64 offset) noexcept nogil:
    """A place where an address and its offset in what is mapped agree in their last 21 bits, so that huge pages fit:
    2 MiB more are asked for, and what is before the first such address is left free.  0: there is none that large.
    (__thp_get_unmapped_area; of a hole that begins at a boundary the second one is taken, as there.)"""
    cdef u64 size = <u64> 1 << SHMM_PMD_SHIFT
    cdef u64 addr, skip
    if length + size < length:
        return 0
    addr = find_hole(c, mm, length + size)
    if addr == 0:
        return 0
    skip = (offset - addr) & (size - 1)
    return addr + (skip if skip else size)
