"""What the rooms that check invariants have in common: a breach in words, sums of counters, locks that should be
free."""

from shmm.arch.arch cimport ld32_relaxed, ld64_relaxed, u32, u64
from shmm.layout cimport spinlock_t, vcpu_t

cdef struct breach_t:
    u32 invariant               # 1 for I1 ...
    u32 mm
    const char *what
    u64 where, got, want


cdef inline u64 breach(breach_t *found, u32 invariant, u32 mm, const char *what, u64 where, u64 got,
                       u64 want) noexcept nogil:
    if found.invariant == 0:
        found.invariant = invariant
        found.mm = mm
        found.what = what
        found.where = where
        found.got = got
        found.want = want
    return 1


cdef inline u64 sum_counter(vcpu_t *c, u32 which) noexcept nogil:
    cdef u64 sum = 0
    cdef u32 cpu
    for cpu in range(c.g.ncpu):
        sum += ld64_relaxed(&c.cpus[cpu].counter[which])
    return sum


cdef inline u64 lock_words(spinlock_t *lock) noexcept nogil:
    """A spinlock's owner, and its tail above: 0 if nobody holds it and nobody stands in line."""
    return <u64> ld32_relaxed(&lock.tail) << 32 | ld32_relaxed(&lock.owner)


cdef inline u64 check_free(spinlock_t *lock, u32 mm, const char *name, breach_t *found) noexcept nogil:
    """A spinlock that nobody should hold: where is the cpu that does, or else the last in line."""
    cdef u32 cpu = ld32_relaxed(&lock.owner) or ld32_relaxed(&lock.tail)
    return breach(found, 6, mm, name, cpu - 1, lock_words(lock), 0) if cpu else 0
