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
from shmm.mm.frame cimport free_frame, node_of, uncharge
from shmm.mm.huge_frame cimport HPAGE_PMD_NR, frame_is_huge
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event


cdef inline void lru_link(vcpu_t *c, node_t *node, u32 pfn) noexcept nogil:
    """The frame's node's lru_lock held."""
    cdef u32 head = get32(&node.lru_head)
    put32(&c.frames[pfn].lru_prev, 0)
    put32(&c.frames[pfn].lru_next, head)
    if head:
        put32(&c.frames[head].lru_prev, pfn)
    else:
        put32(&node.lru_tail, pfn)
    put32(&node.lru_head, pfn)
    put32(&c.frames[pfn].on_lru, 1)
    put64(&node.lru_pages, get64(&node.lru_pages) + 1)


cdef inline void lru_unlink(vcpu_t *c, node_t *node, u32 pfn) noexcept nogil:
    """The frame's node's lru_lock held."""
    cdef u32 prev = get32(&c.frames[pfn].lru_prev)
    cdef u32 next = get32(&c.frames[pfn].lru_next)
    if prev:
        put32(&c.frames[prev].lru_next, next)
    else:
        put32(&node.lru_head, next)
    if next:
        put32(&c.frames[next].lru_prev, prev)
    else:
        put32(&node.lru_tail, prev)
    put32(&c.frames[pfn].on_lru, 0)
    put64(&node.lru_pages, get64(&node.lru_pages) - 1)


cdef inline node_t *lru_relock(vcpu_t *c, node_t *held, u32 pfn) noexcept nogil:
    """The frame's node, whose lru_lock is held now, instead of the one that was."""
    cdef node_t *node = node_of(c, pfn)
    if node != held:
        spin_unlock(&held.lru_lock)
        spin_lock(c, &node.lru_lock)
    return node


cdef inline void lru_add_drain(vcpu_t *c) noexcept nogil:
    """Links this CPU's batch."""
    cdef u32 n = get32(&c.me.lru_count)
    cdef node_t *node = &c.g.node[c.node]       # where a CPU's new frames come from, unless there are none left
    cdef u32 i, pfn
    if n == 0:
        return
    spin_lock(c, &node.lru_lock)
    for i in range(n):
        pfn = get32(&c.me.lru_frame[i])
        if several_nodes(c):
            node = lru_relock(c, node, pfn)
        # the same life as when it was added: freeing moves the generation under this very lock
        if ld32_relaxed(&c.frames[pfn].gen) == get32(&c.me.lru_gen[i]) and not get32(&c.frames[pfn].on_lru):
            lru_link(c, node, pfn)
    spin_unlock(&node.lru_lock)
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
    cdef node_t *node = node_of(c, pfns[0])
    cdef u32 i
    spin_lock(c, &node.lru_lock)
    for i in range(n):
        if several_nodes(c):
            node = lru_relock(c, node, pfns[i])
        if get32(&c.frames[pfns[i]].on_lru):
            lru_unlink(c, node, pfns[i])
        st32_relaxed(&c.frames[pfns[i]].gen, ld32_relaxed(&c.frames[pfns[i]].gen) + 1)
    spin_unlock(&node.lru_lock)


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
