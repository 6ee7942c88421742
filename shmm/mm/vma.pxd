"""VMAs: allocation, the snapshot a fault works on, and what their flags mean.

VMA slots are type-stable: a slot is a VMA or a free VMA, for ever.  Freeing poisons start and end, so that a lockless
descent that still stands on the node takes an arbitrary turn, but keeps the links, so that the turn leads to another
node and not into the void (facts of v2 11/35: the rcu_head overlays the range, never the tree node).  With RCU freeing
the slot is not handed out again before a grace period, so a speculator that found the VMA can still read it.

Each CPU keeps a short list of free slots and exchanges batches of 16 with the pool under vma_pool.lock."""

from shmm.arch.arch cimport (
    get32, ld32_relaxed, ld64_relaxed, poison_range, put32, st32_relaxed, st64_relaxed, u32, u64, unpoison_range,
)
from shmm.layout cimport (
    SHMM_PAGE_SHIFT, SHMM_PTE_NX, SHMM_PTE_PRESENT, SHMM_PTE_PROTNONE, SHMM_PTE_USER, SHMM_PTE_WRITE, SHMM_VM_EXEC,
    SHMM_VM_READ, SHMM_VM_SHARED, SHMM_VM_WRITE, SHMM_VMA_BATCH, SHMM_VMA_POISON, vcpu_t, vma_t,
)
from shmm.mm.spinlock cimport spin_lock, spin_unlock

cdef enum:
    LOCKLESS_BYTES = 64         # of a VMA: the line that speculators read

# What a fault knows of its VMA: a copy, consistent or thrown away.
cdef struct vma_copy_t:
    u64 start, end, flags, pgoff
    u32 file, anon_vma
    u32 vma                     # where it came from


cdef inline void vma_copy(vma_copy_t *to, vcpu_t *c, u32 vma) noexcept nogil:
    """Word by word with relaxed loads: a writer may be changing the VMA, and the caller checks afterwards."""
    cdef vma_t *v = &c.vmas[vma]
    to.start = ld64_relaxed(&v.start)
    to.end = ld64_relaxed(&v.end)
    to.flags = ld64_relaxed(&v.flags)
    to.pgoff = ld64_relaxed(&v.pgoff)
    to.file = ld32_relaxed(&v.file)
    to.anon_vma = ld32_relaxed(&v.anon_vma)
    to.vma = vma


cdef inline bint vma_unchanged(vcpu_t *c, const vma_copy_t *old) noexcept nogil:
    """Whether the VMA still says what was copied (a freed one's range is poisoned).  No check that speculation relies
    on: the mutant that takes it for one is there to show that it proves too little."""
    cdef vma_t *v = &c.vmas[old.vma]
    return (ld64_relaxed(&v.start) == old.start and ld64_relaxed(&v.end) == old.end
            and ld64_relaxed(&v.flags) == old.flags and ld64_relaxed(&v.pgoff) == old.pgoff
            and ld32_relaxed(&v.file) == old.file and ld32_relaxed(&v.anon_vma) == old.anon_vma)


cdef inline bint vma_is_anonymous(vcpu_t *c, u32 vma) noexcept nogil:
    return ld32_relaxed(&c.vmas[vma].file) == 0


cdef inline u64 vma_start(vcpu_t *c, u32 vma) noexcept nogil:
    return ld64_relaxed(&c.vmas[vma].start)


cdef inline u64 vma_end(vcpu_t *c, u32 vma) noexcept nogil:
    return ld64_relaxed(&c.vmas[vma].end)


cdef inline bint vma_is_accessible(u64 flags) noexcept nogil:
    return flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC) != 0


cdef inline u64 vm_get_page_prot(u64 flags) noexcept nogil:
    """The PTE bits that a VMA's flags allow at most, write permission of private pages excepted: those begin
    read-only and a write fault decides (vm_get_page_prot; x86 makes any access right readable)."""
    cdef u64 prot = SHMM_PTE_USER
    if not flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC):
        return prot | SHMM_PTE_PROTNONE | SHMM_PTE_NX
    prot |= SHMM_PTE_PRESENT
    if flags & SHMM_VM_WRITE and flags & SHMM_VM_SHARED:
        prot |= SHMM_PTE_WRITE
    if not flags & SHMM_VM_EXEC:
        prot |= SHMM_PTE_NX
    return prot


