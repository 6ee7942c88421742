"""The LRU lists: every anonymous and page-cache frame is on its node's, under that node's lru_lock.

Adding is batched: a CPU collects 15 new frames, then links them at once (pagevec, PAGEVEC_SIZE of 5.17).  A batch
holds no reference; it remembers each frame's generation instead, and frames are freed, list membership included, under
lru_lock.  So a frame that is freed while it waits in somebody's batch is recognised and skipped there.
Why not a reference per batch entry, as the kernel has: it would cost every fault one more atomic, and make a page
look shared to the write-protect fault that wants to reuse it.

Whoever goes through many frames keeps the lock from one to the next, and changes it where the node changes.  A release
may have thousands, so it also lets go after every 32 (SWAP_CLUSTER_MAX in release_pages of 5.17): the CPUs that wait
to add 15 get their turn in between."""

from shmm.arch.arch cimport get32, get64, ld32_relaxed, put32, put64, st32_relaxed, u32, u64
from shmm.layout cimport SHMM_C_lru_drain, SHMM_LRU_BATCH, SHMM_SWAP_CLUSTER_MAX, node_t, several_nodes, vcpu_t
from shmm.mm.frame cimport free_frame, node_of, put_frame_testzero, uncharge
from shmm.mm.huge_frame cimport HPAGE_PMD_NR, compound_head, frame_is_huge
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event

# A node's list while its lock is held: its ends and length, read when the lock is taken and written before it goes.
# Why not in place: they share the lock's line, which whoever comes for the lock takes away; a batch would fetch it back
# for every frame.
cdef struct lru_t:
    node_t *node
    u32 head, tail
    u64 pages


cdef inline void lru_lock(vcpu_t *c, lru_t *lru, node_t *node) noexcept nogil:
    spin_lock(c, &node.lru_lock)
    lru.node = node
    lru.head = get32(&node.lru_head)
    lru.tail = get32(&node.lru_tail)
    lru.pages = get64(&node.lru_pages)


cdef inline void lru_unlock(lru_t *lru) noexcept nogil:
    put32(&lru.node.lru_head, lru.head)
    put32(&lru.node.lru_tail, lru.tail)
    put64(&lru.node.lru_pages, lru.pages)
    spin_unlock(&lru.node.lru_lock)


cdef inline void lru_relock(vcpu_t *c, lru_t *lru, u32 pfn) noexcept nogil:
    """Holds the lock of the frame's node from now on, instead of the one it held."""
    cdef node_t *node = node_of(c, pfn)
    if node != lru.node:
        lru_unlock(lru)
        lru_lock(c, lru, node)


cdef inline void lru_link(vcpu_t *c, lru_t *lru, u32 pfn) noexcept nogil:
    put32(&c.frames[pfn].lru_prev, 0)
    put32(&c.frames[pfn].lru_next, lru.head)
    if lru.head:
        put32(&c.frames[lru.head].lru_prev, pfn)
    else:
        lru.tail = pfn
    lru.head = pfn
    lru.pages += 1
    put32(&c.frames[pfn].on_lru, 1)


cdef inline void lru_unlink(vcpu_t *c, lru_t *lru, u32 pfn) noexcept nogil:
    cdef u32 prev = get32(&c.frames[pfn].lru_prev)
    cdef u32 next = get32(&c.frames[pfn].lru_next)
    if prev:
        put32(&c.frames[prev].lru_next, next)
    else:
        lru.head = next
    if next:
        put32(&c.frames[next].lru_prev, prev)
    else:
        lru.tail = prev
    lru.pages -= 1
    put32(&c.frames[pfn].on_lru, 0)


cdef inline void lru_add_drain(vcpu_t *c) noexcept nogil:
    """Links this CPU's batch."""
    cdef u32 n = get32(&c.me.lru_count)
    cdef lru_t lru
    cdef u32 i, pfn
    if n == 0:
        return
    lru_lock(c, &lru, &c.g.node[c.node])        # where a CPU's new frames come from, unless there are none left
    for i in range(n):
        pfn = get32(&c.me.lru_frame[i])
        if several_nodes(c):
            lru_relock(c, &lru, pfn)
        # the same life as when it was added: freeing moves the generation under this very lock
        if ld32_relaxed(&c.frames[pfn].gen) == get32(&c.me.lru_gen[i]) and not get32(&c.frames[pfn].on_lru):
            lru_link(c, &lru, pfn)
    lru_unlock(&lru)
    put32(&c.me.lru_count, 0)
    count_vm_event(c, SHMM_C_lru_drain)


cdef inline void lru_add(vcpu_t *c, u32 pfn) noexcept nogil:
    cdef u32 n = get32(&c.me.lru_count)
    put32(&c.me.lru_frame[n], pfn)
    put32(&c.me.lru_gen[n], ld32_relaxed(&c.frames[pfn].gen))
    put32(&c.me.lru_count, n + 1)
    if n + 1 == SHMM_LRU_BATCH:
        lru_add_drain(c)


cdef inline void lru_del_frames(vcpu_t *c, const u32 *pfns, u32 n) noexcept nogil:
    """Takes n > 0 frames off their lists and ends their lives, for those who have them in a batch."""
    cdef lru_t lru
    cdef u32 i
    lru_lock(c, &lru, node_of(c, pfns[0]))
    for i in range(n):
        if several_nodes(c):
            lru_relock(c, &lru, pfns[i])
        if get32(&c.frames[pfns[i]].on_lru):
            lru_unlink(c, &lru, pfns[i])
        st32_relaxed(&c.frames[pfns[i]].gen, ld32_relaxed(&c.frames[pfns[i]].gen) + 1)
    lru_unlock(&lru)


cdef inline void release_frames(vcpu_t *c, const u32 *pfns, u32 n) noexcept nogil:
    """Frees n data frames, or heads of huge pages, whose last reference is gone and that no TLB can reach any more."""
    cdef u32 i = 0
    cdef u64 pages = n
    while i < n:
        lru_del_frames(c, pfns + i, <u32> min(n - i, SHMM_SWAP_CLUSTER_MAX))
        i += SHMM_SWAP_CLUSTER_MAX
    for i in range(n):
        pages += HPAGE_PMD_NR - 1 if frame_is_huge(c, pfns[i]) else 0
        free_frame(c, pfns[i])
    uncharge(c, pages)


cdef inline void put_page(vcpu_t *c, u32 pfn) noexcept nogil:
    """Drops a reference on a data frame that no TLB reaches through us."""
    pfn = compound_head(c, pfn)
    if put_frame_testzero(c, pfn):
        release_frames(c, &pfn, 1)
