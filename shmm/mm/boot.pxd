"""Boot: turns a zeroed mapping into a machine.

The launcher computes the geometry, maps a zeroed segment and calls segment_format once, alone; from then on the
header's constants are read without the door.  Every pool starts as one chain of free slots in address order, and so
does each node's zone: the first frames a CPU takes are neighbours."""

from shmm.arch.arch cimport a32, get32, put32, put64, st32_relaxed, st64_relaxed, u8, u32, u64
from shmm.layout cimport (
    SHMM_ASLEEP, SHMM_FRAME_ZERO, SHMM_PAGE_SIZE, SHMM_PTRS_PER, anon_vma_t, cpu_t, file_t, frame_t, mm_t, seg_t,
    shmm_insn_t, swap_slot_t, vcpu_bind, vcpu_t, vma_t,
)
from shmm.mm.frame cimport node_start


cdef inline u64 align_up(u64 x, u64 to) noexcept nogil:
    return (x + to - 1) & ~(to - 1)


cdef inline u64 segment_layout(seg_t *g) noexcept nogil:
    """Places the arrays whose counts are in the header; sets the offsets and returns the size in bytes."""
    # a huge page's number is a multiple of 512, as its address must be; what lies between is nobody's
    g.frame_end = <u32> (align_up(g.nframe, SHMM_PTRS_PER) + g.nhuge * SHMM_PTRS_PER) if g.nhuge else g.nframe
    g.cpu_off = align_up(sizeof(seg_t), 4096)
    g.mm_off = align_up(g.cpu_off + g.ncpu * sizeof(cpu_t), 4096)
    g.vma_off = align_up(g.mm_off + g.nmm * sizeof(mm_t), 4096)
    g.anon_off = align_up(g.vma_off + g.nvma * sizeof(vma_t), 4096)
    g.file_off = align_up(g.anon_off + g.nanon * sizeof(anon_vma_t), 4096)
    g.cache_off = align_up(g.file_off + g.nfile * sizeof(file_t), 4096)
    g.swap_off = align_up(g.cache_off + g.ncache * sizeof(a32), 64)
    g.frame_off = align_up(g.swap_off + g.nswap * sizeof(swap_slot_t), 4096)
    g.program_off = align_up(g.frame_off + g.frame_end * sizeof(frame_t), 4096)
    g.result_off = align_up(g.program_off + g.ninsn * sizeof(shmm_insn_t), 4096)
    g.memory_off = align_up(g.result_off + g.ninsn * sizeof(u64), 65536)
    g.size = align_up(g.memory_off + (<u64> g.frame_end + g.nswap) * SHMM_PAGE_SIZE, 65536)
    return g.size


cdef inline void format_zones(vcpu_t *c) noexcept nogil:
    """All frames but the zero page are free, each in its node's zone."""
    cdef u32 node, first, end, i
    for node in range(c.g.nnode):
        first = max(1, node_start(c, node))
        end = node_start(c, node + 1)
        for i in range(first, end):
            put32(&c.frames[i].next, i + 1 if i + 1 < end else 0)
        if first < end:
            put32(&c.g.node[node].zone.head, first)
            st64_relaxed(&c.g.node[node].zone.free, end - first)


cdef inline void format_huge_pool(vcpu_t *c) noexcept nogil:
    """All huge pages are free, in the order of their addresses."""
    cdef u32 head = c.g.frame_end
    while head > c.g.frame_end - c.g.nhuge * SHMM_PTRS_PER:
        head -= <u32> SHMM_PTRS_PER
        put32(&c.frames[head].next, get32(&c.g.huge_pool.head))
        put32(&c.g.huge_pool.head, head)
    st64_relaxed(&c.g.huge_pool.free, c.g.nhuge)


cdef inline void segment_format(u8 *base) noexcept nogil:
    """Links the free lists.  The header's counts, offsets and policies are already there."""
    cdef vcpu_t c
    cdef u32 i
    vcpu_bind(&c, base, 0, NULL, 0)
    st32_relaxed(&c.frames[0].kind, SHMM_FRAME_ZERO)
    st32_relaxed(&c.frames[0].refs, 1)
    format_zones(&c)
    format_huge_pool(&c)
    for i in range(1, c.g.nvma):
        put32(&c.vmas[i].rcu_next, i + 1 if i + 1 < c.g.nvma else 0)
        put32(&c.vmas[i].freed, 1)
    put32(&c.g.vma_pool.head, 1)
    st64_relaxed(&c.g.vma_pool.free, c.g.nvma - 1)
    for i in range(1, c.g.nanon):
        put32(&c.anons[i].next, i + 1 if i + 1 < c.g.nanon else 0)
    put32(&c.g.anon_pool.head, 1)
    st64_relaxed(&c.g.anon_pool.free, c.g.nanon - 1)
    for i in range(1, c.g.nswap):
        put32(&c.slots[i].next, i + 1 if i + 1 < c.g.nswap else 0)
    if c.g.nswap > 1:
        put32(&c.g.swap_pool.head, 1)
        st64_relaxed(&c.g.swap_pool.free, c.g.nswap - 1)
    put32(&c.g.files_used, 1)
    put64(&c.g.cache_used, 1)
    for i in range(c.g.ncpu):
        st64_relaxed(&c.cpus[i].state, SHMM_ASLEEP)         # until its executor shows up
    for i in range(c.g.nmm):
        c.mms[i].notifier_lock.index = i
