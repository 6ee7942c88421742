"""I8: with PREEMPT_RT nobody waits for a sleeping lock with interrupts off (mm/spinlock.pxd counts who did)."""

from shmm.arch.arch cimport ld64_relaxed, u32, u64
from shmm.layout cimport SHMM_C_rt_atomic_sleep, mm_t, vcpu_t
from shmm.mm.breach cimport breach, breach_t, sum_counter


cdef inline const char *lock_name(vcpu_t *c, u64 offset) noexcept nogil:
    """What the spinlock at an offset of the segment is, for I8."""
    if offset >= c.g.frame_off:
        return b"ptl waited for with interrupts off, by cpu"
    if offset >= c.g.mm_off and offset < c.g.vma_off:
        if (offset - c.g.mm_off) % sizeof(mm_t) == <u64> (<char *> &c.mms.page_table_lock - <char *> c.mms):
            return b"page_table_lock waited for with interrupts off, by cpu"
        return b"lock of an mm waited for with interrupts off, by cpu"
    return b"zone, lru or pool lock waited for with interrupts off, by cpu"


cdef inline u64 check_I8(vcpu_t *c, breach_t *found) noexcept nogil:
    cdef u64 bad = sum_counter(c, SHMM_C_rt_atomic_sleep)
    cdef u32 i
    for i in range(c.g.ncpu):
        if ld64_relaxed(&c.cpus[i].rt_lock):
            breach(found, 8, 0, lock_name(c, ld64_relaxed(&c.cpus[i].rt_lock)), i, ld64_relaxed(&c.cpus[i].rt_lock), 0)
    return bad
