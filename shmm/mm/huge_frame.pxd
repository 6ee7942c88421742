"""Huge pages: 512 frames in a row that are allocated, counted and freed as one.

    frame 0        nframe          a multiple of 512            frame_end
    +--------------+- - - - - - - -+-------------+-------------+
    | single frames|    nobody's   | head, tails | head, tails |
    +--------------+- - - - - - - -+-------------+-------------+

The kernel makes a huge page out of free neighbours whenever it finds some; here they are set aside when the machine is
made, so that there is nothing to compact: none left means that the fault falls back to single pages, as it would where
memory is fragmented.  Which head a frame belongs to is arithmetic with constants, and touches no shared memory.

All that frame_t says of a huge page it says in the head's (compound_head): kind, references, generation, whether one mm
alone can map it, and its one place on the LRU list.  References count mappings, as in the kernel: a huge pmd is one,
and where it has been split each pte is one.  So a huge page of which a part was unmapped stays whole until its last
part goes, and then comes back whole.  (The kernel would split such a page under memory pressure to regain the parts
that nobody maps, deferred_split_huge_page; here nobody does.)

The tails' frame_t are never looked at.  With several nodes all huge pages are node 0's.

Sources: Documentation/mm/transhuge.rst; mm/huge_memory.c, __split_huge_pmd_locked."""

from shmm.arch.arch cimport (
    get32, ld64_relaxed, poison_range, put32, st32_relaxed, st64_relaxed, u8, u32, u64, unpoison_range,
)
from shmm.layout cimport (
    SHMM_C_pgalloc, SHMM_C_pgfree, SHMM_FRAME_ANON, SHMM_HPAGE_SIZE, SHMM_PAGE_SIZE, SHMM_PTRS_PER, vcpu_t,
)
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_events

cdef enum:
    HPAGE_PMD_NR = 512


cdef inline bint frame_is_huge(vcpu_t *c, u32 pfn) noexcept nogil:
    """A part of a huge page, the head included."""
    return pfn >= c.g.nframe


cdef inline u32 compound_head(vcpu_t *c, u32 pfn) noexcept nogil:
    """The frame whose frame_t speaks for this one: itself, or its huge page's first."""
    return pfn & ~<u32> (HPAGE_PMD_NR - 1) if frame_is_huge(c, pfn) else pfn


cdef inline u32 first_huge_frame(vcpu_t *c) noexcept nogil:
    """The first head; frame_end if there is none."""
    return <u32> (c.g.frame_end - c.g.nhuge * SHMM_PTRS_PER)


cdef inline u8 *huge_bytes(vcpu_t *c, u32 head) noexcept nogil:
    return c.memory + (<u64> head) * SHMM_PAGE_SIZE


cdef inline u32 alloc_huge_frame(vcpu_t *c) noexcept nogil:
    """A huge page with one reference and unspecified contents, or 0: there is none."""
    cdef u32 head
    if ld64_relaxed(&c.g.huge_pool.free) == 0:          # a hint: who comes in vain does not even lock
        return 0
    spin_lock(c, &c.g.huge_pool.lock)
    head = get32(&c.g.huge_pool.head)
    if head:
        put32(&c.g.huge_pool.head, get32(&c.frames[head].next))
        st64_relaxed(&c.g.huge_pool.free, ld64_relaxed(&c.g.huge_pool.free) - 1)
    spin_unlock(&c.g.huge_pool.lock)
    if head == 0:
        return 0
    unpoison_range(huge_bytes(c, head), SHMM_HPAGE_SIZE)
    st32_relaxed(&c.frames[head].refs, 1)
    st32_relaxed(&c.frames[head].kind, SHMM_FRAME_ANON)
    st32_relaxed(&c.frames[head].exclusive, 1)
    count_vm_events(c, SHMM_C_pgalloc, HPAGE_PMD_NR)
    return head


cdef inline void free_huge_frame(vcpu_t *c, u32 head) noexcept nogil:
    """Behind free_frame, which has marked the head as free."""
    poison_range(huge_bytes(c, head), SHMM_HPAGE_SIZE)
    spin_lock(c, &c.g.huge_pool.lock)
    put32(&c.frames[head].next, get32(&c.g.huge_pool.head))
    put32(&c.g.huge_pool.head, head)
    st64_relaxed(&c.g.huge_pool.free, ld64_relaxed(&c.g.huge_pool.free) + 1)
    spin_unlock(&c.g.huge_pool.lock)
    count_vm_events(c, SHMM_C_pgfree, HPAGE_PMD_NR)
