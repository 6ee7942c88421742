"""Page frames: allocation, reference counts, charging.

Each CPU has a list of free frames (the per-CPU pages of the kernel's allocator) and moves batches of 63 to and from
the zone under zone.lock; most faults take no shared line for memory, one in 63 does.  A frame's contents are at
memory + pfn * 4096; what struct page would hold is in frame_t.

Every page charged to the memory cgroup comes from a per-CPU stock of 64, and rss is added to the mm in batches of 64,
because published curves of speculation stop being linear where these lines saturate.

A frame's reference count is the number of PTEs and page-cache slots that hold it.  The zero page (frame 0) is
never counted.  A freed frame's generation moves on, which is how stale translations are told (I3) and how an LRU
batch notices that its frame is gone."""

from shmm.arch.arch cimport (
    a64, clear_page, fetch_add32, fetch_add32_relaxed, fetch_add64_relaxed, get32, get64, i64, ld64_relaxed, p64,
    poison_range, put32, put64, st32_relaxed, st64_relaxed, u8, u32, u64, unpoison_range,
)
from shmm.layout cimport (
    SHMM_C_charge_refill, SHMM_C_pgalloc, SHMM_C_pgfree, SHMM_C_zone_drain, SHMM_C_zone_refill, SHMM_CHARGE_BATCH,
    SHMM_FRAME_FREE, SHMM_PAGE_SIZE, SHMM_PCP_BATCH, SHMM_PCP_HIGH, SHMM_RSS_BATCH, mm_t, vcpu_t,
)
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event


cdef inline u8 *frame_bytes(vcpu_t *c, u32 pfn) noexcept nogil:
    return c.memory + (<u64> pfn) * SHMM_PAGE_SIZE


cdef inline void zone_refill(vcpu_t *c) noexcept nogil:
    """Moves up to a batch from the zone to this CPU's list, which is empty."""
    cdef u32 head, last, taken
    spin_lock(c, &c.g.zone.lock)
    head = get32(&c.g.zone.head)
    last = head
    taken = 1
    while head and taken < SHMM_PCP_BATCH and get32(&c.frames[last].next):
        last = get32(&c.frames[last].next)
        taken += 1
    if head:
        put32(&c.g.zone.head, get32(&c.frames[last].next))
        st64_relaxed(&c.g.zone.free, ld64_relaxed(&c.g.zone.free) - taken)
        put32(&c.frames[last].next, 0)
        put32(&c.me.pcp_head, head)
        put32(&c.me.pcp_count, taken)
    spin_unlock(&c.g.zone.lock)
    count_vm_event(c, SHMM_C_zone_refill)


cdef inline void zone_drain(vcpu_t *c, u32 n) noexcept nogil:
    """Gives the n most recently freed frames back to the zone; 0 < n <= pcp_count."""
    cdef u32 head = get32(&c.me.pcp_head)
    cdef u32 last = head
    cdef u32 i = 1
    while i < n:
        last = get32(&c.frames[last].next)
        i += 1
    put32(&c.me.pcp_head, get32(&c.frames[last].next))
    put32(&c.me.pcp_count, get32(&c.me.pcp_count) - n)
    spin_lock(c, &c.g.zone.lock)
    put32(&c.frames[last].next, get32(&c.g.zone.head))
    put32(&c.g.zone.head, head)
    st64_relaxed(&c.g.zone.free, ld64_relaxed(&c.g.zone.free) + n)
    spin_unlock(&c.g.zone.lock)
    count_vm_event(c, SHMM_C_zone_drain)


cdef inline u32 alloc_frame(vcpu_t *c, u32 kind) noexcept nogil:
    """A frame with one reference and unspecified contents, or 0 when memory is out."""
    cdef u32 pfn = get32(&c.me.pcp_head)
    if pfn == 0:
        zone_refill(c)
        pfn = get32(&c.me.pcp_head)
        if pfn == 0:
            return 0
    put32(&c.me.pcp_head, get32(&c.frames[pfn].next))
    put32(&c.me.pcp_count, get32(&c.me.pcp_count) - 1)
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


cdef inline void free_frame(vcpu_t *c, u32 pfn) noexcept nogil:
    """Nothing refers to the frame any more, it is on no LRU list, no TLB can reach it."""
    st32_relaxed(&c.frames[pfn].kind, SHMM_FRAME_FREE)
    st32_relaxed(&c.frames[pfn].refs, 0)
    poison_range(frame_bytes(c, pfn), SHMM_PAGE_SIZE)
    put32(&c.frames[pfn].next, get32(&c.me.pcp_head))
    put32(&c.me.pcp_head, pfn)
    put32(&c.me.pcp_count, get32(&c.me.pcp_count) + 1)
    count_vm_event(c, SHMM_C_pgfree)
    if get32(&c.me.pcp_count) > SHMM_PCP_HIGH:
        zone_drain(c, SHMM_PCP_BATCH)


cdef inline bint put_frame_testzero(vcpu_t *c, u32 pfn) noexcept nogil:
    """Drops one reference; True: it was the last, release the frame."""
    return fetch_add32(&c.frames[pfn].refs, <u32> -1) == 1


cdef inline void get_frame(vcpu_t *c, u32 pfn) noexcept nogil:
    fetch_add32_relaxed(&c.frames[pfn].refs, 1)


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
