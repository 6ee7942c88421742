"""Litmus tests: a few loads, stores and fences per CPU, explored by the check engine without any room.

explore() returns every outcome that a memory model allows, as what the registers held."""

from libc.stdlib cimport calloc, free
from libc.string cimport memset

from shmm.arch.arch cimport (
    a64, fetch_add64, get64, ld64_acquire, ld64_relaxed, p64, put64, smp_mb, smp_rmb, smp_wmb, st64_relaxed,
    st64_release, u8, u32, u64, xchg64,
)

cdef extern from "arch.h" nogil:
    ctypedef struct shmm_site_t:
        const char *file
        int line
    ctypedef struct check_rooms_t:
        void (*main)(u32) noexcept nogil
        void (*interrupt)(u32) noexcept nogil
        int (*irqs_on)(u32) noexcept nogil
        u32 (*rank)(u32) noexcept nogil
        int (*verify)(int) noexcept nogil
    ctypedef struct violation_t "__typeof__(chk.violation)":
        char invariant[24]
        char what[200]
        int found
    ctypedef struct check_t "__typeof__(chk)":
        u32 ncpu
        check_rooms_t rooms
        violation_t violation
    ctypedef struct explorer_t "__typeof__(explorer)":
        u32 bound, exhausted
        u64 schedules
        u64 registers[4]
    ctypedef struct strategy_t "__typeof__(strategy)":
        u32 strategy
    check_t chk
    explorer_t explorer
    strategy_t strategy
    u64 check_mix(u64, u64)
    int check_begin(void*, u32, u32, u32, int)
    void check_explore(u64)
    void check_forget()
    void check_free()

MODELS = ("sc", "tso", "weak")
OPS = ("store", "store_release", "load", "load_acquire", "mb", "rmb", "wmb", "xchg", "add", "put", "get")

cdef enum:
    STRIDE = 64             # each variable has a line of its own
    VARIABLES = 8
    REGISTERS = 8
    LENGTH = 16
    MAX_FOUND = 4096

cdef struct step_t:
    u32 op, variable, register
    u64 value

cdef step_t program[4][LENGTH]
cdef u32 length[4]
cdef u8 *memory = NULL
cdef u64 registers[REGISTERS]
cdef u64 found[MAX_FOUND][REGISTERS]
cdef u32 nfound = 0


cdef void step(step_t *s) noexcept nogil:
    cdef a64 *at = <a64 *> (memory + s.variable * STRIDE)
    if s.op == 0:
        st64_relaxed(at, s.value)
    elif s.op == 1:
        st64_release(at, s.value)
    elif s.op == 2:
        registers[s.register] = ld64_relaxed(at)
    elif s.op == 3:
        registers[s.register] = ld64_acquire(at)
    elif s.op == 4:
        smp_mb()
    elif s.op == 5:
        smp_rmb()
    elif s.op == 6:
        smp_wmb()
    elif s.op == 7:
        registers[s.register] = xchg64(at, s.value)
    elif s.op == 8:
        registers[s.register] = fetch_add64(at, s.value)
    elif s.op == 9:
        put64(<p64 *> at, s.value)
    else:
        registers[s.register] = get64(<p64 *> at)


cdef void run(u32 cpu) noexcept nogil:
    cdef u64 hash = cpu + 1
    cdef u32 i
    for i in range(length[cpu]):
        step(&program[cpu][i])
    for i in range(length[cpu]):
        hash = check_mix(hash, registers[program[cpu][i].register])
    explorer.registers[cpu] = hash


cdef void nothing(u32 cpu) noexcept nogil:
    pass


cdef int always(u32 cpu) noexcept nogil:
    return 1


cdef u32 no_lock(u32 offset) noexcept nogil:
    return 0


cdef int remember(int finished) noexcept nogil:
    global nfound
    cdef u32 i
    if finished and nfound < MAX_FOUND:
        for i in range(REGISTERS):
            found[nfound][i] = registers[i]
        nfound += 1
    return 0


def explore(programs, memory_model, u32 bound=12):
    """Every outcome within the bound on deviations.

    programs: for each CPU a list of (operation of OPS, variable, value to store or register to load into).
    Returns (set of tuples of the registers, schedules, exhausted, violated invariant or None)."""
    global memory, nfound
    memory = <u8 *> calloc(VARIABLES, STRIDE)
    nfound = 0
    memset(registers, 0, sizeof(registers))
    for cpu, steps in enumerate(programs):
        length[cpu] = len(steps)
        for i, (op, variable, argument) in enumerate(steps):
            program[cpu][i].op, program[cpu][i].variable = OPS.index(op), variable
            program[cpu][i].value, program[cpu][i].register = argument, argument
            if not op.startswith(("load", "get")):
                program[cpu][i].register = REGISTERS - 1    # what a swap returns, nobody asks for
    if check_begin(memory, VARIABLES * STRIDE, VARIABLES * STRIDE, len(programs), MODELS.index(memory_model)):
        raise MemoryError("no memory for the explorer")
    chk.rooms.main, chk.rooms.interrupt, chk.rooms.irqs_on = run, nothing, always
    chk.rooms.rank, chk.rooms.verify = no_lock, remember
    check_forget()
    explorer.bound, strategy.strategy = bound, 0
    try:
        while not explorer.exhausted and not chk.violation.found:
            with nogil:
                check_explore(100000)
        broken = (<bytes> chk.violation.invariant).decode() if chk.violation.found else None
        return ({tuple(found[i][r] for r in range(REGISTERS - 1)) for i in range(nfound)}, explorer.schedules,
                bool(explorer.exhausted), broken)
    finally:
        check_free()
        free(memory)
