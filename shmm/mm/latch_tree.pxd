"""A latched tree: the VMA tree's links twice, so that a descent without a lock never misses what is there.

While a writer rotates, a subtree hangs nowhere for a moment, and a descent through the one tree may miss it (T3 in
vma_tree.pxd).  With two copies there is always one that nobody is changing, and a count says which:

    latch_seq   readers descend      the writer
    even        the first tree       rests, or brings the second up to date
    odd         the second tree      changes the first

    writer                            reader (RCU)
    latch_seq += 1, odd               seq = latch_seq
    change the first tree             descend the tree that seq says
    latch_seq += 1, even   --- L ---  latch_seq still seq?  else again
    the same to the second

A descent that ends with the seq it began with read links that were all of one moment.  The writer remembers which links
it changed in the first tree, at most three a rotation and three rotations, and copies those: colours, parents and gaps
are its own business and exist once.  Keys are not doubled: where a VMA's edges move (split, merge), a descent between
two stores may still miss an address.

What it buys.  Not a single speculation: whoever meets a writer fails at the next look at mmap_seq in any case.  The
abort only has another name, SPF_ABORT_VMA_COPY, and SPF_ABORT_UNMAPPED no longer means "or a rotation was in the way".
It would buy something for a scheme that does not count the whole address space.  What it costs: two loads and a barrier
for each look-up, and every link stored twice.

Source: include/linux/rbtree_latch.h and raw_read_seqcount_latch, the idea."""

from shmm.arch.arch cimport (
    a32, get32, ld32_acquire, ld32_relaxed, mutant, put32, smp_rmb, smp_wmb, st32_relaxed, st32_release, u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_LATCH_NO_BUMP, SHMM_M_LATCH_NO_RETRY, SHMM_M_LATCH_ONE_COPY
from shmm.layout cimport SHMM_VMA_TREE_LATCHED, mm_t, vcpu_t
from shmm.mm.vma cimport vma_end, vma_start

cdef enum:
    ROOT_LINK = 0               # in latch_link; the others are cells of the VMA array, + 1


cdef inline bint is_latched(vcpu_t *c) noexcept nogil:
    return c.g.vma_tree == SHMM_VMA_TREE_LATCHED


cdef inline void latch_bump(mm_t *mm) noexcept nogil:
    """Sends new readers to the other tree."""
    if mutant(SHMM_M_LATCH_NO_BUMP):
        return
    smp_wmb()           # L: pairs with the smp_rmb in latch_find_vma: what was changed before is whole
    st32_relaxed(&mm.latch_seq, ld32_relaxed(&mm.latch_seq) + 1)
    smp_wmb()           # L: pairs with the smp_rmb in latch_find_vma: who sees a change sees the new count


cdef inline void latch_note(vcpu_t *c, mm_t *mm, a32 *link) noexcept nogil:
    """A link of the first tree is about to change."""
    cdef u32 n
    if is_latched(c):
        n = get32(&mm.latch_changes)
        put32(&mm.latch_link[n], <u32> ROOT_LINK if link == &mm.vma_root else <u32> (link - <a32 *> c.vmas) + 1)
        put32(&mm.latch_changes, n + 1)


cdef inline a32 *second_link(vcpu_t *c, a32 *link) noexcept nogil:
    """The second tree's left or right beside the first's."""
    return link + (&c.vmas.latch_left - &c.vmas.left)


cdef inline void latch_copy(vcpu_t *c, mm_t *mm, u32 link) noexcept nogil:
    cdef a32 *first = &mm.vma_root if link == ROOT_LINK else <a32 *> c.vmas + (link - 1)
    cdef a32 *second = &mm.latch_root if link == ROOT_LINK else second_link(c, first)
    st32_release(second, ld32_relaxed(first))       # pairs with the acquires in descend, as T1


cdef inline void latch_begin(vcpu_t *c, mm_t *mm, u32 fresh) noexcept nogil:
    """The first tree is about to change.  fresh: a VMA that comes in, or 0.  mmap_lock held for write."""
    if not is_latched(c):
        return
    if fresh:           # nobody can be on it yet
        st32_relaxed(&c.vmas[fresh].latch_left, ld32_relaxed(&c.vmas[fresh].left))
        st32_relaxed(&c.vmas[fresh].latch_right, ld32_relaxed(&c.vmas[fresh].right))
    latch_bump(mm)


cdef inline void latch_end(vcpu_t *c, mm_t *mm) noexcept nogil:
    """The first tree is whole again; the second follows."""
    cdef u32 i
    if not is_latched(c):
        return
    latch_bump(mm)
    if not mutant(SHMM_M_LATCH_ONE_COPY):
        for i in range(get32(&mm.latch_changes)):
            latch_copy(c, mm, get32(&mm.latch_link[i]))
    put32(&mm.latch_changes, 0)


cdef inline u32 descend(vcpu_t *c, mm_t *mm, u64 addr, bint second) noexcept nogil:
    """find_vma in one of the two.  Acquires: pair with the releases of set_child and latch_copy (T1)."""
    cdef u32 node = ld32_acquire(&mm.latch_root if second else &mm.vma_root)
    cdef u32 best = 0
    cdef a32 *link
    while node:
        if vma_end(c, node) > addr:
            best = node
            if vma_start(c, node) <= addr:
                break
            link = &c.vmas[node].left
        else:
            link = &c.vmas[node].right
        node = ld32_acquire(second_link(c, link) if second else link)       # (T1)
    return best


cdef inline u32 latch_find_vma(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The lowest VMA whose end is above addr, or 0, as both trees' writer left them at one moment.  Needs RCU."""
    cdef u32 seq, found
    while True:
        seq = ld32_acquire(&mm.latch_seq)           # L: pairs with the second smp_wmb in latch_bump
        found = descend(c, mm, addr, seq & 1)
        smp_rmb()                                   # L: pairs with both smp_wmb in latch_bump
        if ld32_relaxed(&mm.latch_seq) == seq or mutant(SHMM_M_LATCH_NO_RETRY):
            return found
