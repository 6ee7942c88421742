"""The VMA tree: a red-black tree ordered by address, and the list that runs through it.

Writers hold mmap_lock for write.  Readers either hold it, or descend with nothing but RCU (find_vma); what such a
descent may rely on is said here, because the question "how do you know that each pointer is the right one" has its
answer in the order of the stores below:

  T1  A node's fields are written before a child link that makes it reachable (release, pairs with the acquire of the
      descent), so a reader never sees an uninitialised node.
  T2  Every link always holds 0 or the index of a VMA slot (type-stable; a freed one keeps its links for a grace
      period), so a reader never leaves the tree's memory.
  T3  In program order no store makes a loop: a subtree is taken out of one place before or after it is put in another,
      so that it may be missed for a moment, but a descent always goes down and ends.

It may therefore miss a VMA or find a wrong one.  That is harmless, and only because mmap_seq was odd or changes
meanwhile: the reader throws its result away.  (Facts: lib/rbtree.c, "Notes on lockless lookups".)  A latched tree has a
second copy of the links, which a reader finds whole while this one is changed (latch_tree.pxd).

subtree_gap is the largest hole right before any VMA of the subtree, which makes the top-down search for free address
space logarithmic, as the augmented rbtree of kernels before the maple tree did."""

from shmm.arch.arch cimport (
    a32, get32, get64, ld32_relaxed, mutant, put32, put64, st32_relaxed, st32_release, u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_PUBLISH_VMA
from shmm.layout cimport mm_t, vcpu_t
from shmm.mm.latch_tree cimport latch_begin, latch_end, latch_note
from shmm.mm.vma cimport vma_end, vma_start


cdef inline u32 left_of(vcpu_t *c, u32 v) noexcept nogil:
    return ld32_relaxed(&c.vmas[v].left)


cdef inline u32 right_of(vcpu_t *c, u32 v) noexcept nogil:
    return ld32_relaxed(&c.vmas[v].right)


cdef inline u32 parent_of(vcpu_t *c, u32 v) noexcept nogil:
    return get32(&c.vmas[v].parent)


cdef inline bint is_red(vcpu_t *c, u32 v) noexcept nogil:
    return v != 0 and get32(&c.vmas[v].red)


cdef inline u32 next_vma(vcpu_t *c, u32 v) noexcept nogil:
    return get32(&c.vmas[v].next)


cdef inline u32 prev_vma(vcpu_t *c, u32 v) noexcept nogil:
    return get32(&c.vmas[v].prev)


cdef inline u64 gap_before(vcpu_t *c, u32 v) noexcept nogil:
    cdef u32 prev = prev_vma(c, v)
    return vma_start(c, v) - (vma_end(c, prev) if prev else 0)


cdef inline void gap_recompute(vcpu_t *c, u32 v) noexcept nogil:
    cdef u64 gap = gap_before(c, v)
    cdef u32 left = left_of(c, v)
    cdef u32 right = right_of(c, v)
    if left:
        gap = max(gap, get64(&c.vmas[left].subtree_gap))
    if right:
        gap = max(gap, get64(&c.vmas[right].subtree_gap))
    put64(&c.vmas[v].subtree_gap, gap)


cdef inline void gap_propagate(vcpu_t *c, u32 v) noexcept nogil:
    """v's own gap or its children changed: up to the root.  Call it for v and for its successor when v's end moved."""
    while v:
        gap_recompute(c, v)
        v = parent_of(c, v)


cdef inline void set_parent(vcpu_t *c, u32 v, u32 parent) noexcept nogil:
    if v:
        put32(&c.vmas[v].parent, parent)


cdef inline void set_child(vcpu_t *c, mm_t *mm, a32 *link, u32 v) noexcept nogil:
    """Every link that a descent may follow."""
    latch_note(c, mm, link)
    if mutant(SHMM_M_PUBLISH_VMA):
        st32_relaxed(link, v)
    else:
        st32_release(link, v)           # pairs with the acquire in find_vma (T1)


cdef inline void change_child(vcpu_t *c, mm_t *mm, u32 parent, u32 old, u32 new) noexcept nogil:
    if parent == 0:
        set_child(c, mm, &mm.vma_root, new)
    elif left_of(c, parent) == old:
        set_child(c, mm, &c.vmas[parent].left, new)
    else:
        set_child(c, mm, &c.vmas[parent].right, new)


cdef inline void rotate_left(vcpu_t *c, mm_t *mm, u32 x) noexcept nogil:
    """x's right child takes its place.  T3: first x lets go of the subtree that moves, then y takes x."""
    cdef u32 y = right_of(c, x)
    cdef u32 moved = left_of(c, y)
    cdef u32 parent = parent_of(c, x)
    set_child(c, mm, &c.vmas[x].right, moved)
    set_child(c, mm, &c.vmas[y].left, x)
    set_parent(c, moved, x)
    put32(&c.vmas[y].parent, parent)
    put32(&c.vmas[x].parent, y)
    change_child(c, mm, parent, x, y)
    gap_recompute(c, x)
    gap_recompute(c, y)


cdef inline void rotate_right(vcpu_t *c, mm_t *mm, u32 x) noexcept nogil:
    cdef u32 y = left_of(c, x)
    cdef u32 moved = right_of(c, y)
    cdef u32 parent = parent_of(c, x)
    set_child(c, mm, &c.vmas[x].left, moved)
    set_child(c, mm, &c.vmas[y].right, x)
    set_parent(c, moved, x)
    put32(&c.vmas[y].parent, parent)
    put32(&c.vmas[x].parent, y)
    change_child(c, mm, parent, x, y)
    gap_recompute(c, x)
    gap_recompute(c, y)


cdef inline void insert_rebalance(vcpu_t *c, mm_t *mm, u32 v) noexcept nogil:
    """v is red; its parent may be too."""
    cdef u32 parent = parent_of(c, v)
    cdef u32 grand, uncle
    while is_red(c, parent):
        grand = parent_of(c, parent)
        uncle = right_of(c, grand) if left_of(c, grand) == parent else left_of(c, grand)
        if is_red(c, uncle):
            put32(&c.vmas[parent].red, 0)
            put32(&c.vmas[uncle].red, 0)
            put32(&c.vmas[grand].red, 1)
            v = grand
            parent = parent_of(c, v)
            continue
        if left_of(c, grand) == parent:
            if right_of(c, parent) == v:
                rotate_left(c, mm, parent)
                parent = v
            rotate_right(c, mm, grand)
        else:
            if left_of(c, parent) == v:
                rotate_right(c, mm, parent)
                parent = v
            rotate_left(c, mm, grand)
        put32(&c.vmas[parent].red, 0)
        put32(&c.vmas[grand].red, 1)
        break
    put32(&c.vmas[ld32_relaxed(&mm.vma_root)].red, 0)


cdef inline void list_insert(vcpu_t *c, mm_t *mm, u32 v, u32 prev, u32 next) noexcept nogil:
    put32(&c.vmas[v].prev, prev)
    put32(&c.vmas[v].next, next)
    if prev:
        put32(&c.vmas[prev].next, v)
    else:
        put32(&mm.vma_first, v)
    if next:
        put32(&c.vmas[next].prev, v)
    else:
        put32(&mm.vma_last, v)


cdef inline void vma_link(vcpu_t *c, mm_t *mm, u32 v) noexcept nogil:
    """Inserts v, whose range is free, into tree and list."""
    cdef u64 start = vma_start(c, v)
    cdef u32 node = ld32_relaxed(&mm.vma_root)
    cdef u32 parent = 0
    cdef u32 prev = 0
    cdef u32 next = 0
    while node:
        parent = node
        if start < vma_start(c, node):
            next = node
            node = left_of(c, node)
        else:
            prev = node
            node = right_of(c, node)
    put32(&c.vmas[v].parent, parent)
    put32(&c.vmas[v].red, 1)
    list_insert(c, mm, v, prev, next)
    latch_begin(c, mm, v)
    if parent == 0:                     # from here on v can be found
        set_child(c, mm, &mm.vma_root, v)
    elif parent == next:
        set_child(c, mm, &c.vmas[parent].left, v)
    else:
        set_child(c, mm, &c.vmas[parent].right, v)
    gap_propagate(c, v)
    if next:
        gap_propagate(c, next)
    insert_rebalance(c, mm, v)
    latch_end(c, mm)
    put32(&mm.map_count, get32(&mm.map_count) + 1)


cdef inline void erase_rebalance(vcpu_t *c, mm_t *mm, u32 v, u32 parent) noexcept nogil:
    """The subtree v (perhaps empty) below parent is one black node short."""
    cdef u32 sibling
    cdef bint v_is_left
    while v != ld32_relaxed(&mm.vma_root) and not is_red(c, v):
        v_is_left = left_of(c, parent) == v
        sibling = right_of(c, parent) if v_is_left else left_of(c, parent)
        if is_red(c, sibling):
            put32(&c.vmas[sibling].red, 0)
            put32(&c.vmas[parent].red, 1)
            if v_is_left:
                rotate_left(c, mm, parent)
                sibling = right_of(c, parent)
            else:
                rotate_right(c, mm, parent)
                sibling = left_of(c, parent)
        if not is_red(c, left_of(c, sibling)) and not is_red(c, right_of(c, sibling)):
            put32(&c.vmas[sibling].red, 1)
            v = parent
            parent = parent_of(c, v)
            continue
        erase_rotate(c, mm, parent, sibling, v_is_left)
        v = ld32_relaxed(&mm.vma_root)
    if v:
        put32(&c.vmas[v].red, 0)


cdef inline void erase_rotate(vcpu_t *c, mm_t *mm, u32 parent, u32 sibling, bint v_is_left) noexcept nogil:
    """The sibling has a red child: one or two rotations give the short side its black node back."""
    if v_is_left:
        if not is_red(c, right_of(c, sibling)):
            put32(&c.vmas[left_of(c, sibling)].red, 0)
            put32(&c.vmas[sibling].red, 1)
            rotate_right(c, mm, sibling)
            sibling = right_of(c, parent)
        put32(&c.vmas[right_of(c, sibling)].red, 0)
    else:
        if not is_red(c, left_of(c, sibling)):
            put32(&c.vmas[right_of(c, sibling)].red, 0)
            put32(&c.vmas[sibling].red, 1)
            rotate_left(c, mm, sibling)
            sibling = left_of(c, parent)
        put32(&c.vmas[left_of(c, sibling)].red, 0)
    put32(&c.vmas[sibling].red, get32(&c.vmas[parent].red))
    put32(&c.vmas[parent].red, 0)
    if v_is_left:
        rotate_left(c, mm, parent)
    else:
        rotate_right(c, mm, parent)


cdef inline void erase_one_child(vcpu_t *c, mm_t *mm, u32 v) noexcept nogil:
    cdef u32 child = left_of(c, v) or right_of(c, v)
    cdef u32 parent = parent_of(c, v)
    set_parent(c, child, parent)
    change_child(c, mm, parent, v, child)
    gap_propagate(c, parent)
    if not get32(&c.vmas[v].red):
        erase_rebalance(c, mm, child, parent)


cdef inline void erase_two_children(vcpu_t *c, mm_t *mm, u32 v, u32 successor) noexcept nogil:
    """The successor, leftmost of the right subtree, takes v's place.  v's own links stay for those who stand on it."""
    cdef u32 child = right_of(c, successor)
    cdef u32 parent = parent_of(c, successor)
    cdef bint black = not get32(&c.vmas[successor].red)
    if parent == v:
        parent = successor
    else:
        # T3: out of its old place, then downwards links, then into the new place
        set_child(c, mm, &c.vmas[parent].left, child)
        set_parent(c, child, parent)
        set_child(c, mm, &c.vmas[successor].right, right_of(c, v))
        set_parent(c, right_of(c, v), successor)
    set_child(c, mm, &c.vmas[successor].left, left_of(c, v))
    set_parent(c, left_of(c, v), successor)
    put32(&c.vmas[successor].red, get32(&c.vmas[v].red))
    put32(&c.vmas[successor].parent, parent_of(c, v))
    change_child(c, mm, parent_of(c, v), v, successor)
    gap_propagate(c, parent)
    if black:
        erase_rebalance(c, mm, child, parent)


cdef inline void vma_unlink(vcpu_t *c, mm_t *mm, u32 v) noexcept nogil:
    """Takes v out of tree and list."""
    cdef u32 prev = prev_vma(c, v)
    cdef u32 next = next_vma(c, v)
    if prev:
        put32(&c.vmas[prev].next, next)
    else:
        put32(&mm.vma_first, next)
    if next:
        put32(&c.vmas[next].prev, prev)
    else:
        put32(&mm.vma_last, prev)
    latch_begin(c, mm, 0)
    if left_of(c, v) and right_of(c, v):
        erase_two_children(c, mm, v, next)
    else:
        erase_one_child(c, mm, v)
    latch_end(c, mm)
    if next:
        gap_propagate(c, next)
    put32(&mm.map_count, get32(&mm.map_count) - 1)
