# Exercisers of interrupts and of the TLB: requests, shootdowns, cached translations.

from shmm.mm.ipi cimport ipi_post, ipi_request
from shmm.mm.mm cimport current_mm
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.tlb cimport tlb_fill, tlb_flush_everything, tlb_flush_mm, tlb_flush_one, tlb_lookup, tlb_switch_mm

cdef enum:
    ENTRIES = 16                # the page-table entry of each slot: which object it translates to
    HELD = 32                   # the two CPUs of hold and shoot: the state is held,
    POSTED = 33                 # the shootdown is about to begin,
    RETURNED = 34               # it has returned,
    OVER = 35                   # the state is over

    USE_INSN = 0                # what makes lookup and use one unit
    USE_IRQ_OFF = 1
    USE_NESTED = 2

    FIRST_PAGE = 0x12340        # the page of slot s is FIRST_PAGE + 64 * s
    HOLD_NS = 2000000


cdef inline void begin_use(vcpu_t *c, u32 how) noexcept nogil:
    if how == USE_INSN:
        insn_begin(c)
        return
    kernel_enter(c)
    irq_disable(c)
    if how == USE_NESTED:       # the inner enable must not let an interrupt in
        irq_disable(c)
        irq_enable(c)


cdef inline void end_use(vcpu_t *c, u32 how) noexcept nogil:
    if how == USE_INSN:
        insn_end(c)
        return
    irq_enable(c)
    kernel_exit(c)


cdef inline u64 use_translation(vcpu_t *c, u64 slot) noexcept nogil:
    """One lookup and access, interrupts off: looks at an object that was poisoned."""
    cdef u64 vpn = FIRST_PAGE + 64 * slot
    cdef u64 pte = tlb_lookup(c, vpn)
    if pte == 0:
        pte = ld64_acquire(word(c, ENTRIES + <u32> slot))
        tlb_fill(c, vpn, pte)
    return look_at(c, pte >> 12, 10)


def tlb_users(Cpu cpu, u32 parties, u64 ns, u32 slots, u32 how):
    """Uses the translations of all slots in turn: (uses, looks at poison)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 bad = 0
    cpu.wake()
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            begin_use(c, how)
            bad += use_translation(c, done % slots)
            end_use(c, how)
            done += 1
    cpu.rest(0)
    return done, bad


def tlb_changer(Cpu cpu, u32 parties, u64 ns, u32 slot, u64 pages):
    """Changes the slot's entry, shoots `pages` translations down, poisons the object: how often."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u32 base = slot * 32                   # this slot's objects, 1 to 31: 0 is no translation
    cdef u64 start = (FIRST_PAGE + 64 * slot) << 12
    cdef u64 done = 0
    cdef u32 old, new
    cpu.wake()
    with nogil:
        old = base + 1
        st64_relaxed(word(c, OBJECTS + old), 1)
        st64_release(word(c, ENTRIES + slot), (<u64> old) << 12 | 1)
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            done += 1
            new = base + 1 + <u32> (done % 31)
            st64_relaxed(word(c, OBJECTS + new), done << 16)
            st64_release(word(c, ENTRIES + slot), (<u64> new) << 12 | 1)
            kernel_enter(c)
            flush_tlb_mm_range(c, current_mm(c), start, start + (pages << 12))
            kernel_exit(c)
            st64_relaxed(word(c, OBJECTS + old), POISONED)
            old = new
    cpu.rest(0)
    return done


def hold(Cpu cpu, u32 parties, u64 ns, str state):
    """Takes a state (see mode) and keeps it: with interrupts off, for 2 ms after a shootdown has begun; else, until
    it has returned."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef bint off = state in ("off", "insn", "nested")
    cpu.wake()
    until = gate(c, parties, ns)
    if state == "nested":
        irq_disable(c)
        irq_disable(c)
        irq_enable(c)
    elif state != "user":
        mode(cpu, state)
    with nogil:
        st64_release(word(c, HELD), 1)
        wait_for(word(c, POSTED), 1, until)
        if off:
            wait_for(word(c, RETURNED), 1, min(until, now_ns() + HOLD_NS))
        else:
            wait_for(word(c, RETURNED), 1, until)
        st64_release(word(c, OVER), 1)
    if state == "kernel" or state == "insn":
        mode(cpu, {"kernel": "user", "insn": "endinsn"}[state])
    elif off:
        irq_enable(c)
    elif state == "sleep":
        sleep_end(c, 0)
    cpu.rest(0)


def shoot(Cpu cpu, u32 parties, u64 ns):
    """One shootdown of mm while another CPU holds a state: (it was held, it was over on return)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef bint held
    cdef u64 over
    cpu.wake()
    with nogil:
        until = gate(c, parties, ns)
        held = wait_for(word(c, HELD), 1, until)
        kernel_enter(c)
        st64_release(word(c, POSTED), 1)
        flush_tlb_mm_range(c, current_mm(c), 0, 4096)
        over = ld64_acquire(word(c, OVER))
        st64_release(word(c, RETURNED), 1)
        kernel_exit(c)
    cpu.rest(0)
    return bool(held), bool(over)


def post(Cpu cpu, Cpu target, u32 mm, u64 vpn, u64 pages):
    """Leaves a request in the target's mailbox."""
    ipi_post(&cpu.c, target.c.me, ipi_request(mm, vpn, pages))


def shoot_now(Cpu cpu, u64 start, u64 end):
    """A shootdown of a range of the loaded mm."""
    kernel_enter(&cpu.c)
    flush_tlb_mm_range(&cpu.c, current_mm(&cpu.c), start, end)
    kernel_exit(&cpu.c)


def tlb(Cpu cpu, str what, u64 a=0, u64 b=0):
    """One operation on the TLB: lookup vpn (-> pte or 0), fill vpn pte, one mm vpn, mm mm, all, switch mm."""
    cdef vcpu_t *c = &cpu.c
    if what == "lookup":
        return tlb_lookup(c, a)
    if what == "fill":
        tlb_fill(c, a, b)
    elif what == "one":
        tlb_flush_one(c, <u32> a, b)
    elif what == "mm":
        tlb_flush_mm(c, <u32> a)
    elif what == "switch":
        tlb_switch_mm(c, <u32> a)
    else:
        tlb_flush_everything(c)
