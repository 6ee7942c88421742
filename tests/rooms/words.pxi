# What all exercisers use: shared words, the gate, and time.

from shmm.arch.arch cimport (
    a32, a64, cpu_relax, fetch_add32, fetch_add64, ld32_acquire, ld64_acquire, st64_relaxed, st64_release,
)

cdef enum:
    GATE_NS = 10000000000       # then a process must have died before it came here


cdef inline a64 *word(vcpu_t *c, u32 i) noexcept nogil:
    """Shared word i, on a line of its own, in the last frames (the allocator gives out the first ones first)."""
    return <a64 *> (c.memory + (<u64> c.g.nframe - 8) * L.SHMM_PAGE_SIZE + 64 * i)


cdef inline void bump(a64 *w) noexcept nogil:
    """Adds one, not atomically."""
    st64_relaxed(w, ld64_relaxed(w) + 1)


cdef inline void dwell(u32 turns) noexcept nogil:
    """Some 50 ns a turn."""
    cdef u32 i
    for i in range(turns):
        cpu_relax(0)


cdef inline u64 gate(vcpu_t *c, u32 parties, u64 ns) noexcept nogil:
    """Waits for all parties; returns when to stop, ns from then on."""
    cdef u64 patience = now_ns() + GATE_NS
    cdef u32 turn = 0
    fetch_add32(&c.g.ready, 1)
    while ld32_acquire(&c.g.ready) < parties and now_ns() < patience:
        cpu_relax(turn)
        turn += 1
    return now_ns() + ns


cdef inline bint wait_for(a64 *w, u64 value, u64 until) noexcept nogil:
    """Whether the word got to hold value in time."""
    cdef u32 turn = 0
    while ld64_acquire(w) != value and now_ns() < until:
        cpu_relax(turn)
        turn += 1
    return ld64_acquire(w) == value


def peek(Cpu cpu, u32 i):
    """Shared word i."""
    return ld64_acquire(word(&cpu.c, i))
