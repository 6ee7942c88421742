"""The counting engine: the rooms compiled against count.h, and access to its figures."""

include "engine.pxi"

cdef extern from "arch.h" nogil:
    const int COUNT_KINDS
    ctypedef struct count_range_t:
        uintptr_t size
        uintptr_t origin "from"
        u64 kinds[8]
    u64 count_kinds[8]
    u64 count_bulk
    count_range_t count_watched
    uintptr_t count_trap_from, count_trap_size
    u32 count_trap_kinds
    u64 count_trap_skip
    void (*count_trap_call)() noexcept nogil

KINDS = ("LD_PLAIN", "ST_PLAIN", "LD_RELAXED", "LD_ACQUIRE", "ST_RELAXED", "ST_RELEASE", "RMW", "FENCE")

cdef object trap_action = None
cdef object trap_error = None


cdef void engine_online(vcpu_t *c) noexcept:
    pass


cdef void engine_offline(vcpu_t *c) noexcept:
    pass


cdef void spring() noexcept nogil:
    """The trap: whoever runs the trapped operation holds the GIL, for no operation of engine.pxi but run drops it."""
    global trap_error
    with gil:
        try:
            trap_action()
        except BaseException as error:
            trap_error = error


cdef dict named(u64 *kinds):
    return {KINDS[i]: kinds[i] for i in range(COUNT_KINDS) if kinds[i]}


def reset(uintptr_t address=0, size_t size=0):
    """All figures are 0, and accesses to the range (bytes) are counted apart from now on."""
    global count_bulk
    memset(count_kinds, 0, COUNT_KINDS * sizeof(u64))
    memset(&count_watched, 0, sizeof(count_watched))
    count_bulk = 0
    count_watched.origin = address
    count_watched.size = size


def figures():
    """(accesses by kind, accesses to the watched range by kind, bytes copied or cleared in bulk)."""
    return named(count_kinds), named(count_watched.kinds), count_bulk


def store(Cpu cpu, u64 addr):
    """One store instruction of a running program: what it did, as figures().  Watch and zero with reset() before."""
    cdef i64 faults
    cdef uintptr_t origin = count_watched.origin
    cdef size_t size = count_watched.size
    cpu.wake()
    reset(origin, size)
    faults = user_store(&cpu.c, addr, 1)
    out = figures()
    cpu.rest(0)
    return (faults, *out)


def trap(action, u32 kinds, u64 skip=0, uintptr_t address=0, uintptr_t size=~(<uintptr_t> 0)):
    """Calls action() before access number skip of those kinds (bits, in the order of KINDS) to the range, once."""
    global count_trap_from, count_trap_size, count_trap_kinds, count_trap_skip, count_trap_call, trap_action
    global trap_error
    trap_action, trap_error = action, None
    count_trap_from, count_trap_size, count_trap_skip = address, size, skip
    count_trap_call = spring
    count_trap_kinds = kinds


def disarm():
    """Takes the trap away; raises what its action raised.  Returns whether it had sprung."""
    global count_trap_kinds, trap_action, trap_error
    sprung = count_trap_kinds == 0
    error = trap_error
    count_trap_kinds, trap_action, trap_error = 0, None, None
    if error is not None:
        raise error
    return sprung
