"""A CPU's state: interrupts on or off, user or kernel mode, running or asleep.  One word, written by its owner.

  irq_disable / irq_enable      nest; while off, no request of another CPU is acted upon
  insn_begin / insn_fault / insn_end   one load or store of a program: lookup and access with interrupts off, so that
                                a shootdown sees it whole; insn_fault is the exception entry, which turns them on
  kernel_enter / kernel_exit    a system call
  sleep_begin / sleep_end       around anything that gives the core away

Guarantees.
  G1  Between irq_disable and irq_enable no TLB entry and no page table that this CPU can still reach is given away:
      a shootdown that began before the section was handled at its start, one that begins later waits for its end.
  G2  A CPU outside KERNEL is in an RCU quiescent state, and so is one that is asleep (context tracking): grace
      periods and shootdowns never wait for a program that the host has descheduled.

The full barrier at each beginning is the price of both: it pairs with C in ipi.pxd and with D in rcu.pxd."""

from shmm.arch.arch cimport (
    SHMM_EXC_FAULT, barrier, exception_entry, get32, ld64_relaxed, mutant, put32, st64_mb, st64_relaxed, st64_release,
    u32, u64,
)
from shmm.arch.mutants cimport (
    SHMM_M_IRQ_ENABLE_RELAXED, SHMM_M_MAILBOX_UNREAD, SHMM_M_MB_KERNEL, SHMM_M_MB_TARGET,
)
from shmm.layout cimport (
    SHMM_ASLEEP, SHMM_ENTRY_ONE, SHMM_IRQ_OFF, SHMM_KERNEL, SHMM_SECTION_ONE, vcpu_t,
)
from shmm.mm.ipi cimport ipi_handle


cdef inline void announce(vcpu_t *c, u64 state, int without) noexcept nogil:
    """This CPU enters the state, and looks at nothing before everybody can see that.  without: the mutant in which it
    looks at once."""
    if mutant(without):
        st64_relaxed(&c.me.state, state)
    else:
        st64_mb(&c.me.state, state)             # pairs with C or D, as each caller says


cdef inline void leave(vcpu_t *c, u64 flags) noexcept nogil:
    """This CPU drops these flags of its state, when all that it did under them is over."""
    cdef u64 state = ld64_relaxed(&c.me.state) & ~flags
    if mutant(SHMM_M_IRQ_ENABLE_RELAXED):
        st64_relaxed(&c.me.state, state)
    else:
        st64_release(&c.me.state, state)        # pairs with the acquires in ipi_wait and rcu_quiescent


cdef inline void irq_handle_pending(vcpu_t *c) noexcept nogil:
    """Interrupts are on and the mailbox is not empty: take the interrupt."""
    cdef u64 state
    while ld64_relaxed(&c.me.ipi_req):
        put32(&c.me.irq_depth, 1)
        state = ld64_relaxed(&c.me.state)
        announce(c, (state + SHMM_SECTION_ONE) | SHMM_IRQ_OFF, SHMM_M_MB_TARGET)    # C: as in irq_disable
        ipi_handle(c)
        put32(&c.me.irq_depth, 0)
        leave(c, SHMM_IRQ_OFF)
        barrier()


cdef inline void irq_disable(vcpu_t *c) noexcept nogil:
    cdef u32 depth = get32(&c.me.irq_depth)
    cdef u64 state
    put32(&c.me.irq_depth, depth + 1)
    if depth:
        return
    state = (ld64_relaxed(&c.me.state) + SHMM_SECTION_ONE) | SHMM_IRQ_OFF
    if c.soft_irq:
        st64_relaxed(&c.me.state, state)        # soft-masked: the signal itself orders, on this very CPU
        barrier()
        return
    announce(c, state, SHMM_M_MB_TARGET)        # C: pairs with the fence between ipi_post and ipi_wait
    if ld64_relaxed(&c.me.ipi_req):
        ipi_handle(c)


cdef inline void irq_enable(vcpu_t *c) noexcept nogil:
    cdef u32 depth = get32(&c.me.irq_depth) - 1
    put32(&c.me.irq_depth, depth)
    if depth:
        return
    barrier()
    leave(c, SHMM_IRQ_OFF)              # the section's reads are over when a waiter sees it end
    barrier()
    if ld64_relaxed(&c.me.ipi_req):
        irq_handle_pending(c)


cdef inline void insn_begin(vcpu_t *c) noexcept nogil:
    cdef u64 state = ld64_relaxed(&c.me.state)
    put32(&c.me.irq_depth, 1)
    # pairs as C and as D: an instruction is an irq-off section and an RCU reader
    announce(c, (state + SHMM_SECTION_ONE + SHMM_ENTRY_ONE) | SHMM_IRQ_OFF | SHMM_KERNEL, SHMM_M_MB_TARGET)
    if ld64_relaxed(&c.me.ipi_req) and not mutant(SHMM_M_MAILBOX_UNREAD):
        ipi_handle(c)


cdef inline void insn_fault(vcpu_t *c) noexcept nogil:
    """The instruction faulted: still in the kernel, interrupts on."""
    exception_entry(SHMM_EXC_FAULT)
    irq_enable(c)


cdef inline void insn_end(vcpu_t *c) noexcept nogil:
    put32(&c.me.irq_depth, 0)
    barrier()
    leave(c, SHMM_IRQ_OFF | SHMM_KERNEL)
    barrier()
    if ld64_relaxed(&c.me.ipi_req):
        irq_handle_pending(c)


cdef inline void kernel_enter(vcpu_t *c) noexcept nogil:
    # D: pairs with the fence in rcu_start; what this CPU reads from here on, a later grace period waits for
    announce(c, (ld64_relaxed(&c.me.state) + SHMM_ENTRY_ONE) | SHMM_KERNEL, SHMM_M_MB_KERNEL)


cdef inline void kernel_exit(vcpu_t *c) noexcept nogil:
    st64_release(&c.me.state, ld64_relaxed(&c.me.state) & ~SHMM_KERNEL)     # pairs with rcu_quiescent's acquire


cdef inline u64 sleep_begin(vcpu_t *c) noexcept nogil:
    """About to give the core away; interrupts on, no RCU section.  Returns what sleep_end wants."""
    cdef u64 state = ld64_relaxed(&c.me.state)
    # pairs with the acquires in ipi_wait and rcu_quiescent: whatever came before is over when the sleep is seen
    st64_mb(&c.me.state, (state | SHMM_ASLEEP) & ~SHMM_KERNEL)
    return state & SHMM_KERNEL


cdef inline void sleep_end(vcpu_t *c, u64 mode) noexcept nogil:
    cdef u64 state = ld64_relaxed(&c.me.state)
    # pairs as D, for it may be an entry to the kernel, and as C, for a sender may have passed us over asleep
    st64_mb(&c.me.state, ((state + SHMM_ENTRY_ONE) & ~SHMM_ASLEEP) | mode)
    if ld64_relaxed(&c.me.ipi_req):
        irq_handle_pending(c)
