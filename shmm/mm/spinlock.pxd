"""Spinlocks: one word says who holds it, 0 or the owner's cpu + 1, so that a corpse can be found holding one.

Whoever finds that word 0 swaps itself in, and a store of 0 gives it back.  How the others wait is a policy
(seg_t.queued_spinlocks):

  0  test-and-set: everybody reads the owner's word, and tries again when it is 0.  For more CPUs than cores: there a
     line hands the lock to CPUs that are not running, and every hand-off costs a time slice.  (For that reason
     virt_spin_lock does so in a guest without paravirtual locks.)  Waiting yields the core after a short spin.
  1  waiters stand in line, and only the first, the head, reads the owner's word; the others each read a word of their
     own (the lock of Mellor-Crummey and Scott, in the kernel's qspinlock).  For a core per CPU: there each release of a
     test-and-set lock brings all waiters to one cache line, and one of them gets in.
  2  the same, and nobody overtakes those in line.

    lock:  owner 3, tail 8          CPU 2 holds it, CPU 7 came last
    CPU 5  reads owner              queue_next 7
    CPU 6  reads its queue_ready    queue_next 8
    CPU 7  reads its queue_ready    queue_next 0

    CPU 7 joins                               CPU 6, the head by now, has swapped owner from 0 to 7
    its queue_next = queue_ready = 0          its queue_next is 0, but tail is 8: somebody comes
    tail: 7 -> 8             ---- J ----      wait for queue_next
    CPU 6's queue_next = 8   ---- L ----      it is 8
    wait for its queue_ready ---- H ----      CPU 7's queue_ready = 1

J: a CPU clears its words before it can be found through tail; else it might clear the link of who joined behind it, and
nobody would ever tell that one.  L: the clearing comes before the link, and so before the 1 of H.  What the lock
protects does not rest on the line at all: it is passed on by the release of the owner's word and the acquire of whoever
swaps it next.

One pair of words per CPU is enough: they are in use while it waits, it waits for one lock at a time, and no interrupt
takes a spinlock (irq_handle_pending only flushes).

Turns: owner and tail are two words, so that a lock which nobody else wants costs one read-modify-write and one store;
a newcomer may therefore find owner 0 although others stand in line.  (In a plain qspinlock it cannot: both are one
word, of which a store gives back a part.)  Under policy 1 it keeps the lock, as the kernel's paravirtual lock lets it:
on a host that has other things to do as well, who runs does not wait for a head that does not.  It has a single attempt
before it stands in line itself, but there is no bound: a CPU that takes a lock again as soon as it gave it back may
overtake the same head many times.  Under policy 2 it looks at tail once it has the lock, in a cache line that is its
own by then, and if somebody waits it gives the lock back and goes to the end of the line, or, if it only tries, away.
So who keeps the lock has seen an empty line while it held it, and each CPU is in the head's way once at most before it
stands behind it; those that only try, as often as they try.

PREEMPT_RT (seg_t.preempt_rt): a spinlock is a mutex there.  Whoever waits for it sleeps, interrupts on, and its holder
may be preempted; local_irq_disable still means what it says.  So no spinlock may be waited for with interrupts off
(I8): the walk that turns them off must only try the page-table lock, which is allowed anywhere outside an interrupt
(Sebastian Siewior on v2).  An RCU section is no obstacle: it may sleep for a spinlock, and stays a reader.  Raw
spinlocks spin as ever: here only rwsem.wait_lock, as in the kernel; those of zones, LRU lists and page tables are
ordinary ones.  A sleeper here looks again whenever it gets a core, rather than be woken by the unlock: one store is
all that an unlock is.

Lock order of the whole memory manager, outermost first (a lock may be taken while those above it are held):

    mmap_lock                     rwsem; sleeps
      notifier_lock               percpu_rwsem; speculators only try
      i_mmap_lock                 per file: its VMAs, its size, one truncation at a time; no mmap_lock inside
        notifier.lock             per mm, of its secondary MMU: within it only what a truncation takes, ptls and below
        page_table_lock           per mm: installs of upper tables, anon_vma_prepare
          ptl                     per page table; speculators only try (their interrupts are off).  mremap takes
                                  a second inside one, old before new: nobody else holds two, and mmap_lock,
                                  held for write, keeps out another mremap of the same tables
            lru_lock              of one node at a time
            zone.lock, huge_pool.lock, vma_pool.lock, anon_pool.lock, swap_pool.lock, cache_lock, uffd_lock
                                  innermost, never nested in one another
    rwsem.wait_lock               inside nothing, holds nothing
    rcu_lock                      only ever tried

Nobody spins for a lock with interrupts off: zap_pte_range may flush remote TLBs under its ptl and wait for every CPU
that has interrupts off, so a speculator that waited for that ptl would wait for ever.  That is why it only tries, and
who only tries is never in line."""

