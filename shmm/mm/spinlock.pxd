"""Spinlocks: one word, 0 or the owner's cpu + 1, so that a corpse can be found holding one.

Test-and-set with a read-only wait.  Not a ticket or queue lock: with more CPUs than cores a fair spinlock hands itself
to CPUs that are not running, and every hand-off costs a time slice.  Waiting yields the core after a short spin.

Lock order of the whole memory manager, outermost first (a lock may be taken while those above it are held):

    mmap_lock                     rwsem; sleeps
      notifier_lock               percpu_rwsem; speculators only try
        page_table_lock           per mm: installs of upper tables, anon_vma_prepare
          ptl                     per page table; speculators only try (their interrupts are off)
            lru_lock              of one node at a time
            zone.lock, vma_pool.lock, anon_pool.lock, cache_lock     innermost, never nested in one another
    rwsem.wait_lock               inside nothing, holds nothing
    rcu_lock                      only ever tried

Nobody spins for a lock with interrupts off: zap_pte_range may flush remote TLBs under its ptl and wait for every CPU
that has interrupts off, so a speculator that waited for that ptl would wait for ever.  That is why it only tries."""

from shmm.arch.arch cimport (
    SHMM_LOCK_FREED, SHMM_LOCK_TRIED, SHMM_LOCK_WAIT, a32, cmpxchg32_acquire, cpu_relax, ld32_relaxed, lockdep_event,
    mutant, st32_relaxed, st32_release, u32,
)
from shmm.arch.mutants cimport SHMM_M_UNLOCK_RELAXED
from shmm.layout cimport vcpu_t


cdef inline bint spin_trylock(vcpu_t *c, a32 *lock) noexcept nogil:
    # acquire: pairs with the release in spin_unlock
    if ld32_relaxed(lock) != 0 or cmpxchg32_acquire(lock, 0, c.id + 1) != 0:
        return False
    lockdep_event(lock, SHMM_LOCK_TRIED)
    return True


cdef inline void spin_lock(vcpu_t *c, a32 *lock) noexcept nogil:
    cdef u32 turn = 0
    lockdep_event(lock, SHMM_LOCK_WAIT)
    while cmpxchg32_acquire(lock, 0, c.id + 1) != 0:    # acquire: pairs with the release in spin_unlock
        while ld32_relaxed(lock) != 0:                  # wait on a shared line, not on an exclusive one
            cpu_relax(turn)
            turn += 1


cdef inline void spin_unlock(a32 *lock) noexcept nogil:
    lockdep_event(lock, SHMM_LOCK_FREED)
    if mutant(SHMM_M_UNLOCK_RELAXED):
        st32_relaxed(lock, 0)
    else:
        st32_release(lock, 0)                           # release: pairs with the acquire in spin_lock
