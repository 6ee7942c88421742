"""Page frames: nodes, allocation, reference counts, charging.

Each CPU has a list of free frames (the per-CPU pages of the kernel's allocator) and moves batches of 63 to and from
the zone of its node under zone.lock; most faults take no shared line for memory, one in 63 does.  A frame's contents
are at memory + pfn * 4096; what struct page would hold is in frame_t.

Nodes divide the frames into equal ranges, and which node a frame belongs to never changes.  A CPU takes frames of its
own node as long as there are any, then of the next one that has some.  A frame that is freed goes home:

    alloc_frame:  pcp list <- own zone, then foreign list <- the other zones in turn
    free_frame:   own node's -> pcp list -> own zone        another's -> foreign list -> that node's zone

The kernel keeps a per-CPU list for each zone.  Here it is one for the own node and one for a single other node at a
time, which is drained when a frame of a third node comes: a CPU that has memory at home seldom frees what is not, and
eight lists could keep eight times as many frames from everybody else.

Every page charged to the memory cgroup comes from a per-CPU stock of 64, and rss is added to the mm in batches of 64,
because published curves of speculation stop being linear where these lines saturate.

A frame's reference count is the number of PTEs and page-cache slots that hold it.  The zero page (frame 0) is
never counted.  A freed frame's generation moves on, which is how stale translations are told (I3) and how an LRU
batch notices that its frame is gone."""

from shmm.arch.arch cimport (
    a64, clear_page, fetch_add32, fetch_add32_relaxed, fetch_add64_relaxed, get32, get64, i64, ld64_relaxed, p32, p64,
    poison_range, put32, put64, st32_relaxed, st64_relaxed, u8, u32, u64, unpoison_range,
)
from shmm.layout cimport (
    SHMM_C_charge_refill, SHMM_C_pgalloc, SHMM_C_pgfree, SHMM_C_zone_drain, SHMM_C_zone_refill, SHMM_CHARGE_BATCH,
    SHMM_FRAME_FREE, SHMM_PAGE_SIZE, SHMM_PCP_BATCH, SHMM_PCP_HIGH, SHMM_RSS_BATCH, mm_t, node_t, pool_t,
    several_nodes, vcpu_t,
)
from shmm.mm.huge_frame cimport HPAGE_PMD_NR, compound_head, frame_is_huge, free_huge_frame
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event


cdef inline u8 *frame_bytes(vcpu_t *c, u32 pfn) noexcept nogil:
    return c.memory + (<u64> pfn) * SHMM_PAGE_SIZE


