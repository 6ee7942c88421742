"""TLB shootdown: when it returns, no CPU can use the translations any more (I3).

Forget locally, post to every other CPU whose TLB may hold the mm, then wait for those that have interrupts off: all
requests are out before the first wait, so the targets' sections end side by side.  The caller holds no lock that an
irq-off section could want by spinning, and has interrupts on.

Policy: broadcast to mm.cpumask, the CPUs that have ever run the mm.  Ranges above 33 pages become full flushes, as on
x86 (tlb_single_page_flush_ceiling).  Latency is measured from the first post to the last acknowledgement."""

from shmm.arch.arch cimport ld64_relaxed, mutant, now_ns, smp_mb, u32, u64
from shmm.arch.mutants cimport SHMM_M_MB_SENDER, SHMM_M_SHOOTDOWN_CLOCK
from shmm.layout cimport (
    SHMM_C_nr_tlb_remote_flush, SHMM_IPI_MAX_PAGES, SHMM_PAGE_SHIFT, mm_t, vcpu_t,
)
from shmm.mm.ipi cimport ipi_post, ipi_request, ipi_wait
from shmm.mm.irq cimport irq_disable, irq_enable
from shmm.mm.tlb cimport tlb_flush_local
from shmm.mm.vmstat cimport count_shootdown_ns, count_vm_event


cdef inline bint cpu_in_mask(mm_t *mm, u32 cpu) noexcept nogil:
    return (ld64_relaxed(&mm.cpumask[cpu >> 6]) >> (cpu & 63)) & 1


cdef inline bint others_in_mask(vcpu_t *c, mm_t *mm) noexcept nogil:
    cdef u64 others
    cdef u32 word
    for word in range((c.g.ncpu + 63) >> 6):
        others = ld64_relaxed(&mm.cpumask[word])
        if word == c.id >> 6:
            others &= ~(<u64> 1 << (c.id & 63))
        if others:
            return True
    return False


cdef inline void flush_tlb_others(vcpu_t *c, mm_t *mm, u64 vpn, u64 pages) noexcept nogil:
    cdef u64 request = ipi_request(<u32> (mm - c.mms), vpn, pages)
    cdef u64 start
    cdef u32 cpu
    if not others_in_mask(c, mm):
        return
    start = now_ns()
    for cpu in range(c.g.ncpu):
        if cpu != c.id and cpu_in_mask(mm, cpu):
            ipi_post(c, &c.cpus[cpu], request)
    count_vm_event(c, SHMM_C_nr_tlb_remote_flush)
    if start == 0 and mutant(SHMM_M_SHOOTDOWN_CLOCK):
        return
    if not mutant(SHMM_M_MB_SENDER):
        smp_mb()                # C: pairs with the barrier in irq_disable, insn_begin and sleep_end
    for cpu in range(c.g.ncpu):
        if cpu != c.id and cpu_in_mask(mm, cpu):
            ipi_wait(c, &c.cpus[cpu])
    count_shootdown_ns(c, now_ns() - start)


cdef inline void flush_tlb_mm_range(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    cdef u64 pages = (end - start) >> SHMM_PAGE_SHIFT
    if pages > SHMM_IPI_MAX_PAGES:
        pages = 0
    irq_disable(c)
    tlb_flush_local(c, <u32> (mm - c.mms), start >> SHMM_PAGE_SHIFT, pages)
    irq_enable(c)
    flush_tlb_others(c, mm, start >> SHMM_PAGE_SHIFT, pages)


cdef inline void flush_tlb_mm(vcpu_t *c, mm_t *mm) noexcept nogil:
    flush_tlb_mm_range(c, mm, 0, ~(<u64> 0))
