"""The check engine: the rooms compiled for fibers, and an explorer of their schedules (shmm/arch/check.h)."""

from libc.errno cimport EAGAIN
from libc.stdio cimport snprintf

from shmm.arch.arch cimport a64
from shmm.exec.interpreter cimport RUN_FAILED, run_t
from shmm.layout cimport mm_t, node_t
from shmm.mm.file cimport find_page
from shmm.mm.frame cimport frame_bytes
from shmm.mm.breach cimport sum_counter
from shmm.mm.invariants cimport check_I3

from shmm.mm.page_table cimport (
    PTE, entry_below, find_pmd, get_entry, huge_part, pmd_trans_huge, pte_pfn, pte_present,
)
from shmm.mm.swap_entry cimport swp_offset
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_tree cimport next_vma

include "engine.pxi"

cdef extern from "arch.h" nogil:
    const int CHECK_CPUS, CHECK_OPS, CHECK_GATHER, CHECK_DEVIATIONS, STRATEGY_REPLAY, SHMM_NMUTANT
    ctypedef struct shmm_site_t:
        const char *file
        const char *function
        int line
    ctypedef struct check_cpu_t:
        u32 gather[1]
    ctypedef struct live_t:
        u32 preceding[1]
        u32 cost, deviations
        check_cpu_t cpu[1]
    ctypedef struct deviation_t:
        u32 step
        u8 cpu, entity, argument
    ctypedef struct trace_t:
        u64 value, old
        u32 step, offset
        const shmm_site_t *site
        u8 cpu, kind, size
    ctypedef struct check_rooms_t:
        void (*main)(u32) noexcept nogil
        void (*interrupt)(u32) noexcept nogil
        int (*irqs_on)(u32) noexcept nogil
        u32 (*rank)(u32) noexcept nogil
        int (*verify)(int) noexcept nogil
    ctypedef struct violation_t "__typeof__(chk.violation)":
        char invariant[24]
        char what[200]
        u32 cpu, offset
        const shmm_site_t *site
        int found
    ctypedef struct check_t "__typeof__(chk)":
        int mutant, tracing, model, serial
        u32 ncpu, ntrace, limit
        check_rooms_t rooms
        deviation_t *deviation
        trace_t *trace
        violation_t violation
        live_t live, first
    ctypedef struct explorer_t "__typeof__(explorer)":
        u32 bound, exhausted, started, nseen, nframes
        u64 schedules, steps, seen_finished
        u64 registers[4]
        u64 *seen
    ctypedef struct strategy_t "__typeof__(strategy)":
        u64 seed
        u32 strategy, depth, length, nscript
        const deviation_t *script
    check_t chk
    explorer_t explorer
    strategy_t strategy
    u32 check_first_op[4]
    const char *const check_mutant_names[1]
    const char *const check_mutant_groups[1]
    const char *const check_mutant_texts[1]
    u64 check_mix(u64, u64)
    u64 tso_own(u32, u32, u32)
    u32 check_steps()
    void check_violate(const char*, const char*, u32)
    int check_begin(void*, u32, u32, u32, int)
    void check_explore(u64)
    void check_forget()
    void check_forget_undo()
    void check_free()
    void poison_bytes(u32, u32, int)

include "check_verify.pxi"

KINDS = ("LD_PLAIN", "ST_PLAIN", "LD_RELAXED", "LD_ACQUIRE", "ST_RELAXED", "ST_RELEASE", "RMW", "FENCE", "RMW_RELAXED",
         "RMW_ACQUIRE", "RMW_RELEASE", "FENCE_READ", "FENCE_WRITE")
MODELS = ("sc", "tso", "weak")
STRATEGIES = ("dfs", "random", "pct", "replay")

cdef object owner = None            # the one Explorer that may exist


cdef void engine_online(vcpu_t *c) noexcept:
    pass


cdef void engine_offline(vcpu_t *c) noexcept:
    pass


# ---- what the explorer asks of the rooms ---------------------------------------------------------------------

cdef void cpu_main(u32 cpu) noexcept nogil:
    """A CPU's fiber: its program from beginning to end."""
    cdef vcpu_t *c = &vcpus[cpu]
    cdef run_t r
    cdef u64 hash = cpu + 1
    cdef u32 i
    if run_program(c, &r, program_first[cpu], program_len[cpu], cpu, chk.ncpu) == RUN_FAILED:
        check_violate(b"unexpected", b"an operation's result is not the one that its program expects", 0)
    if c.soft_irq:
        sleep_begin(c)              # whoever is out of the program takes no interrupts, and is not waited for
    for i in range(16):
        final_registers[cpu][i] = r.reg[i]
        hash = check_mix(hash, r.reg[i])
    explorer.registers[cpu] = hash


cdef void cpu_interrupt(u32 cpu) noexcept nogil:
    irq_handle_pending(&vcpus[cpu])


cdef int cpu_irqs_on(u32 cpu) noexcept nogil:
    """As the CPU itself sees it: a look by the explorer, not an access of any CPU."""
    return tso_own(cpu, <u32> (<u8 *> &vcpus[cpu].me.irq_depth - <u8 *> vcpus[cpu].g), 4) == 0


