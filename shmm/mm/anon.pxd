"""anon_vma: the identity that a VMA's anonymous pages share, and with which VMAs may merge.

Here it is only that identity (a number with a count of VMAs); the reverse map behind it is not emulated.  It matters
because a VMA gets its anon_vma at its first write fault, under mmap_lock, and speculation refuses to do that: hence one
SPF_ABORT_ANON_VMA for each VMA that has not inherited one (facts of v2 18/35).

anon_vma_prepare   mmap_lock held for read at least; racing faults are serialised by page_table_lock.
Mergeable: the same anon_vma, or at least one side without, unless the other has its own by fork.

The last is the kernel's list_is_singular(anon_vma_chain), since 6.16 vma_is_fork_child: a child's VMA is linked to the
anon_vmas of all its ancestors, and what merged with it would have to be, too.  Here such a VMA has the flag VM_FORKED,
so that no comparison of flags takes it for the like of one that has no anon_vma; two with the same anon_vma have it
both.  Nor does a neighbour adopt its anon_vma."""

from shmm.arch.arch cimport (
    fetch_add32, fetch_add32_relaxed, get32, ld32_acquire, ld32_relaxed, ld64_relaxed, mutant, put32, st32_relaxed,
    st32_release, st64_relaxed, u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_ANON_VMA_LOCK, SHMM_M_ANON_VMA_RACE
from shmm.layout cimport (
    SHMM_PAGE_SHIFT, SHMM_VM_EXEC, SHMM_VM_READ, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_tree cimport next_vma, prev_vma


cdef inline u32 anon_vma_alloc(vcpu_t *c) noexcept nogil:
    cdef u32 anon
    spin_lock(c, &c.g.anon_pool.lock)
    anon = get32(&c.g.anon_pool.head)
    if anon:
        put32(&c.g.anon_pool.head, get32(&c.anons[anon].next))
        st64_relaxed(&c.g.anon_pool.free, ld64_relaxed(&c.g.anon_pool.free) - 1)
        st32_relaxed(&c.anons[anon].refs, 1)
    spin_unlock(&c.g.anon_pool.lock)
    return anon


cdef inline void get_anon_vma(vcpu_t *c, u32 anon) noexcept nogil:
    if anon:
        fetch_add32_relaxed(&c.anons[anon].refs, 1)


cdef inline void put_anon_vma(vcpu_t *c, u32 anon) noexcept nogil:
    if anon == 0 or fetch_add32(&c.anons[anon].refs, <u32> -1) != 1:
        return
    spin_lock(c, &c.g.anon_pool.lock)
    put32(&c.anons[anon].next, get32(&c.g.anon_pool.head))
    put32(&c.g.anon_pool.head, anon)
    st64_relaxed(&c.g.anon_pool.free, ld64_relaxed(&c.g.anon_pool.free) + 1)
    spin_unlock(&c.g.anon_pool.lock)


cdef inline u32 vma_anon(vcpu_t *c, u32 vma) noexcept nogil:
    return ld32_acquire(&c.vmas[vma].anon_vma)          # acquire: pairs with the release in anon_vma_prepare


cdef inline bint anon_vma_compatible(vcpu_t *c, u32 a, u32 b) noexcept nogil:
    """Whether b, right after a, could one day merge with it, were their permissions the same."""
    cdef u64 differ = ld64_relaxed(&c.vmas[a].flags) ^ ld64_relaxed(&c.vmas[b].flags)
    return (vma_end(c, a) == vma_start(c, b) and ld32_relaxed(&c.vmas[a].file) == ld32_relaxed(&c.vmas[b].file)
            and not differ & ~(SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC)
            and ld64_relaxed(&c.vmas[b].pgoff) == ld64_relaxed(&c.vmas[a].pgoff)
            + ((vma_start(c, b) - vma_start(c, a)) >> SHMM_PAGE_SHIFT))


cdef inline u32 find_mergeable_anon_vma(vcpu_t *c, u32 vma) noexcept nogil:
    """A neighbour's anon_vma that would let the two merge later, or 0."""
    cdef u32 near = next_vma(c, vma)
    if near and vma_anon(c, near) and anon_vma_compatible(c, vma, near):
        return vma_anon(c, near)
    near = prev_vma(c, vma)
    if near and vma_anon(c, near) and anon_vma_compatible(c, near, vma):
        return vma_anon(c, near)
    return 0


cdef inline bint anon_vma_prepare(vcpu_t *c, mm_t *mm, u32 vma) noexcept nogil:
    """Sees to it that the VMA has an anon_vma.  False: the pool is empty."""
    cdef u32 anon
    if vma_anon(c, vma):
        return True
    anon = find_mergeable_anon_vma(c, vma)
    if anon:
        get_anon_vma(c, anon)
    else:
        anon = anon_vma_alloc(c)
        if anon == 0:
            return False
    if not mutant(SHMM_M_ANON_VMA_LOCK):
        spin_lock(c, &mm.page_table_lock)
    if ld32_relaxed(&c.vmas[vma].anon_vma) == 0 or mutant(SHMM_M_ANON_VMA_RACE):
        st32_release(&c.vmas[vma].anon_vma, anon)       # pairs with the acquire in vma_anon
        anon = 0
    if not mutant(SHMM_M_ANON_VMA_LOCK):
        spin_unlock(&mm.page_table_lock)
    put_anon_vma(c, anon)               # somebody else was first
    return True
