"""MMU notifiers: somebody else's page tables point to this address space's frames, and must be told in time.

The client is a secondary MMU, as KVM's shadow page tables are one: a small table of translations of its own, filled
from the primary page table, holding no reference on the frames.  Its promise:

  G4  Between mmu_notifier_invalidate_range_start and _end it uses and makes no translation of that range, and none that
      it made before is used ever after (I7).

    who changes ptes                              the client (exec/secondary.pxd)
    start: lock, drop entries,                    lock, no entry: remember seq, unlock
           in_progress += 1, unlock
    change the ptes                               look the pte up, no lock at all
    end:   lock, seq += 1,                        lock, in_progress == 0 and seq as remembered?
           in_progress -= 1, unlock               then install and use; else look again.  unlock

What remains is the beginning.  Nobody calls start while there is no client, so a client may appear between "there is
none, skip start" and the change of the pte, look the old pte up, and never hear of its end:

    fault that copies a page                      register
    a client? no: skip start
    pte lock, sequence checks passed  ---- R ----
                                                  client = 1
                                                  looks up the pte: the old page
    pte = the copy
    end, if there is a client                     never began, yet ends: in_progress is out of step

R: registering must exclude everybody between the two.  It takes mmap_lock for write, which excludes the classical
fault, zap, mprotect and fork, which hold it at least for read.  A speculative copy holds none.  The write lock does
move mmap_seq, so that a speculator who has yet to pass SEQ2 gives up; one who has passed it sees nothing any more,
hence notifier_lock (v2 23 to 26/35): the speculator holds it for read from before its look at the client to after its
end, by trying, and registering takes it for write.  It is a percpu rwsem so that the fault writes no shared line.

How much is left for the readers' side to do, once the writer waits for a grace period?  Under the pte lock a CPU is an
RCU reader (preemption is off), so the grace period outlasts the change of the pte; after that a task may be preempted,
a client appears, and an end follows that had no start.  That alone kills the mutant NOTIFIER_NO_LOCK.  With
PREEMPT_RT, where the holder of a pte lock may be preempted, all of the race is left.

With mmu_notifier 0 (a kernel without CONFIG_MMU_NOTIFIER) nobody looks, and nobody can register.

In the kernel notifier_lock is allocated for each mm, and freeing it may sleep, but the last mmput may run in atomic
context: v2 22/35 hands that to a work item, and Android later found it to wait for CPU hotplug, which held the lock it
wanted (Pavan Kondeti, July 2022).  Here the lock lies in mm_t and there is nothing to free.

Sources: v2 22 to 26/35; mm/mmu_notifier.c; virt/kvm/kvm_main.c (mmu_notifier_seq) for the client."""

from libc.errno cimport EEXIST, ENOENT, ENOSYS

from shmm.arch.arch cimport get64, i64, ld32_relaxed, mutant, put64, st32_relaxed, st32_release, u32, u64
from shmm.arch.mutants cimport (
    SHMM_M_NOTIFIER_NO_END, SHMM_M_NOTIFIER_REGISTER_NO_LOCK, SHMM_M_NOTIFIER_REGISTER_NO_MMAP_LOCK,
    SHMM_M_NOTIFIER_UNTOLD,
)
from shmm.layout cimport (
    SHMM_C_mmu_notifier_invalidate, SHMM_C_mmu_notifier_register, SHMM_PAGE_SHIFT, SHMM_SECONDARY_ENTRIES, mm_t,
    notifier_t, tlb_entry_t, vcpu_t,
)
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.percpu_rwsem cimport percpu_down_write, percpu_up_write
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event

cdef enum:                      # notifier_t.subscriptions
    NOTIFIER_SUBSCRIBED = 1     # there has been a client since the mm was made: what mm_has_notifiers says
    NOTIFIER_REGISTERED = 2     # and there is one now


cdef inline bint mm_has_notifiers(vcpu_t *c, mm_t *mm) noexcept nogil:
    # relaxed: whoever asks holds mmap_lock or notifier_lock, which registering takes for write
    return (c.g.mmu_notifier != 0 and ld32_relaxed(&mm.notifier.subscriptions) != 0
            and not mutant(SHMM_M_NOTIFIER_UNTOLD))


cdef inline bint has_client(notifier_t *n) noexcept nogil:
    """The client's lock is held."""
    return ld32_relaxed(&n.subscriptions) & NOTIFIER_REGISTERED != 0


cdef inline tlb_entry_t *secondary_entry(notifier_t *n, u64 vpn) noexcept nogil:
    """Where the translation of a page may be; its tag is vpn + 1."""
    return &n.entry[vpn & (SHMM_SECONDARY_ENTRIES - 1)]


cdef inline void secondary_drop(notifier_t *n, u64 first, u64 last) noexcept nogil:
    """Forgets the translations of pages [first, last)."""
    cdef u32 i
    cdef u64 tag
    for i in range(SHMM_SECONDARY_ENTRIES):
        tag = get64(&n.entry[i].tag)
        if tag and first < tag and tag <= last:
            put64(&n.entry[i].tag, 0)