from shmm.arch.arch cimport (
    SHMM_LOCK_FREED, SHMM_LOCK_NESTED, SHMM_LOCK_SLEEPS, SHMM_LOCK_TRIED, SHMM_LOCK_WAIT, cmpxchg32_acquire,
    cmpxchg32_relaxed, cpu_relax, get32, ld32_acquire, ld32_relaxed, ld64_relaxed, lockdep_event, mutant, st32_relaxed,
    st32_release, st64_relaxed, u32, u64, xchg32, yield_core,
)
from shmm.arch.mutants cimport SHMM_M_MCS_HANDOFF, SHMM_M_MCS_NODE_LATE, SHMM_M_SPIN_RELAXED, SHMM_M_UNLOCK_RELAXED
from shmm.layout cimport (
    SHMM_C_rt_atomic_sleep, SHMM_C_rt_lock_sleep, SHMM_C_spinlock_queued, SHMM_C_violations, spinlock_t, vcpu_t,
)
from shmm.mm.irq cimport sleep_begin, sleep_end
from shmm.mm.vmstat cimport count_vm_event

cdef enum:                      # of queued_spinlocks
    FAIR = 2


cdef inline void give_back(spinlock_t *lock) noexcept nogil:
    if mutant(SHMM_M_UNLOCK_RELAXED):
        st32_relaxed(&lock.owner, 0)
    else:
        st32_release(&lock.owner, 0)                    # release: pairs with the acquire of the next owner


