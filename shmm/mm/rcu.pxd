"""Read-copy-update across processes: grace periods.

A reader is any CPU in the kernel or with interrupts off; rcu_read_lock only counts nesting, since kernel entry has
already announced the CPU (context tracking: irq.pxd, G2).  A grace period is over when every CPU has been seen outside
the kernel, or to have entered it anew, since the grace period began.  So it never waits for a program that the host
has descheduled in user mode, nor for a sleeper.

    driver (whoever polls)                      reader
    rcu_seq = odd                               state |= KERNEL, a new entry
    smp_mb          ---- D ----                 full barrier
    snapshot every state                        follow pointers

Either the snapshot sees the reader and the grace period waits for it, or the reader began after the snapshot and
sees everything that was unlinked before the grace period.

There is no RCU thread: CPUs with deferred work poll at system calls and every few hundred faults (call_rcu.pxd); one
at a time drives, under rcu_lock, which is only ever tried.  rcu_seq counts by two, odd while a grace period runs.

Sources: McKenney's context-tracking and sequence-number design of Tree RCU; rcu_seq_snap."""

from shmm.arch.arch cimport (
    cpu_relax, get32, get64, ld64_acquire, ld64_relaxed, mutant, put32, put64, smp_mb, st64_release, u32, u64,
    yield_core,
)
from shmm.arch.mutants cimport SHMM_M_MB_GRACE, SHMM_M_MB_KERNEL, SHMM_M_RCU_READER_IGNORED
from shmm.layout cimport (
    SHMM_ASLEEP, SHMM_C_rcu_grace_periods, SHMM_ENTRY_MASK, SHMM_ENTRY_ONE, SHMM_IRQ_OFF, SHMM_KERNEL, cpu_t, seg_t,
    vcpu_t,
)
from shmm.mm.irq cimport announce, sleep_begin, sleep_end
from shmm.mm.spinlock cimport spin_trylock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event


cdef inline void rcu_read_lock(vcpu_t *c) noexcept nogil:
    put32(&c.me.rcu_depth, get32(&c.me.rcu_depth) + 1)


cdef inline void rcu_read_unlock(vcpu_t *c) noexcept nogil:
    put32(&c.me.rcu_depth, get32(&c.me.rcu_depth) - 1)


cdef inline u64 rcu_seq_snap(vcpu_t *c) noexcept nogil:
    """The value of rcu_seq at which a grace period that begins from now on will be over."""
    # pairs with the barrier D of rcu_start: what the caller unlinked comes before the look at rcu_seq, so a grace
    # period that begins later has its readers see it gone
    smp_mb()
    return (ld64_relaxed(&c.g.rcu_seq) + 3) & ~(<u64> 1)


cdef inline bint rcu_seq_done(vcpu_t *c, u64 snap) noexcept nogil:
    return ld64_acquire(&c.g.rcu_seq) >= snap       # acquire: pairs with the release in rcu_advance


cdef inline void rcu_note_quiescent(vcpu_t *c) noexcept nogil:
    """This CPU holds no RCU reference at this point of its system call: as if it had left the kernel and come back."""
    # D: pairs with the fence in rcu_start, like any kernel entry
    announce(c, ld64_relaxed(&c.me.state) + SHMM_ENTRY_ONE, SHMM_M_MB_KERNEL)


cdef inline bint rcu_quiescent(cpu_t *cpu) noexcept nogil:
    """Whether the CPU has passed a quiescent state since its snapshot."""
    cdef u64 now = ld64_acquire(&cpu.state)         # acquire: pairs with the release in kernel_exit and insn_end
    if mutant(SHMM_M_RCU_READER_IGNORED):
        return True
    return not now & (SHMM_KERNEL | SHMM_IRQ_OFF) or (now ^ get64(&cpu.rcu_snapshot)) & SHMM_ENTRY_MASK != 0


cdef inline void rcu_start(vcpu_t *c) noexcept nogil:
    cdef u32 i
    st64_release(&c.g.rcu_seq, ld64_relaxed(&c.g.rcu_seq) + 1)      # pairs with the acquire in rcu_seq_done
    if not mutant(SHMM_M_MB_GRACE):
        smp_mb()                # D: pairs with the barrier of kernel_enter, insn_begin and sleep_end
    for i in range(c.g.ncpu):
        put64(&c.cpus[i].rcu_snapshot, ld64_acquire(&c.cpus[i].state))
        put32(&c.cpus[i].rcu_done, 0)


cdef inline bint rcu_all_quiescent(vcpu_t *c) noexcept nogil:
    cdef u32 i
    for i in range(c.g.ncpu):
        if not get32(&c.cpus[i].rcu_done):
            if not rcu_quiescent(&c.cpus[i]):
                return False
            put32(&c.cpus[i].rcu_done, 1)
    return True


cdef inline void rcu_advance(vcpu_t *c) noexcept nogil:
    """One step: starts a grace period, or ends the running one if it can.  The caller is quiescent."""
    if get32(&c.me.rcu_depth) or not spin_trylock(c, &c.g.rcu_lock):
        return
    rcu_note_quiescent(c)
    if not ld64_relaxed(&c.g.rcu_seq) & 1:
        rcu_start(c)
        rcu_note_quiescent(c)   # the driver itself passes a quiescent state right away
    if rcu_all_quiescent(c):
        # pairs with the releases of kernel_exit and insn_end: every reader's last access comes before what is freed
        # after the grace period; the release pairs with the acquire in rcu_seq_done
        smp_mb()
        st64_release(&c.g.rcu_seq, ld64_relaxed(&c.g.rcu_seq) + 1)
        count_vm_event(c, SHMM_C_rcu_grace_periods)
    spin_unlock(&c.g.rcu_lock)


cdef inline void synchronize_rcu_expedited(vcpu_t *c) noexcept nogil:
    """Drives a whole grace period, spinning.  For a caller that cannot go on without memory."""
    cdef u64 snap = rcu_seq_snap(c)
    cdef u32 turn = 0
    while not rcu_seq_done(c, snap):
        rcu_advance(c)
        cpu_relax(turn)
        turn += 1


cdef inline void synchronize_rcu(vcpu_t *c) noexcept nogil:
    """Waits for a grace period, asleep between looks, so that others' grace periods are shared."""
    cdef u64 snap = rcu_seq_snap(c)
    cdef u64 seen, mode
    while not rcu_seq_done(c, snap):
        seen = ld64_relaxed(&c.g.rcu_seq)
        rcu_advance(c)
        if ld64_relaxed(&c.g.rcu_seq) != seen:
            continue                    # got on: only others' kernel exits are worth sleeping for
        mode = sleep_begin(c)
        yield_core()
        sleep_end(c, mode)
