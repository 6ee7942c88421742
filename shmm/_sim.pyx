"""The sim engine: the rooms compiled for fibers in virtual time (shmm/arch/sim.h), and runs of it."""

from libc.string cimport memcpy

from shmm.arch.arch cimport a32, a64, cmpxchg64, fetch_add64_relaxed, ld64_relaxed
from shmm.layout cimport SHMM_FRAME_TABLE

include "engine.pxi"

cdef extern from "arch.h" nogil:
    const int SIM_CPUS, SIM_SOCKETS, SIM_PARTS, SIM_NSTRUCTURE, SIM_GATHER, SIM_MEASURED
    const int SIM_QUEUED, SIM_PARKED, SIM_SLEEPING, SIM_DONE
    const u64 SIM_NEVER
    ctypedef struct sim_stack_t:
        u64 part[1]
        u64 transfer[1]
        u64 wait[1]
    ctypedef struct sim_cpu_t:
        u64 clock, irq_at
        u32 stuck_on, mailbox
        u8 mode
        sim_stack_t stack
    ctypedef struct sim_machine_t:
        u32 hit
    ctypedef struct sim_rooms_t:
        void (*main)(u32) noexcept nogil
        void (*interrupt)(u32) noexcept nogil
        int (*irqs_on)(u32) noexcept nogil
        int (*is_table)(u32) noexcept nogil
        void (*snapshot)(int) noexcept nogil
    ctypedef struct sim_t "__typeof__(sim)":
        u64 clock, accesses, switches, warm, least, most, begun, lasted, round_pc, least_rounds, rng
        u64 most_accesses, accesses_begun, accesses_ended, rounds, first_round
        int status, out_of_memory, phase, clocked
        u32 ncpu, frame_line, nodes, swap_pages
        sim_machine_t cost
        sim_rooms_t rooms
        u8 *structure
        a32 *stop
        sim_cpu_t cpu[1]
    sim_t sim
    const char *const sim_structure_names[1]
    const char *const sim_cost_names[1]
    int sim_begin(void*, u64 size, u64 memory_off, u64 frame_off, u32 ncpu)
    void sim_seat(u32 cpu, u32 core, u32 cluster, u32 socket, u32 slowdown, u64 rng)
    void sim_start()
    void sim_run(u64 accesses)
    void sim_free()
    u64 sim_clock_of(u32 cpu)
    u32 sim_line_of(const void*)
    void sim_idle_until(u64 time)