cdef enum:
    WAIT_LOCK = 7
    RCU_LOCK = 8
    SPINS = 0x100
    ALONE = 0x200


cdef u32 lock_rank(u32 offset) noexcept nogil:
    """The same, and whether its waiters spin: under PREEMPT_RT only a raw spinlock's do."""
    cdef u32 rank = place_in_lock_order(offset)
    if vcpus[0].g.preempt_rt and (rank & 0xff) != WAIT_LOCK and (rank & 0xff) != RCU_LOCK:
        return rank & ~<u32> SPINS
    return rank


cdef u32 place_in_lock_order(u32 offset) noexcept nogil:
    """The lock order of spinlock.pxd as numbers: a lock may be waited for while those of lower rank are held."""
    cdef vcpu_t *c = &vcpus[0]
    cdef const char *at = <const char *> c.g + offset
    cdef mm_t *mm
    cdef node_t *node
    if at >= <const char *> c.frames:
        return 4 | SPINS                                    # ptl
    if at >= <const char *> c.mms and at < <const char *> &c.mms[c.g.nmm]:
        mm = &c.mms[(at - <const char *> c.mms) // <i64> sizeof(mm_t)]
        if at == <const char *> &mm.mmap_lock:
            return 1
        if at == <const char *> &mm.mmap_lock.wait_lock:
            return WAIT_LOCK | SPINS | ALONE
        if at == <const char *> &mm.notifier.lock:
            return 3 | SPINS
        if at == <const char *> &mm.uffd_lock:
            return 6 | SPINS
        return 3 | SPINS if at == <const char *> &mm.page_table_lock else 2     # else notifier_lock
    if <const char *> c.files <= at < <const char *> &c.files[c.g.nfile]:
        return 2 | SPINS                                    # i_mmap_lock, beside notifier_lock
    if <const char *> c.g.node <= at < <const char *> &c.g.node[c.g.nnode]:
        node = &c.g.node[(at - <const char *> c.g.node) // <i64> sizeof(node_t)]
        return 5 | SPINS if at == <const char *> &node.lru_lock else 6 | SPINS      # else its zone's
    return RCU_LOCK | SPINS if at == <const char *> &c.g.rcu_lock else 6 | SPINS


# ---- Python's side -------------------------------------------------------------------------------------------

def mutants():
    """The protections that can be taken away: (name, group, what is missing) of each, by number; 0 is none."""
    return [((<bytes> check_mutant_names[i]).decode(), (<bytes> check_mutant_groups[i]).decode(),
             (<bytes> check_mutant_texts[i]).decode()) for i in range(SHMM_NMUTANT)]


cdef str site_of(const shmm_site_t *site):
    return "" if site == NULL else f"{(<bytes> site.file).decode()}:{site.line}"


cdef str function_of(const shmm_site_t *site):
    return "" if site == NULL else (<bytes> site.function).decode()


cdef class Explorer:
    """Explores the schedules of the programs in a segment, from the segment's present state on.

    Explorer(address, memory): memory is sc, tso or weak.  One at a time in a process; close() it, or use `with`.
    All CPUs must be attached and at rest; their programs are those of cpu_t.program_first and program_len, and no
    more than 32 records together.  Raises ValueError for what it cannot explore, RuntimeError if one exists already."""

    cdef deviation_t script[4096]

    def __init__(self, uintptr_t address, memory="sc"):
        global owner, nops, scratch_refs, outcomes, noutcomes
        cdef seg_t *g = <seg_t *> address
        cdef u32 i
        if owner is not None:
            raise RuntimeError("another Explorer is open in this process: close it first")
        if g.magic != L.SHMM_MAGIC:
            raise ValueError("no shmm segment at this address: create or attach one first")
        if g.ncpu > CHECK_CPUS or g.size >= 1 << 28:
            raise ValueError(f"{g.ncpu} CPUs in {g.size} bytes: at most {CHECK_CPUS} CPUs in 256 MiB can be explored")
        if memory not in MODELS:
            raise ValueError(f"there is no memory model {memory!r}, choose from {', '.join(MODELS)}")
        nops = 0
        for i in range(g.ncpu):
            vcpu_bind(&vcpus[i], <void *> address, i, chk.live.cpu[i].gather, CHECK_GATHER)
            program_first[i], program_len[i] = get64(&vcpus[i].me.program_first), get64(&vcpus[i].me.program_len)
            check_first_op[i] = nops
            nops += program_len[i]
        if nops > CHECK_OPS:
            raise ValueError(f"the programs have {nops} records together: the checker explores {CHECK_OPS} at most")
        if check_begin(<void *> address, g.size, g.memory_off, g.ncpu, MODELS.index(memory)):
            check_free()
            raise MemoryError("no memory for the explorer: close other programs and try again")
        owner = self
        scratch_refs = <u32 *> calloc(max(g.frame_end + g.nswap, g.nanon), sizeof(u32))
        outcomes = <outcome_t *> calloc(MAX_OUTCOMES, sizeof(outcome_t))
        noutcomes = 0
        self.forbid(())
        chk.rooms.main, chk.rooms.interrupt, chk.rooms.irqs_on = cpu_main, cpu_interrupt, cpu_irqs_on
        chk.rooms.rank, chk.rooms.verify = lock_rank, verify
        for i in range(g.ncpu):
            sleep_end(&vcpus[i], 0)
            st32_relaxed(&vcpus[i].me.host_pid, i + 1)
        poison_free(&vcpus[0])

    def close(self):
        """Gives the memory back; the segment stays as the last schedule left it."""
        global owner, scratch_refs, outcomes
        if owner is self:
            check_free()
            free(scratch_refs)
            free(outcomes)
            scratch_refs, outcomes, owner = NULL, NULL, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def sequential(self):
        """Runs every sequential order of the operations, by whose outcomes all others are judged.

        Returns how many there are; violation() says what is wrong if one of them breaks something."""
        global collecting, noutcomes
        cdef int model = chk.model
        noutcomes = 0
        self.begin("dfs", 0)
        chk.model = 0               # one operation at a time, each sees what was stored before
        chk.serial, collecting = 1, True
        while not explorer.exhausted and not chk.violation.found:
            check_explore(10000)
        chk.serial, collecting, chk.model = 0, False, model
        return noutcomes

    def begin(self, strategy_name, u32 bound=2, u64 seed=1, u32 mutant=0, u32 depth=3):
        """Starts over: strategy dfs (with a bound on the deviations), random or pct (of this depth)."""
        check_forget()
        explorer.bound, strategy.depth, strategy.seed = bound, min(depth, 8), seed
        strategy.strategy = STRATEGIES.index(strategy_name)
        chk.mutant = mutant

    def run(self, u64 schedules):
        """Explores so many more schedules, without the GIL; stops early when exhausted or at a violation.

        Returns (schedules, accesses executed, exhausted), all since begin()."""
        with nogil:
            check_explore(schedules)
        return explorer.schedules, explorer.steps, bool(explorer.exhausted)

    def replay(self, script, u32 mutant=0, bint trace=False):
        """Runs one schedule, given as (cpu, step, entity, argument) of each deviation."""
        cdef u32 i
        self.begin("replay", 0, 1, mutant)
        if len(script) > 4096:
            raise ValueError(f"a schedule of {len(script)} deviations: at most 4096 can be replayed")
        for i, (cpu, step, entity, argument) in enumerate(script):
            self.script[i].cpu, self.script[i].step = cpu, step
            self.script[i].entity, self.script[i].argument = entity, argument
        strategy.script, strategy.nscript = self.script, len(script)
        chk.tracing = trace
        self.run(1)
        chk.tracing = 0

    def schedule(self):
        """The last schedule: (cpu, step, entity, argument) of each deviation from the default."""
        return [(chk.deviation[i].cpu, chk.deviation[i].step, chk.deviation[i].entity, chk.deviation[i].argument)
                for i in range(chk.live.deviations)]

    def violation(self):
        """What the last schedule broke: a dict, or None."""
        v = &chk.violation
        if not v.found:
            return None
        return {"invariant": (<bytes> v.invariant).decode(), "what": (<bytes> v.what).decode(), "cpu": v.cpu,
                "offset": v.offset, "source": site_of(v.site), "function": function_of(v.site),
                "preemptions": chk.live.cost, "steps": check_steps()}

    def trace(self):
        """The accesses of the last replay: (step, cpu, kind, offset, size, value before, value, source, function).

        Of a load, the value before is what memory holds: not the same if an old value was read."""
        return [(t.step, t.cpu, t.kind, t.offset, t.size, t.old, t.value, site_of(t.site), function_of(t.site))
                for t in chk.trace[:chk.ntrace]]

    def forbid(self, counters):
        """These counters, by number, must not have moved when a schedule ends."""
        global nforbidden
        cdef u32 i
        nforbidden = 0
        for i in list(counters)[:MAX_FORBIDDEN]:
            forbidden[nforbidden] = i
            forbidden_base[nforbidden] = sum_counter(&vcpus[0], i)
            nforbidden += 1

    def steps(self):
        """The accesses of the last schedule."""
        return check_steps()

    def states(self):
        """(states at rest, final states among them) that were verified since begin()."""
        return explorer.nseen, explorer.seen_finished


cdef void poison_free(vcpu_t *c) noexcept nogil:
    """What is free when exploring begins is freed memory, too."""
    cdef u32 i
    for i in range(1, c.g.nvma):
        if get32(&c.vmas[i].freed):
            poison_bytes(<u32> (<u8 *> &c.vmas[i] - <u8 *> c.g), 64, 1)
    for i in range(1, c.g.nframe):
        if ld32_relaxed(&c.frames[i].kind) == L.SHMM_FRAME_FREE:
            poison_bytes(<u32> (frame_bytes(c, i) - <u8 *> c.g), L.SHMM_PAGE_SIZE, 1)
    check_forget_undo()
