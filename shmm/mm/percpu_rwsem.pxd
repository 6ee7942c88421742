"""Per-CPU reader-writer semaphore: readers touch only their own counter; writers pay for it.

    reader                                     writer
    readers[cpu] += 1                          block = 1
    (smp_mb while `slow`)  ---- E ----         smp_mb
    block set?  undo, fail                     sum of readers == 0?

While no writer is about, `slow` is 0 and the reader needs no barrier: it is in the kernel, hence an RCU reader, and the
writer sets `slow` and waits a grace period before it relies on E.  A reader that saw slow == 0 has left the kernel, or
its increment is visible, by the end of that grace period.

Speculative COW takes mmu_notifier_lock this way (v2 23-26/35): it only tries, and a registering notifier takes it for
write.  Sources: kernel/locking/percpu-rwsem.c and rcu_sync, in our own words."""

from shmm.arch.arch cimport (
    SHMM_LOCK_FREED, SHMM_LOCK_TRIED, SHMM_LOCK_WAIT, cpu_relax, ld32_acquire, ld32_relaxed, lockdep_event, smp_mb,
    st32_relaxed, st32_release, u32, u64, yield_core,
)
from shmm.layout cimport percpu_rwsem_t, vcpu_t
from shmm.mm.irq cimport sleep_begin, sleep_end
from shmm.mm.rcu cimport synchronize_rcu
from shmm.mm.spinlock cimport spin_trylock, spin_unlock


cdef inline void percpu_uncount(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    # release: pairs with the acquire of the writer's sum
    st32_release(&c.me.percpu_readers[sem.index], ld32_relaxed(&c.me.percpu_readers[sem.index]) - 1)


cdef inline void percpu_up_read(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    lockdep_event(sem, SHMM_LOCK_FREED)
    percpu_uncount(c, sem)


cdef inline bint percpu_down_read_trylock(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    """Never waits.  The caller is in the kernel (an RCU reader)."""
    st32_relaxed(&c.me.percpu_readers[sem.index], ld32_relaxed(&c.me.percpu_readers[sem.index]) + 1)
    if ld32_relaxed(&sem.slow):
        smp_mb()                # E: pairs with the fence in percpu_down_write
        if ld32_acquire(&sem.block):
            percpu_uncount(c, sem)      # was never held
            return False
    lockdep_event(sem, SHMM_LOCK_TRIED)
    return True


cdef inline bint percpu_readers_gone(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    cdef u32 sum = 0
    cdef u32 i
    for i in range(c.g.ncpu):
        # acquire: pairs with the release in percpu_up_read
        sum += ld32_acquire(&c.cpus[i].percpu_readers[sem.index])
    return sum == 0


cdef inline void percpu_lock_writers(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    """One writer at a time.  Whoever waits is asleep, hence quiescent: the holder waits for grace periods, and would
    wait for ever for a CPU that spun here in the kernel."""
    cdef u64 mode
    while not spin_trylock(c, &sem.writer):
        mode = sleep_begin(c)
        yield_core()
        sleep_end(c, mode)


cdef inline void percpu_down_write(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    """Sleeps.  On return no reader is inside and none can enter."""
    cdef u32 turn = 0
    lockdep_event(sem, SHMM_LOCK_WAIT)
    percpu_lock_writers(c, sem)
    st32_relaxed(&sem.slow, 1)
    synchronize_rcu(c)          # from here on every reader sees slow, and who did not is visible in the sum
    st32_relaxed(&sem.block, 1)
    smp_mb()                    # E: pairs with the fence in percpu_down_read_trylock
    while not percpu_readers_gone(c, sem):
        cpu_relax(turn)
        turn += 1


cdef inline void percpu_up_write(vcpu_t *c, percpu_rwsem_t *sem) noexcept nogil:
    lockdep_event(sem, SHMM_LOCK_FREED)
    st32_release(&sem.block, 0)     # pairs with the acquire in percpu_down_read_trylock: who may enter sees our work
    synchronize_rcu(c)              # readers that still test block must not be joined by ones that do not
    st32_relaxed(&sem.slow, 0)
    spin_unlock(&sem.writer)