cdef inline void vma_pool_refill(vcpu_t *c) noexcept nogil:
    cdef u32 head = 0
    spin_lock(c, &c.g.vma_pool.lock)
    while get32(&c.me.vma_count) < SHMM_VMA_BATCH and get32(&c.g.vma_pool.head):
        head = get32(&c.g.vma_pool.head)
        put32(&c.g.vma_pool.head, get32(&c.vmas[head].rcu_next))
        st64_relaxed(&c.g.vma_pool.free, ld64_relaxed(&c.g.vma_pool.free) - 1)
        put32(&c.vmas[head].rcu_next, get32(&c.me.vma_head))
        put32(&c.me.vma_head, head)
        put32(&c.me.vma_count, get32(&c.me.vma_count) + 1)
    spin_unlock(&c.g.vma_pool.lock)


cdef inline void vma_pool_drain(vcpu_t *c, u32 n) noexcept nogil:
    cdef u32 vma
    spin_lock(c, &c.g.vma_pool.lock)
    while n:
        vma = get32(&c.me.vma_head)
        put32(&c.me.vma_head, get32(&c.vmas[vma].rcu_next))
        put32(&c.me.vma_count, get32(&c.me.vma_count) - 1)
        put32(&c.vmas[vma].rcu_next, get32(&c.g.vma_pool.head))
        put32(&c.g.vma_pool.head, vma)
        st64_relaxed(&c.g.vma_pool.free, ld64_relaxed(&c.g.vma_pool.free) + 1)
        n -= 1
    spin_unlock(&c.g.vma_pool.lock)


cdef inline u32 vm_area_alloc(vcpu_t *c, u32 mm, u64 start, u64 end, u64 flags, u64 pgoff, u32 file) noexcept nogil:
    """A VMA that is in no tree yet, or 0 when the pool is empty."""
    cdef u32 vma
    cdef vma_t *v
    if get32(&c.me.vma_head) == 0:
        vma_pool_refill(c)
    vma = get32(&c.me.vma_head)
    if vma == 0:
        return 0
    v = &c.vmas[vma]
    put32(&c.me.vma_head, get32(&v.rcu_next))
    put32(&c.me.vma_count, get32(&c.me.vma_count) - 1)
    unpoison_range(v, LOCKLESS_BYTES)
    st64_relaxed(&v.start, start)
    st64_relaxed(&v.end, end)
    st64_relaxed(&v.flags, flags)
    st64_relaxed(&v.pgoff, pgoff)
    st32_relaxed(&v.file, file)
    st32_relaxed(&v.anon_vma, 0)
    st32_relaxed(&v.left, 0)
    st32_relaxed(&v.right, 0)
    put32(&v.mm, mm)
    put32(&v.freed, 0)
    return vma


cdef inline void vm_area_poison(vcpu_t *c, u32 vma) noexcept nogil:
    """From now on no comparison with the range makes sense; the links stay."""
    st64_relaxed(&c.vmas[vma].start, SHMM_VMA_POISON)
    st64_relaxed(&c.vmas[vma].end, SHMM_VMA_POISON)
    put32(&c.vmas[vma].freed, 1)


cdef inline void vm_area_free_now(vcpu_t *c, u32 vma) noexcept nogil:
    """Back to the free list: no speculator can be looking at it (a grace period has passed)."""
    poison_range(&c.vmas[vma], LOCKLESS_BYTES)
    put32(&c.vmas[vma].rcu_next, get32(&c.me.vma_head))
    put32(&c.me.vma_head, vma)
    put32(&c.me.vma_count, get32(&c.me.vma_count) + 1)
    if get32(&c.me.vma_count) > 4 * SHMM_VMA_BATCH:
        vma_pool_drain(c, SHMM_VMA_BATCH)


cdef inline u64 linear_page_index(vma_copy_t *v, u64 addr) noexcept nogil:
    return v.pgoff + ((addr - v.start) >> SHMM_PAGE_SHIFT)