cdef inline bint is_our_turn(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """A newcomer has the lock, and keeps it unless others stand in line and must not be overtaken."""
    # relaxed: who sees an old 0 overtakes somebody, and that is all
    if c.g.queued_spinlocks < FAIR or ld32_relaxed(&lock.tail) == 0:
        return True
    give_back(lock)             # released again, or what the last owner did would not be passed on to the head
    return False


cdef inline bint spin_trylock(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    # acquire: pairs with the release in give_back
    if ld32_relaxed(&lock.owner) != 0 or cmpxchg32_acquire(&lock.owner, 0, c.id + 1) != 0:
        return False
    if not is_our_turn(c, lock):
        return False
    lockdep_event(lock, SHMM_LOCK_TRIED)
    return True


cdef inline bint spin_swap(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """The attempt of one who has waited."""
    if mutant(SHMM_M_SPIN_RELAXED):
        return cmpxchg32_relaxed(&lock.owner, 0, c.id + 1) == 0
    return cmpxchg32_acquire(&lock.owner, 0, c.id + 1) == 0     # acquire: pairs with the release in give_back


cdef inline void spin_for_owner(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """Takes the lock as soon as it is free."""
    cdef u32 turn = 0
    while True:
        while ld32_relaxed(&lock.owner) != 0:           # wait on a shared line, not on an exclusive one
            cpu_relax(turn)
            turn += 1
        if spin_swap(c, lock):
            return


cdef inline void queue_clear(vcpu_t *c) noexcept nogil:
    st32_relaxed(&c.me.queue_next, 0)
    st32_relaxed(&c.me.queue_ready, 0)


cdef inline void queue_join(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """Returns when this CPU is the head."""
    cdef u32 turn = 0
    cdef u32 before
    if not mutant(SHMM_M_MCS_NODE_LATE):
        queue_clear(c)
    before = xchg32(&lock.tail, c.id + 1)               # J: pairs with itself, in whoever joins behind us
    if mutant(SHMM_M_MCS_NODE_LATE):
        queue_clear(c)
    if before == 0:
        return
    st32_release(&c.cpus[before - 1].queue_next, c.id + 1)      # L: pairs with the acquires in queue_leave
    while ld32_acquire(&c.me.queue_ready) == 0:                 # H: pairs with the release in queue_leave
        cpu_relax(turn)
        turn += 1


cdef inline void queue_leave(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """The head holds the lock; who stands behind it becomes the head."""
    cdef u32 turn = 0
    cdef u32 next = ld32_acquire(&c.me.queue_next)              # L: pairs with the release in queue_join
    # relaxed: who comes after the last one in line finds tail 0 and looks at nobody's words
    if next == 0 and cmpxchg32_relaxed(&lock.tail, c.id + 1, 0) == c.id + 1:
        return
    while next == 0:                                            # somebody has joined, but is not linked yet
        cpu_relax(turn)
        turn += 1
        next = ld32_acquire(&c.me.queue_next)                   # L: pairs with the release in queue_join
    if not mutant(SHMM_M_MCS_HANDOFF):
        st32_release(&c.cpus[next - 1].queue_ready, 1)          # H: pairs with the acquire in queue_join


cdef inline void spin_lock_slowpath(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    if not c.g.queued_spinlocks:
        spin_for_owner(c, lock)
        return
    count_vm_event(c, SHMM_C_spinlock_queued)
    queue_join(c, lock)
    spin_for_owner(c, lock)
    queue_leave(c, lock)


cdef inline void raw_spin_lock(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    lockdep_event(lock, SHMM_LOCK_WAIT)
    # acquire: pairs with the release in give_back
    if cmpxchg32_acquire(&lock.owner, 0, c.id + 1) != 0 or not is_our_turn(c, lock):
        spin_lock_slowpath(c, lock)


cdef inline void rt_schedule(vcpu_t *c) noexcept nogil:
    """Lets others run while one of them has the lock.  In an RCU section without saying that it sleeps, for a sleeper
    is quiescent here."""
    cdef u64 mode
    if get32(&c.me.rcu_depth):
        yield_core()
        return
    mode = sleep_begin(c)
    yield_core()
    sleep_end(c, mode)


cdef inline void rt_complain(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """I8 is broken."""
    count_vm_event(c, SHMM_C_rt_atomic_sleep)
    count_vm_event(c, SHMM_C_violations)
    if ld64_relaxed(&c.me.rt_lock) == 0:
        st64_relaxed(&c.me.rt_lock, <u64> (<char *> lock - <char *> c.g))


cdef inline void rt_spin_lock(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    cdef bint slept = False
    if get32(&c.me.irq_depth):
        rt_complain(c, lock)
    # acquire: pairs with the release in give_back
    while ld32_relaxed(&lock.owner) != 0 or cmpxchg32_acquire(&lock.owner, 0, c.id + 1) != 0:
        if not slept:
            count_vm_event(c, SHMM_C_rt_lock_sleep)
        slept = True
        rt_schedule(c)


cdef inline void spin_lock(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    if c.g.preempt_rt:
        lockdep_event(lock, SHMM_LOCK_SLEEPS)
        rt_spin_lock(c, lock)
    else:
        raw_spin_lock(c, lock)


cdef inline void spin_lock_nested(vcpu_t *c, spinlock_t *lock) noexcept nogil:
    """Inside one other lock of the same kind; the order of the two is the caller's."""
    lockdep_event(lock, SHMM_LOCK_NESTED)
    if c.g.preempt_rt:
        rt_spin_lock(c, lock)
    # acquire: pairs with the release in give_back
    elif cmpxchg32_acquire(&lock.owner, 0, c.id + 1) != 0 or not is_our_turn(c, lock):
        spin_lock_slowpath(c, lock)


cdef inline void spin_unlock(spinlock_t *lock) noexcept nogil:
    lockdep_event(lock, SHMM_LOCK_FREED)
    give_back(lock)
