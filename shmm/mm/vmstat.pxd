"""Counters and histograms: one set per CPU, written by its owner only, summed by whoever reads.

No lock.  A counter is added to in its owner's own line, never by an atomic read-modify-write: the reader may be one
event behind, and nobody pays for it.  Names are /proc/vmstat's and v2 31/35's (layout.h, SHMM_COUNTERS)."""

from shmm.arch.arch cimport add_owned64, ld32_relaxed, st32_relaxed, u32, u64
from shmm.layout cimport SHMM_HIST_BUCKETS, vcpu_t


cdef inline void count_vm_events(vcpu_t *c, u32 which, u64 n) noexcept nogil:
    add_owned64(&c.me.counter[which], n)


cdef inline void count_vm_event(vcpu_t *c, u32 which) noexcept nogil:
    count_vm_events(c, which, 1)


cdef inline u32 hist_bucket(u64 ns) noexcept nogil:
    """Log-linear: below 8 a bucket is one ns; above, each power of two has 8 steps.  The lower edge of bucket b >= 8
    is (8 + b % 8) << (b / 8 - 1) ns."""
    cdef u32 shift = 0
    while (ns >> shift) >= 16:
        shift += 1
    if ns < 8:
        return <u32> ns
    return min(<u32> (((shift + 1) << 3) + ((ns >> shift) & 7)), <u32> SHMM_HIST_BUCKETS - 1)


cdef inline void count_shootdown_ns(vcpu_t *c, u64 ns) noexcept nogil:
    cdef u32 b = hist_bucket(ns)
    st32_relaxed(&c.me.shootdown_hist[b], ld32_relaxed(&c.me.shootdown_hist[b]) + 1)