STATUS = ("running", "finished", "stuck", "time", "accesses")
MODES = ("runs", "queues for a line", "spins", "sleeps", "is done")
PARTS = ("exception", "clear", "bandwidth", "ipi_send", "ipi_wait", "interrupt", "retry", "sleep", "idle")
COSTS = tuple((<bytes> sim_cost_names[i]).decode() for i in range(sizeof(sim_machine_t) // sizeof(u32)))

SPIN = COSTS[len(COSTS) - 3]      # a turn of a spin loop

cdef object owner = None            # the one simulation that may exist

# Private to the one simulation: its CPUs' executors, how their programs ended; what was measured: counters
# [CPU, counter], the time stack and the time of all CPUs together, ps.
cdef vcpu_t *vcpus = NULL
cdef i64 *results = NULL
cdef u64 *counters = NULL
cdef sim_stack_t stack
cdef u64 cpu_time


cdef void engine_online(vcpu_t *c) noexcept:
    pass


cdef void engine_offline(vcpu_t *c) noexcept:
    pass


# ---- what the engine asks of the rooms -------------------------------------------------------------------------

cdef void cpu_main(u32 cpu) noexcept nogil:
    """A CPU's fiber: its program from beginning to end."""
    cdef vcpu_t *c = &vcpus[cpu]
    cdef run_t r
    results[cpu] = run_program(c, &r, get64(&c.me.program_first), get64(&c.me.program_len), cpu, c.g.ncpu)
    if results[cpu] < 0:
        st32_relaxed(&c.g.stop, 1)  # or whoever waits for it at a barrier would wait for ever
    sleep_begin(c)                  # whoever is out of the program takes no interrupts, and is not waited for


cdef void cpu_interrupt(u32 cpu) noexcept nogil:
    irq_handle_pending(&vcpus[cpu])


cdef int cpu_irqs_on(u32 cpu) noexcept nogil:
    """As the CPU itself sees it: a look by the engine, no access of any CPU."""
    return (<u32 *> &vcpus[cpu].me.irq_depth)[0] == 0


cdef int frame_is_table(u32 pfn) noexcept nogil:
    return (<u32 *> &vcpus[0].frames[pfn].kind)[0] == SHMM_FRAME_TABLE


cdef void snapshot(int which) noexcept nogil:
    """Subtracts the counters and time stacks from what was measured when it goes on, and adds them when it stands
    still: what is left is what happened in between."""
    global cpu_time
    cdef u64 sign = 1 if which else <u64> -1
    cdef u32 i, k
    for i in range(sim.ncpu):
        for k in range(L.SHMM_NCOUNTER):
            counters[i * L.SHMM_NCOUNTER + k] += sign * (<u64 *> vcpus[i].me.counter)[k]
        for k in range(<u32> SIM_PARTS):
            stack.part[k] += sign * sim.cpu[i].stack.part[k]
        for k in range(<u32> SIM_NSTRUCTURE):
            stack.transfer[k] += sign * sim.cpu[i].stack.transfer[k]
            stack.wait[k] += sign * sim.cpu[i].stack.wait[k]
        cpu_time += sign * sim_clock_of(i)


cdef int no_table(u32 pfn) noexcept nogil:
    return 0


cdef int never_on(u32 cpu) noexcept nogil:
    return 0


cdef void no_interrupt(u32 cpu) noexcept nogil:
    pass


# ---- Python's side ----------------------------------------------------------------------------------------------

def structures():
    """The structures that lines belong to, by number: what the time stack's transfers and waits are told apart by."""
    return tuple((<bytes> sim_structure_names[i]).decode() for i in range(SIM_NSTRUCTURE))


cdef int set_costs(costs) except -1:
    for i, name in enumerate(COSTS):
        (<u32 *> &sim.cost)[i] = costs[name]
    if min(costs["hit"], costs[SPIN]) < 1 or costs["jitter"] > 1024:
        raise ValueError("a machine's hit and turn of a spin loop take at least 1 ps, and jitter is 1024 at most")
    return 0


cdef u64 mixed(u64 seed, u64 cpu) noexcept:
    """A start for a CPU's random numbers, never 0 (splitmix64)."""
    cdef u64 x = seed * 0x9e3779b97f4a7c15ULL + cpu * 0xbf58476d1ce4e5b9ULL + 1
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL
    return (x ^ (x >> 31)) | 1


cdef int check_free(seats) except -1:
    """Whether these seats can be simulated now."""
    if owner is not None:
        raise RuntimeError("another Simulation is open in this process: close it first")
    if len(seats) > SIM_CPUS or max(seat[1] for seat in seats) >= 64 or max(seat[2] for seat in seats) >= SIM_SOCKETS:
        raise ValueError(f"at most {SIM_CPUS} CPUs in 64 clusters and {SIM_SOCKETS} sockets can be simulated")
    return 0


cdef int seat_all(costs, seats, u64 seed) except -1:
    cdef u32 i
    set_costs(costs)
    sim.rng = mixed(seed, 1 << 20)
    for i, (core, cluster, socket, slowdown) in enumerate(seats):
        sim_seat(i, core, cluster, socket, slowdown, mixed(seed, i))
    return 0


cdef void give_back() noexcept:
    """Everything of the one simulation."""
    global owner, vcpus, results, counters
    cdef u32 i
    if vcpus != NULL:
        for i in range(sim.ncpu):
            free(vcpus[i].gather)
    sim_free()
    free(vcpus)
    free(results)
    free(counters)
    vcpus, results, counters, owner = NULL, NULL, NULL, None


cdef class Simulation:
    """The programs of a segment in virtual time, from time 0.

    Simulation(address, costs, seats, structure, seed): costs in ps by the names of COSTS; a seat (core, cluster,
    socket, slowdown in 1/1024) for each CPU; structure: for each line of the segment before the frames the number of
    its structure.  All CPUs must be attached and at rest.  One at a time in a process: close() it, or use `with`.
    Raises ValueError for figures that no machine has, RuntimeError if one exists already, MemoryError."""

    def __init__(self, uintptr_t address, costs, seats, const u8[::1] structure not None, u64 seed=1):
        global owner
        cdef seg_t *g = <seg_t *> address
        check_free(seats)
        if g.magic != L.SHMM_MAGIC:
            raise ValueError("no shmm segment at this address: create or attach one first")
        if len(seats) != <int> g.ncpu or structure.shape[0] != <i64> (g.frame_off >> 6):
            raise ValueError(f"{g.ncpu} CPUs and {g.frame_off >> 6} lines need a seat and a structure each, found "
                             f"{len(seats)} and {structure.shape[0]}")
        if sim_begin(<void *> address, g.size, g.memory_off, g.frame_off, g.ncpu) or self.allocate(address):
            give_back()
            raise MemoryError("no memory for the simulation: ask for fewer CPUs or a smaller --size")
        owner = self
        try:
            seat_all(costs, seats, seed)
        except BaseException:
            give_back()
            raise
        memcpy(sim.structure, &structure[0], structure.shape[0])
        sim.stop, sim.nodes, sim.swap_pages = &g.stop, g.nnode, g.nswap
        sim.rooms.main, sim.rooms.interrupt, sim.rooms.irqs_on = cpu_main, cpu_interrupt, cpu_irqs_on
        sim.rooms.is_table, sim.rooms.snapshot = frame_is_table, snapshot

    cdef int allocate(self, uintptr_t address) noexcept:
        global vcpus, results, counters, cpu_time
        cdef u32 *gather
        cdef u32 i
        vcpus = <vcpu_t *> calloc(sim.ncpu, sizeof(vcpu_t))
        results = <i64 *> calloc(sim.ncpu, sizeof(i64))
        counters = <u64 *> calloc(sim.ncpu, L.SHMM_NCOUNTER * sizeof(u64))
        memset(&stack, 0, sizeof(stack))
        cpu_time = 0
        if vcpus == NULL or results == NULL or counters == NULL:
            return -1
        for i in range(sim.ncpu):
            gather = <u32 *> calloc(SIM_GATHER, sizeof(u32))
            if gather == NULL:
                return -1
            vcpu_bind(&vcpus[i], <void *> address, i, gather, SIM_GATHER)
            sim.cpu[i].mailbox = sim_line_of(&vcpus[i].me.ipi_req)
        return 0

    def begin(self, u64 round_pc, u64 warm_ps, u64 least_ps, u64 most_ps, u64 least_rounds=1,
              u64 most_accesses=SIM_NEVER, bint clocked=False):
        """Puts every CPU at its program's beginning.

        round_pc: the record of CPU 0's program with which its rounds begin; SIM_NEVER (2**64 - 1): the programs end by
        themselves, and all is measured.  The measured time begins with a round after warm_ps and ends with one, when it
        has lasted least_ps and least_rounds; clocked: in it only while the programs' own clock runs.  A run that has
        not come to its end at most_ps or after most_accesses is cut off."""
        cdef u32 i
        sim.round_pc, sim.warm, sim.least, sim.most = round_pc, warm_ps, least_ps, most_ps
        sim.least_rounds, sim.most_accesses, sim.clocked = least_rounds, most_accesses, clocked
        for i in range(sim.ncpu):
            sleep_end(&vcpus[i], 0)
            st32_relaxed(&vcpus[i].me.host_pid, i + 1)
        sim_start()

    def run(self, u64 accesses):
        """Simulates about so many more accesses, without the GIL: running, finished, stuck (every CPU waits for
        another), time or accesses (the cut-offs).  Raises MemoryError."""
        with nogil:
            sim_run(accesses)
        if sim.out_of_memory:
            raise MemoryError("no memory for the simulation's shared lines: ask for fewer CPUs")
        return STATUS[sim.status]

    def close(self):
        """Gives the memory back; the segment stays as it is, its pages' contents do not."""
        if owner is self:
            give_back()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def progress(self):
        """(ps, accesses) so far."""
        return sim.clock, sim.accesses

    def measured(self):
        """What was found in the measured time, or None while it is not over: a dict with begun and lasted (ps), rounds,
        accesses, all_accesses, switches; the counters (bytes: signed 64-bit words, [CPU, counter]) and each CPU's
        result; and stack, the time of all CPUs together: (part, its structure or "") -> ps, work included."""
        cdef u32 i
        if sim.phase != SIM_MEASURED:
            return None
        parts = {(PARTS[i], ""): stack.part[i] for i in range(<u32> SIM_PARTS)}
        for i in range(<u32> SIM_NSTRUCTURE):
            name = (<bytes> sim_structure_names[i]).decode()
            parts["transfer", name], parts["wait", name] = stack.transfer[i], stack.wait[i]
        parts["work", ""] = cpu_time - sum(parts.values())
        return {"begun": sim.begun, "lasted": sim.lasted, "rounds": sim.rounds - sim.first_round,
                "accesses": sim.accesses_ended - sim.accesses_begun, "all_accesses": sim.accesses,
                "switches": sim.switches, "results": [results[i] for i in range(sim.ncpu)], "stack": parts,
                "counters": PyBytes_FromStringAndSize(<char *> counters, sim.ncpu * L.SHMM_NCOUNTER * sizeof(u64))}

    def blocked(self):
        """(CPU, what it does, the structure that it waits for, its clock in ps) of each whose program is not over."""
        return [(i, MODES[sim.cpu[i].mode], (<bytes> sim_structure_names[sim.cpu[i].stuck_on]).decode(),
                 sim.cpu[i].clock) for i in range(sim.ncpu) if sim.cpu[i].mode != SIM_DONE]


# ---- one line, and nothing else -----------------------------------------------------------------------------------

KINDS = ("write", "read", "read_write", "own_write", "own_read", "cas")

cdef enum:
    BENCH_WRITE, BENCH_READ, BENCH_READ_WRITE, BENCH_OWN_WRITE, BENCH_OWN_READ, BENCH_CAS

cdef int bench_kind
cdef u8 *bench_arena
cdef u64 bench_ops[1024]
cdef u64 bench_ps[1024]
cdef u64 bench_until, bench_period


cdef void bench_operation(u32 cpu, a64 *cell, bint reads) noexcept nogil:
    cdef u64 seen
    if reads:
        ld64_relaxed(cell)
    elif bench_kind != BENCH_CAS:
        fetch_add64_relaxed(cell, 1)
    else:
        seen = ld64_relaxed(cell)
        while cmpxchg64(cell, seen, seen + 1) != seen:
            seen = ld64_relaxed(cell)


cdef void bench_main(u32 cpu) noexcept nogil:
    """One CPU's loop over its line until the virtual time is over."""
    cdef bint own = bench_kind == BENCH_OWN_WRITE or bench_kind == BENCH_OWN_READ
    cdef a64 *cell = <a64 *> (bench_arena + 128 * (1 + (cpu if own else 0)))
    cdef bint reads = (bench_kind == BENCH_READ or bench_kind == BENCH_OWN_READ
                       or (bench_kind == BENCH_READ_WRITE and cpu != 0))
    cdef u64 began = 0
    while began < bench_until:
        bench_operation(cpu, cell, reads)
        if began or not bench_period:           # a first burst finds the line in memory
            bench_ops[cpu] += 1
            bench_ps[cpu] += sim.clock - began
        if bench_period:
            sim_idle_until((began // bench_period + 1) * bench_period)
        began = sim.clock


cdef void bench_snapshot(int which) noexcept nogil:
    pass


def line_bench(kind, costs, seats, u64 ns=200000, u64 period_ns=0, u64 seed=1):
    """CPUs that do nothing but access one line (own_*: each its own), for so many virtual ns.

    kind: of KINDS; read_write: CPU 0 writes, the others read; cas: increments by load and compare-and-swap.
    period_ns: one operation of each CPU every so many ns, all at once; 0: one after the other.  Returns (operations,
    ps that they took) of each CPU.  Raises as Simulation does."""
    global bench_kind, bench_arena, bench_until, bench_period
    cdef u64 size = 128 * (len(seats) + 2)
    cdef void *arena
    check_free(seats)
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}, choose from {', '.join(KINDS)}")
    arena = calloc(1, size + 64)
    if arena == NULL:
        raise MemoryError("no memory for a line")
    bench_arena = <u8 *> ((<uintptr_t> arena + 63) & ~<uintptr_t> 63)
    try:
        if sim_begin(bench_arena, size, size, size, len(seats)):
            raise MemoryError("no memory for the simulation: ask for fewer CPUs")
        seat_all(costs, seats, seed)
        bench_kind, bench_until, bench_period = KINDS.index(kind), ns * 1000, period_ns * 1000
        memset(bench_ops, 0, sizeof(bench_ops))
        memset(bench_ps, 0, sizeof(bench_ps))
        sim.rooms.main, sim.rooms.interrupt, sim.rooms.irqs_on = bench_main, no_interrupt, never_on
        sim.rooms.is_table, sim.rooms.snapshot = no_table, bench_snapshot
        sim.round_pc, sim.most, sim.most_accesses = SIM_NEVER, SIM_NEVER >> 10, SIM_NEVER
        sim.stop = <a32 *> bench_arena
        sim_start()
        with nogil:
            sim_run(SIM_NEVER >> 1)
        return [(bench_ops[i], bench_ps[i]) for i in range(len(seats))]
    finally:
        give_back()
        free(arena)