cdef inline void mmu_notifier_invalidate_range_start(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """Ptes in [start, end) are about to be taken away or narrowed.  No spinlock is held, interrupts are on."""
    cdef notifier_t *n = &mm.notifier
    if not mm_has_notifiers(c, mm):
        return
    spin_lock(c, &n.lock)
    if has_client(n):
        secondary_drop(n, start >> SHMM_PAGE_SHIFT, (end + (1 << SHMM_PAGE_SHIFT) - 1) >> SHMM_PAGE_SHIFT)
        st32_relaxed(&n.in_progress, ld32_relaxed(&n.in_progress) + 1)
        count_vm_event(c, SHMM_C_mmu_notifier_invalidate)
    spin_unlock(&n.lock)


cdef inline void mmu_notifier_invalidate_range_end(vcpu_t *c, mm_t *mm) noexcept nogil:
    """They are as they shall be.  Asks anew whether there is a client, as the kernel does."""
    cdef notifier_t *n = &mm.notifier
    if not mm_has_notifiers(c, mm) or mutant(SHMM_M_NOTIFIER_NO_END):
        return
    spin_lock(c, &n.lock)
    if has_client(n):
        put64(&n.seq, get64(&n.seq) + 1)
        # release: pairs with the acquire of a client that waits for the end (exec/secondary.pxd)
        st32_release(&n.in_progress, ld32_relaxed(&n.in_progress) - 1)
    spin_unlock(&n.lock)


cdef inline void mmu_notifier_lock_range(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """For who changes ptes without mmap_lock or notifier_lock (truncate.pxd): start, with the client's lock kept, also
    if there is no client yet, for one may come.  i_mmap_lock is held."""
    if c.g.mmu_notifier and not mutant(SHMM_M_NOTIFIER_UNTOLD):
        spin_lock(c, &mm.notifier.lock)
        if has_client(&mm.notifier):
            secondary_drop(&mm.notifier, start >> SHMM_PAGE_SHIFT, end >> SHMM_PAGE_SHIFT)
            count_vm_event(c, SHMM_C_mmu_notifier_invalidate)


cdef inline void mmu_notifier_unlock_range(vcpu_t *c, mm_t *mm) noexcept nogil:
    """What a client has looked up meanwhile, and not installed yet, is void."""
    if c.g.mmu_notifier and not mutant(SHMM_M_NOTIFIER_UNTOLD):
        put64(&mm.notifier.seq, get64(&mm.notifier.seq) + 1)
        spin_unlock(&mm.notifier.lock)


cdef inline i64 mmu_notifier_register(vcpu_t *c, mm_t *mm) noexcept nogil:
    """0, -EEXIST, or -ENOSYS without CONFIG_MMU_NOTIFIER.  Sleeps."""
    cdef i64 err = 0
    if not c.g.mmu_notifier:
        return -ENOSYS
    if not mutant(SHMM_M_NOTIFIER_REGISTER_NO_MMAP_LOCK):
        mmap_write_lock(c, mm)
    if not mutant(SHMM_M_NOTIFIER_REGISTER_NO_LOCK):
        percpu_down_write(c, &mm.notifier_lock)         # R: mm_take_all_locks of v2 24/35
    spin_lock(c, &mm.notifier.lock)
    if has_client(&mm.notifier):
        err = -EEXIST
    else:
        st32_relaxed(&mm.notifier.subscriptions, NOTIFIER_SUBSCRIBED | NOTIFIER_REGISTERED)
        count_vm_event(c, SHMM_C_mmu_notifier_register)
    spin_unlock(&mm.notifier.lock)
    if not mutant(SHMM_M_NOTIFIER_REGISTER_NO_LOCK):
        percpu_up_write(c, &mm.notifier_lock)
    if not mutant(SHMM_M_NOTIFIER_REGISTER_NO_MMAP_LOCK):
        mmap_write_unlock(c, mm)
    return err


cdef inline void secondary_forget(notifier_t *n, u32 state) noexcept nogil:
    """There is no client from now on."""
    secondary_drop(n, 0, ~(<u64> 0))
    st32_relaxed(&n.in_progress, 0)
    st32_relaxed(&n.subscriptions, state)


cdef inline i64 mmu_notifier_unregister(vcpu_t *c, mm_t *mm) noexcept nogil:
    """0, or -ENOENT.  Takes no lock but the client's: ends that come later find nobody, and a new client has to wait
    until they have come, since it registers."""
    cdef i64 err = -ENOENT
    spin_lock(c, &mm.notifier.lock)
    if has_client(&mm.notifier):
        secondary_forget(&mm.notifier, NOTIFIER_SUBSCRIBED)
        err = 0
    spin_unlock(&mm.notifier.lock)
    return err


cdef inline void mmu_notifier_exit_mmap(vcpu_t *c, mm_t *mm) noexcept nogil:
    """The address space is taken down, and nobody runs it: exit_mmap's first act."""
    if mm_has_notifiers(c, mm):
        spin_lock(c, &mm.notifier.lock)
        secondary_forget(&mm.notifier, 0)
        spin_unlock(&mm.notifier.lock)
