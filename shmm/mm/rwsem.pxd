"""Reader-writer semaphore after Linux (kernel/locking/rwsem.c of 5.17, in our own words).

One 64-bit count and a FIFO of sleepers:

    63                8  7..3    2        1        0
    +------------------+------+---------+---------+--------+
    | readers          |      | HANDOFF | WAITERS | WRITER |
    +------------------+------+---------+---------+--------+

Readers add themselves with one fetch_add and keep the lock unless a flag says otherwise; a writer swaps 0 for WRITER.
A writer that fails spins while the owner runs, then queues.  A waiter that has been first for 4 ms sets HANDOFF, after
which nobody can steal the lock from it.  Waking hands the lock to all queued readers at once (their counts are added
for them), or pokes the first writer, who takes it himself.

The queue is linked through cpu_t (a CPU waits for one rwsem at a time) under wait_lock; sleeping is a futex on
cpu_t.wake, with the CPU marked asleep.  Why not simpler, say a ticket pair: this lock is what speculation is measured
against, so it must be as good as the kernel's."""

from shmm.arch.arch cimport (
    SHMM_LOCK_FREED, SHMM_LOCK_TRIED, SHMM_LOCK_WAIT, cmpxchg64_acquire, cpu_pause, fetch_add64, fetch_add64_acquire,
    fetch_add64_relaxed, fetch_add64_release, fetch_or64, futex_wait, futex_wake, get32, ld32_acquire, ld32_relaxed,
    ld64_relaxed, lockdep_event, mutant, now_ns, put32, spin_turns, st32_relaxed, st32_release, u32, u64,
)
from shmm.arch.mutants cimport (
    SHMM_M_RWSEM_DOWNGRADE_GAP, SHMM_M_RWSEM_NO_WAKE, SHMM_M_RWSEM_READERS_IGNORED, SHMM_M_RWSEM_SHARES_LATE,
    SHMM_M_UP_READ_RELAXED,
)
from shmm.layout cimport (
    SHMM_ASLEEP, SHMM_C_rwsem_handoff, SHMM_C_rwsem_read_fast, SHMM_C_rwsem_read_sleep, SHMM_C_rwsem_read_slow,
    SHMM_C_rwsem_write_fast, SHMM_C_rwsem_write_sleep, SHMM_C_rwsem_write_slow, SHMM_C_rwsem_write_spin, cpu_t, rwsem_t,
    vcpu_t,
)
from shmm.mm.irq cimport sleep_begin, sleep_end
from shmm.mm.spinlock cimport raw_spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event

cdef enum:
    WRITER = 1
    WAITERS = 2
    HANDOFF = 4
    READER = 256
    WAIT_READ = 1
    WAIT_WRITE = 2
    SPIN_TURNS = 200
    WAKE_TURNS = 64
    HANDOFF_NS = 4000000        # RWSEM_WAIT_TIMEOUT: 1/250 s


cdef inline void wait_enqueue(vcpu_t *c, rwsem_t *sem, u32 type) noexcept nogil:
    cdef u32 tail = get32(&sem.wait_tail)
    put32(&c.me.waiter_type, type)
    put32(&c.me.waiter_next, 0)
    st32_relaxed(&c.me.wake, 0)
    if tail:
        put32(&c.cpus[tail - 1].waiter_next, c.id + 1)
    else:
        put32(&sem.wait_head, c.id + 1)
    put32(&sem.wait_tail, c.id + 1)


cdef inline void wait_dequeue(vcpu_t *c, rwsem_t *sem, u32 prev, u32 who) noexcept nogil:
    """Unlinks who (cpu + 1); prev is the waiter before it, or 0."""
    cdef u32 next = get32(&c.cpus[who - 1].waiter_next)
    if prev:
        put32(&c.cpus[prev - 1].waiter_next, next)
    else:
        put32(&sem.wait_head, next)
    if next == 0:
        put32(&sem.wait_tail, prev)


cdef inline void wake_cpu(cpu_t *cpu) noexcept nogil:
    st32_release(&cpu.wake, 1)          # release: pairs with the acquire in wait_for_wake
    futex_wake(&cpu.wake, 1)


cdef inline void wait_for_wake(vcpu_t *c, u64 timeout_ns) noexcept nogil:
    """Returns when woken or after a time-out (0: none).  Spins a little: most waits are short."""
    cdef u32 turns = spin_turns(WAKE_TURNS)
    cdef u64 mode
    while turns and ld32_acquire(&c.me.wake) == 0:          # acquire: pairs with the release in wake_cpu
        cpu_pause()
        turns -= 1
    mode = sleep_begin(c)
    while ld32_acquire(&c.me.wake) == 0:                    # pairs with the release in wake_cpu
        futex_wait(&c.me.wake, 0, timeout_ns)
        if timeout_ns:
            break
    sleep_end(c, mode)


