"""Interprocessor interrupts: one mailbox word per CPU, two deliveries behind one interface.

A sender asks a target to forget TLB entries.  The request is one word (layout.h), put into an empty mailbox by
compare-and-swap; if an older request is still there, the two become "forget everything", so a mailbox never overflows
and no sender waits for another's request.

  ipi_post     leaves a request
  ipi_wait     returns when the target can no longer use what the request names
  ipi_handle   the target's side, interrupts off

mailbox   The target looks into its mailbox whenever it turns interrupts off, which every instruction of a program and
          every page-table walk begins with.  So a sender need only wait for a target that has interrupts off *now*:

              sender                             target
              request -> mailbox                 state = IRQ_OFF, new section
              smp_mb          ---- C ----        smp_mb
              read state                         read mailbox

          Either the target sees the request before it uses its TLB, or the sender sees the section and waits for
          its end (the state word changes).  A target in user mode, in the kernel with interrupts on, or asleep is
          never waited for, whether or not it has a core: like a hypervisor that flushes a preempted vCPU lazily.

signal    The target's irq_disable costs no barrier (its state is soft, as on powerpc): a real-time signal stops the
          target wherever it is; the handler does the work at once if interrupts are on, else leaves it for
          irq_enable.  The sender waits for the empty mailbox, except for a target that has announced its sleep.

Sources: the kernel's native_flush_tlb_multi and smp_call_function_many; arch/powerpc soft-masking."""

from shmm.arch.arch cimport (
    cmpxchg64_release, cpu_relax, ld32_relaxed, ld64_acquire, ld64_relaxed, mutant, ring_doorbell, u32, u64, xchg64,
)
from shmm.arch.mutants cimport SHMM_M_IPI_ACK_LOST, SHMM_M_IPI_LOST
from shmm.layout cimport (
    SHMM_ASLEEP, SHMM_C_nr_tlb_remote_flush_received, SHMM_C_shootdown_waits, SHMM_IPI_ALL, SHMM_IPI_SIGNAL,
    SHMM_IPI_VALID, SHMM_IRQ_OFF, cpu_t, vcpu_t,
)
from shmm.mm.tlb cimport tlb_flush_everything, tlb_flush_mm, tlb_flush_one
from shmm.mm.vmstat cimport count_vm_event


cdef inline u64 ipi_request(u32 mm, u64 vpn, u64 pages) noexcept nogil:
    """The word that asks for pages translations of mm from vpn on; pages == 0: all of them."""
    return SHMM_IPI_VALID | <u64> mm << 48 | vpn << 12 | pages << 2


cdef inline void ipi_post(vcpu_t *c, cpu_t *target, u64 request) noexcept nogil:
    cdef u64 there = 0
    cdef u64 seen
    if mutant(SHMM_M_IPI_LOST):
        return
    while True:
        # release: pairs with the exchange in ipi_handle; the caller's pte changes come before its request
        seen = cmpxchg64_release(&target.ipi_req, there, SHMM_IPI_ALL if there else request)
        if seen == there:
            break
        there = seen
    if c.g.ipi_policy == SHMM_IPI_SIGNAL:
        ring_doorbell(ld32_relaxed(&target.host_pid))


cdef inline void ipi_wait(vcpu_t *c, cpu_t *target) noexcept nogil:
    """After ipi_post and a full barrier (C).  Never with interrupts off: two such senders would wait for ever."""
    cdef u64 state = ld64_acquire(&target.state)        # pairs with the releases in irq_enable and insn_end
    cdef u32 turn = 0
    if mutant(SHMM_M_IPI_ACK_LOST):
        return
    if c.g.ipi_policy == SHMM_IPI_SIGNAL:
        # acquires: pair with the exchange in ipi_handle and with the barrier in sleep_begin
        while (ld64_acquire(&target.ipi_req) != 0 and ld64_acquire(&target.state) & SHMM_ASLEEP == 0
               and ld32_relaxed(&target.host_pid) != 0):
            cpu_relax(turn)
            turn += 1
    elif state & SHMM_IRQ_OFF:
        # acquire: pairs with the release in irq_enable; what the target read in its section is over
        while ld64_acquire(&target.state) == state:
            cpu_relax(turn)
            turn += 1
    if turn:
        count_vm_event(c, SHMM_C_shootdown_waits)


cdef inline void ipi_handle(vcpu_t *c) noexcept nogil:
    """Empties the mailbox and does what it asked.  Interrupts are off."""
    # a full exchange: pairs with ipi_post's release, and the flush comes before any later lookup
    cdef u64 request = xchg64(&c.me.ipi_req, 0)
    cdef u64 pages = request >> 2 & 0x3ff
    cdef u64 i
    if request == 0:
        return
    count_vm_event(c, SHMM_C_nr_tlb_remote_flush_received)
    if request == SHMM_IPI_ALL:
        tlb_flush_everything(c)
    elif pages == 0:
        tlb_flush_mm(c, request >> 48 & 0x7fffULL)
    else:
        for i in range(pages):
            tlb_flush_one(c, request >> 48 & 0x7fffULL, (request >> 12 & 0xfffffffffULL) + i)