cdef inline u32 frame_node(vcpu_t *c, u32 pfn) noexcept nogil:
    """The node that the frame belongs to: constants only, no access of shared memory."""
    return <u32> (<u64> pfn * c.g.nnode // c.g.nframe) if several_nodes(c) and not frame_is_huge(c, pfn) else 0


cdef inline u32 node_start(vcpu_t *c, u32 node) noexcept nogil:
    """The first frame of a node; of the node behind the last, nframe."""
    return <u32> ((<u64> node * c.g.nframe + c.g.nnode - 1) // c.g.nnode)


cdef inline node_t *node_of(vcpu_t *c, u32 pfn) noexcept nogil:
    return &c.g.node[frame_node(c, pfn)]


cdef inline bint frames_short(vcpu_t *c, u64 mark) noexcept nogil:
    """Whether the zones hold fewer free frames than the mark.  A hint: no lock; the own node is asked first, and
    where it has enough no other."""
    cdef u64 free = 0
    cdef u32 i
    for i in range(c.g.nnode):
        free += ld64_relaxed(&c.g.node[(c.node + i) % c.g.nnode].zone.free)
        if free >= mark:
            return False
    return True


cdef inline bint passed_by(vcpu_t *c, pool_t *zone) noexcept nogil:
    """With several nodes, whether the zone looks empty, so that it is not even locked: a CPU away from home would
    otherwise take its own zone's lock for every frame.  A hint."""
    return several_nodes(c) and ld64_relaxed(&zone.free) == 0


cdef inline void zone_refill(vcpu_t *c, pool_t *zone, p32 *list, p32 *count) noexcept nogil:
    """Moves up to a batch from the zone to this CPU's list, which is empty."""
    cdef u32 head, last, taken
    spin_lock(c, &zone.lock)
    head = get32(&zone.head)
    last = head
    taken = 1
    while head and taken < SHMM_PCP_BATCH and get32(&c.frames[last].next):
        last = get32(&c.frames[last].next)
        taken += 1
    if head:
        put32(&zone.head, get32(&c.frames[last].next))
        st64_relaxed(&zone.free, ld64_relaxed(&zone.free) - taken)
        put32(&c.frames[last].next, 0)
        put32(list, head)
        put32(count, taken)
    spin_unlock(&zone.lock)
    count_vm_event(c, SHMM_C_zone_refill)


cdef inline void zone_drain(vcpu_t *c, pool_t *zone, p32 *list, p32 *count, u32 n) noexcept nogil:
    """Gives the list's n most recently freed frames back to the zone that is theirs; 0 < n <= count."""
    cdef u32 head = get32(list)
    cdef u32 last = head
    cdef u32 i = 1
    while i < n:
        last = get32(&c.frames[last].next)
        i += 1
    put32(list, get32(&c.frames[last].next))
    put32(count, get32(count) - n)
    spin_lock(c, &zone.lock)
    put32(&c.frames[last].next, get32(&zone.head))
    put32(&zone.head, head)
    st64_relaxed(&zone.free, ld64_relaxed(&zone.free) + n)
    spin_unlock(&zone.lock)
    count_vm_event(c, SHMM_C_zone_drain)


cdef inline void pcp_drain(vcpu_t *c, u32 n) noexcept nogil:
    zone_drain(c, &c.g.node[c.node].zone, &c.me.pcp_head, &c.me.pcp_count, n)


cdef inline void foreign_drain(vcpu_t *c) noexcept nogil:
    """Sends the foreign frames home; there are some."""
    zone_drain(c, &node_of(c, get32(&c.me.foreign_head)).zone, &c.me.foreign_head, &c.me.foreign_count,
               get32(&c.me.foreign_count))


cdef inline void drain_frames(vcpu_t *c) noexcept nogil:
    """Gives everything in this CPU's lists back."""
    if get32(&c.me.pcp_count):
        pcp_drain(c, get32(&c.me.pcp_count))
    if get32(&c.me.foreign_count):
        foreign_drain(c)


cdef inline void unlink_first(vcpu_t *c, p32 *list, p32 *count, u32 pfn) noexcept nogil:
    """Takes the frame, which is the first, off the list."""
    put32(list, get32(&c.frames[pfn].next))
    put32(count, get32(count) - 1)


cdef inline u32 take_foreign(vcpu_t *c) noexcept nogil:
    """A free frame of another node, or 0: there is none anywhere.  The own node has none."""
    cdef pool_t *zone
    cdef u32 i
    cdef u32 pfn = get32(&c.me.foreign_head)
    for i in range(1, c.g.nnode):
        zone = &c.g.node[(c.node + i) % c.g.nnode].zone
        if pfn == 0 and not passed_by(c, zone):
            zone_refill(c, zone, &c.me.foreign_head, &c.me.foreign_count)
            pfn = get32(&c.me.foreign_head)
    if pfn:
        unlink_first(c, &c.me.foreign_head, &c.me.foreign_count, pfn)
    return pfn


cdef inline u32 take_frame(vcpu_t *c) noexcept nogil:
    """A free frame off its list, of the own node if it has one, or 0."""
    cdef pool_t *zone = &c.g.node[c.node].zone
    cdef u32 pfn = get32(&c.me.pcp_head)
    if pfn == 0 and not passed_by(c, zone):
        zone_refill(c, zone, &c.me.pcp_head, &c.me.pcp_count)
        pfn = get32(&c.me.pcp_head)
    if pfn == 0:
        return take_foreign(c) if several_nodes(c) else 0
    unlink_first(c, &c.me.pcp_head, &c.me.pcp_count, pfn)
    return pfn


cdef inline bint refill_home(vcpu_t *c) noexcept nogil:
    """Whether the next frame that this CPU allocates is of its own node (__GFP_THISNODE)."""
    cdef pool_t *zone = &c.g.node[c.node].zone
    if get32(&c.me.pcp_head) == 0 and not passed_by(c, zone):
        zone_refill(c, zone, &c.me.pcp_head, &c.me.pcp_count)
    return get32(&c.me.pcp_head) != 0


cdef inline u32 alloc_frame(vcpu_t *c, u32 kind) noexcept nogil:
    """A frame with one reference and unspecified contents, or 0 when memory is out."""
    cdef u32 pfn = take_frame(c)
    if pfn == 0:
        return 0
    unpoison_range(frame_bytes(c, pfn), SHMM_PAGE_SIZE)
    st32_relaxed(&c.frames[pfn].refs, 1)
    st32_relaxed(&c.frames[pfn].kind, kind)
    st32_relaxed(&c.frames[pfn].exclusive, 1)
    count_vm_event(c, SHMM_C_pgalloc)
    return pfn


cdef inline u32 alloc_zeroed_frame(vcpu_t *c, u32 kind) noexcept nogil:
    cdef u32 pfn = alloc_frame(c, kind)
    if pfn:
        clear_page(frame_bytes(c, pfn), SHMM_PAGE_SIZE)
    return pfn


cdef inline void put_foreign(vcpu_t *c, u32 pfn) noexcept nogil:
    """To the list of foreign frames, of which all are one node's and at most a batch is kept."""
    cdef u32 head = get32(&c.me.foreign_head)
    if head and (get32(&c.me.foreign_count) >= SHMM_PCP_BATCH or frame_node(c, head) != frame_node(c, pfn)):
        foreign_drain(c)
    put32(&c.frames[pfn].next, get32(&c.me.foreign_head))
    put32(&c.me.foreign_head, pfn)
    put32(&c.me.foreign_count, get32(&c.me.foreign_count) + 1)


cdef inline void free_frame(vcpu_t *c, u32 pfn) noexcept nogil:
    """Nothing refers to the frame any more, it is on no LRU list, no TLB can reach it."""
    st32_relaxed(&c.frames[pfn].kind, SHMM_FRAME_FREE)
    st32_relaxed(&c.frames[pfn].refs, 0)
    if frame_is_huge(c, pfn):
        free_huge_frame(c, pfn)
        return
    poison_range(frame_bytes(c, pfn), SHMM_PAGE_SIZE)
    if several_nodes(c) and frame_node(c, pfn) != c.node:
        put_foreign(c, pfn)
    else:
        put32(&c.frames[pfn].next, get32(&c.me.pcp_head))
        put32(&c.me.pcp_head, pfn)
        put32(&c.me.pcp_count, get32(&c.me.pcp_count) + 1)
    count_vm_event(c, SHMM_C_pgfree)
    if get32(&c.me.pcp_count) > SHMM_PCP_HIGH:
        pcp_drain(c, SHMM_PCP_BATCH)


cdef inline bint put_frame_testzero(vcpu_t *c, u32 pfn) noexcept nogil:
    """Drops one reference; True: it was the last, release the frame (of a huge page: its head)."""
    return fetch_add32(&c.frames[compound_head(c, pfn)].refs, <u32> -1) == 1


cdef inline void get_frame(vcpu_t *c, u32 pfn) noexcept nogil:
    fetch_add32_relaxed(&c.frames[compound_head(c, pfn)].refs, 1)


cdef inline void charge(vcpu_t *c) noexcept nogil:
    """One page to the cgroup.  There is no limit, so it cannot fail; the shared line is what it costs."""
    cdef u32 stock = get32(&c.me.charge_stock)
    if stock == 0:
        fetch_add64_relaxed(&c.g.charged, SHMM_CHARGE_BATCH)
        count_vm_event(c, SHMM_C_charge_refill)
        stock = SHMM_CHARGE_BATCH
    put32(&c.me.charge_stock, stock - 1)


cdef inline void uncharge_one(vcpu_t *c) noexcept nogil:
    """Takes back a charge just made."""
    put32(&c.me.charge_stock, get32(&c.me.charge_stock) + 1)


cdef inline void uncharge(vcpu_t *c, u64 pages) noexcept nogil:
    if pages:
        fetch_add64_relaxed(&c.g.charged, <u64> -(<i64> pages))


cdef inline void charge_huge(vcpu_t *c) noexcept nogil:
    fetch_add64_relaxed(&c.g.charged, HPAGE_PMD_NR)


cdef inline void add_batched(p64 *mine, a64 *total, i64 n) noexcept nogil:
    cdef i64 sum = <i64> get64(mine) + n
    if sum >= SHMM_RSS_BATCH or sum <= -SHMM_RSS_BATCH:
        fetch_add64_relaxed(total, <u64> sum)
        sum = 0
    put64(mine, <u64> sum)


cdef inline void sync_rss(vcpu_t *c, mm_t *mm) noexcept nogil:
    """Before this CPU leaves mm."""
    fetch_add64_relaxed(&mm.rss_anon, get64(&c.me.rss_anon))
    fetch_add64_relaxed(&mm.rss_file, get64(&c.me.rss_file))
    put64(&c.me.rss_anon, 0)
    put64(&c.me.rss_file, 0)