cdef inline u64 queued_readers(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u32 who = get32(&sem.wait_head)
    cdef u64 n = 0
    while who:
        n += get32(&c.cpus[who - 1].waiter_type) == WAIT_READ
        who = get32(&c.cpus[who - 1].waiter_next)
    return n


cdef inline void rwsem_wake_readers(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    """Gives the lock to every queued reader.  wait_lock held; the first waiter is a reader.

    All shares are in the count before anybody is woken: the first reader may have come and gone before the last is
    told, and a writer would find the lock free in between."""
    cdef u64 old = fetch_add64(&sem.count, READER)      # the first one's share, so that no writer slips in
    cdef bint late = mutant(SHMM_M_RWSEM_SHARES_LATE)
    cdef u32 prev = 0
    cdef u32 who, next
    cdef u64 n
    if old & WRITER:
        fetch_add64(&sem.count, <u64> -READER)
        return
    n = queued_readers(c, sem) - 1
    if n and not late:
        fetch_add64(&sem.count, n * READER)
    late = False
    who = get32(&sem.wait_head)
    while who:
        next = get32(&c.cpus[who - 1].waiter_next)
        if get32(&c.cpus[who - 1].waiter_type) == WAIT_READ:
            wait_dequeue(c, sem, prev, who)
            if late:
                fetch_add64(&sem.count, READER)
            late = mutant(SHMM_M_RWSEM_SHARES_LATE)
            wake_cpu(&c.cpus[who - 1])
        else:
            prev = who
        who = next
    if get32(&sem.wait_head) == 0:
        fetch_add64(&sem.count, <u64> -WAITERS)


cdef inline void rwsem_mark_wake(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u32 who = get32(&sem.wait_head)
    if who == 0:
        return
    if get32(&c.cpus[who - 1].waiter_type) == WAIT_WRITE:
        wake_cpu(&c.cpus[who - 1])
    elif not ld64_relaxed(&sem.count) & HANDOFF:
        rwsem_wake_readers(c, sem)


cdef inline void rwsem_wake(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    if mutant(SHMM_M_RWSEM_NO_WAKE):
        return
    raw_spin_lock(c, &sem.wait_lock)
    rwsem_mark_wake(c, sem)
    spin_unlock(&sem.wait_lock)


cdef inline void rwsem_down_read_slowpath(vcpu_t *c, rwsem_t *sem, u64 count) noexcept nogil:
    cdef u64 adjust = <u64> -READER
    count_vm_event(c, SHMM_C_rwsem_read_slow)
    # Steal: no writer holds it and none was promised it.  Not while other readers hold it, for a constant stream
    # of them would starve the sleeping writer.
    if not count & (WRITER | HANDOFF) and count >> 8 <= 1:
        return
    raw_spin_lock(c, &sem.wait_lock)
    if get32(&sem.wait_head) == 0:
        if not ld64_relaxed(&sem.count) & (WRITER | HANDOFF):
            smp_acquire_after_count(sem)
            spin_unlock(&sem.wait_lock)
            return
        adjust += WAITERS
    wait_enqueue(c, sem, WAIT_READ)
    count = fetch_add64(&sem.count, adjust) + adjust
    if not count & WRITER and (count >> 8 == 0 or get32(&sem.wait_head) == c.id + 1):
        rwsem_mark_wake(c, sem)
    spin_unlock(&sem.wait_lock)
    while ld32_acquire(&c.me.wake) == 0:        # pairs with the release in wake_cpu: the lock is ours
        count_vm_event(c, SHMM_C_rwsem_read_sleep)
        wait_for_wake(c, 0)


cdef inline void smp_acquire_after_count(rwsem_t *sem) noexcept nogil:
    """The count was read relaxed and found free of writers: order what follows after it."""
    fetch_add64_acquire(&sem.count, 0)          # pairs with the release in up_write


cdef inline void down_read(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u64 count
    lockdep_event(sem, SHMM_LOCK_WAIT)
    # acquire: pairs with the releases in up_write and downgrade_write
    count = fetch_add64_acquire(&sem.count, READER)
    if count & (WRITER | WAITERS | HANDOFF):
        rwsem_down_read_slowpath(c, sem, count + READER)
    else:
        count_vm_event(c, SHMM_C_rwsem_read_fast)


cdef inline bint down_read_trylock(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u64 count = ld64_relaxed(&sem.count)
    cdef u64 seen
    while not count & (WRITER | WAITERS | HANDOFF):
        # acquire: pairs with the releases in up_write and downgrade_write
        seen = cmpxchg64_acquire(&sem.count, count, count + READER)
        if seen == count:
            lockdep_event(sem, SHMM_LOCK_TRIED)
            count_vm_event(c, SHMM_C_rwsem_read_fast)
            return True
        count = seen
    return False


cdef inline void up_read(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u64 count
    lockdep_event(sem, SHMM_LOCK_FREED)
    if mutant(SHMM_M_UP_READ_RELAXED):
        count = fetch_add64_relaxed(&sem.count, <u64> -READER) - READER
    else:
        # release: pairs with the acquire of the next writer
        count = fetch_add64_release(&sem.count, <u64> -READER) - READER
    if count >> 8 == 0 and count & (WRITER | WAITERS) == WAITERS:
        rwsem_wake(c, sem)


cdef inline bint owner_is_running(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    """Worth spinning: a writer that is not asleep, or readers (whose sections are short)."""
    cdef u32 owner = ld32_relaxed(&sem.owner)
    return owner == 0 or not ld64_relaxed(&c.cpus[owner - 1].state) & SHMM_ASLEEP


cdef inline bint keeps_writers_out(u64 count) noexcept nogil:
    """Whether somebody holds the lock, be it for reading."""
    return count & WRITER != 0 or (count >> 8 != 0 and not mutant(SHMM_M_RWSEM_READERS_IGNORED))


cdef inline bint rwsem_optimistic_spin(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u32 turns = spin_turns(SPIN_TURNS // 16 if c.g.shared_core else SPIN_TURNS)
    cdef u64 count
    while turns and owner_is_running(c, sem):
        count = ld64_relaxed(&sem.count)
        if not count & HANDOFF and not keeps_writers_out(count):
            # acquire: pairs with the releases in up_read and up_write
            if cmpxchg64_acquire(&sem.count, count, count | WRITER) == count:
                count_vm_event(c, SHMM_C_rwsem_write_spin)
                return True
        cpu_pause()
        turns -= 1
    return False


cdef inline bint rwsem_try_write_lock(vcpu_t *c, rwsem_t *sem, bint insist) noexcept nogil:
    """The queued writer's attempt, wait_lock held.  insist: we have waited long enough to ask for a hand-off."""
    cdef bint first = get32(&sem.wait_head) == c.id + 1
    cdef u64 count = ld64_relaxed(&sem.count)
    cdef u64 new, seen
    while True:
        if count & HANDOFF and not first:
            return False
        if keeps_writers_out(count):
            if insist and first and not count & HANDOFF:
                fetch_or64(&sem.count, HANDOFF)
                count_vm_event(c, SHMM_C_rwsem_handoff)
            return False
        new = (count | WRITER) & ~(<u64> HANDOFF)
        if first and get32(&c.me.waiter_next) == 0:
            new &= ~(<u64> WAITERS)
        seen = cmpxchg64_acquire(&sem.count, count, new)        # pairs with the releases in up_read and up_write
        if seen == count:
            wait_remove_self(c, sem)
            return True
        count = seen


cdef inline void wait_remove_self(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u32 prev = 0
    cdef u32 who = get32(&sem.wait_head)
    while who != c.id + 1:
        prev = who
        who = get32(&c.cpus[who - 1].waiter_next)
    wait_dequeue(c, sem, prev, who)


cdef inline void rwsem_down_write_slowpath(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u64 since
    count_vm_event(c, SHMM_C_rwsem_write_slow)
    if rwsem_optimistic_spin(c, sem):
        return
    raw_spin_lock(c, &sem.wait_lock)
    wait_enqueue(c, sem, WAIT_WRITE)
    fetch_or64(&sem.count, WAITERS)
    since = now_ns()
    while not rwsem_try_write_lock(c, sem, now_ns() - since > HANDOFF_NS):
        st32_relaxed(&c.me.wake, 0)
        # readers queued before us may be all that is in the way, with nobody left to wake them
        if ld64_relaxed(&sem.count) >> 8 == 0 and not ld64_relaxed(&sem.count) & WRITER:
            if get32(&sem.wait_head) != c.id + 1:
                rwsem_mark_wake(c, sem)
        spin_unlock(&sem.wait_lock)
        count_vm_event(c, SHMM_C_rwsem_write_sleep)
        wait_for_wake(c, HANDOFF_NS)
        raw_spin_lock(c, &sem.wait_lock)
    spin_unlock(&sem.wait_lock)


cdef inline void down_write(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    lockdep_event(sem, SHMM_LOCK_WAIT)
    # acquire: pairs with the releases in up_read and up_write
    if cmpxchg64_acquire(&sem.count, 0, WRITER) == 0:
        count_vm_event(c, SHMM_C_rwsem_write_fast)
    else:
        rwsem_down_write_slowpath(c, sem)
    st32_relaxed(&sem.owner, c.id + 1)


cdef inline void up_write(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    cdef u64 count
    lockdep_event(sem, SHMM_LOCK_FREED)
    st32_relaxed(&sem.owner, 0)
    count = fetch_add64_release(&sem.count, <u64> -WRITER)      # release: pairs with the next locker's acquire
    if count & WAITERS:
        rwsem_wake(c, sem)


cdef inline void downgrade_write(vcpu_t *c, rwsem_t *sem) noexcept nogil:
    """From writer to reader without a gap in which another writer could enter."""
    cdef u64 count
    if mutant(SHMM_M_RWSEM_DOWNGRADE_GAP):
        up_write(c, sem)
        down_read(c, sem)
        return
    st32_relaxed(&sem.owner, 0)
    # release: pairs with the acquires of the readers that may now enter
    count = fetch_add64_release(&sem.count, <u64> (READER - WRITER))
    if count & WAITERS and not mutant(SHMM_M_RWSEM_NO_WAKE):
        raw_spin_lock(c, &sem.wait_lock)
        if get32(&sem.wait_head) and get32(&c.cpus[get32(&sem.wait_head) - 1].waiter_type) == WAIT_READ:
            rwsem_mark_wake(c, sem)
        spin_unlock(&sem.wait_lock)
