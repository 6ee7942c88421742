"""The host engine: executes programs on this machine's own kernel (shmm/arch/host.h); shmm.host is its Python side.

No rooms: what the rooms emulate is here the real thing.  Control is what the launcher sees of the area that it shares
with the executing processes; zygote() is what such a process calls, once, in a fresh interpreter."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "host.h" nogil:
    const uint64_t HOST_AREA, HOST_BLOCK
    enum:
        SHMM_REGS
        HOST_FILES
        HOST_NCOUNTER
        HOST_IDLE
        HOST_RUNNING
        ADDR_NO_RANDOMIZE
    ctypedef struct shmm_insn_t:
        uint64_t addr
    ctypedef struct host_file_t:
        uint64_t pages
        int64_t fd
    ctypedef struct host_head_t:
        uint32_t status, error, cpus, blocks, threaded, exact, nfiles
        uint64_t size, records, results, faults, deadline_ns
        uint32_t stop, go, ready, finished, barrier_count, barrier_gen, turn_wake, running
        uint64_t turn, clock_since, clock_ns
        uint32_t dead_block
        int32_t dead_signal, dead_exit
        host_file_t file[1]
    ctypedef struct host_block_t:
        uint64_t ops, at, rng, first, len, begun_ns, ended_ns, faults_before, failed_pc
        uint64_t reg[1]
        uint64_t counter[1]
        int64_t failed_result, failed_expect
        uint32_t task, countdown, outcome, doing
        int32_t core, pid
    int personality(unsigned long)
    int host_become_zygote(int, int, uint64_t, uint64_t, uint64_t)
    uint32_t host_get(uint32_t*)
    void host_put(uint32_t*, uint32_t)
    uint64_t host_peek(uint64_t*)
    void host_wake(uint32_t*)

OUTCOMES = ("done", "stopped", "failed")
STATUSES = ("idle", "running", "ended", "destroyed", "deadline", "cancelled", "refused")
COUNTERS = ("mmap", "munmap", "mprotect", "brk", "madvise", "fork", "syscalls", "pgfault", "faults_segv",
            "faults_sigbus", "unexpected")


cdef uint64_t in_blocks(uint64_t size):
    return (size + HOST_BLOCK - 1) // HOST_BLOCK * HOST_BLOCK


def area_size(uint32_t blocks, uint64_t records):
    """Bytes of the area for so many blocks (a CPU or an address space each) and program records."""
    return HOST_BLOCK * (1 + <uint64_t> blocks) + in_blocks(records * sizeof(shmm_insn_t)) + 2 * in_blocks(records * 8)


def fix_addresses():
    """From this process's next exec on its addresses are the same each time, if the system allows that."""
    personality(<unsigned long> personality(0xffffffff) | ADDR_NO_RANDOMIZE)


def zygote(int link, int memory, uint64_t size, uint64_t start_brk, uint64_t limit):
    """Becomes the zygote, and does not return; raises OSError if the area could not be mapped.

    start_brk: where the heap begins; limit: RLIMIT_AS, or 0."""
    cdef int error = host_become_zygote(link, memory, size, start_brk, limit)
    raise OSError(error, "cannot map the shared area")


cdef class Control:
    """The launcher's view of the area: a buffer of area_size(blocks, records) bytes, zeros at first."""

    cdef unsigned char[::1] memory
    cdef host_head_t *head
    cdef uint64_t records, words, faults        # offsets; the head's own a program may have overwritten
    cdef readonly uint32_t blocks
    cdef readonly uint64_t capacity

    def __init__(self, unsigned char[::1] memory not None, uint32_t blocks, uint64_t records):
        if <uint64_t> memory.shape[0] != area_size(blocks, records):
            raise ValueError(f"an area of this geometry has {area_size(blocks, records)} bytes, not {memory.shape[0]}")
        self.memory = memory
        self.head = <host_head_t *> &memory[0]
        self.blocks = blocks
        self.capacity = records
        self.head.blocks, self.head.size = blocks, memory.shape[0]
        self.records = HOST_BLOCK * (1 + <uint64_t> blocks)
        self.words = self.records + in_blocks(records * sizeof(shmm_insn_t))
        self.faults = self.words + in_blocks(records * 8)
        self.head.status = HOST_RUNNING         # until the zygote says that it is idle

    cdef host_block_t *block(self, uint32_t number) except NULL:
        if number >= self.blocks:
            raise ValueError(f"there is no block {number}: the area has {self.blocks}")
        return <host_block_t *> (<char *> self.head + HOST_BLOCK * (1 + <uint64_t> number))

    def begin(self, uint32_t cpus, bint threaded, bint exact, uint64_t deadline_ns):
        """Fresh run control for so many CPUs.  exact: count the faults of each record; deadline: monotonic."""
        cdef host_head_t *h = self.head
        cdef host_block_t *b
        cdef uint32_t i
        h.size, h.blocks = self.memory.shape[0], self.blocks
        h.records, h.results, h.faults = self.records, self.words, self.faults
        h.error = h.stop = h.go = h.ready = h.finished = 0
        h.barrier_count = h.barrier_gen = h.turn_wake = 0
        h.turn = h.clock_since = h.clock_ns = 0
        h.dead_block = h.dead_signal = h.dead_exit = 0
        h.cpus, h.threaded, h.exact, h.deadline_ns, h.nfiles = cpus, threaded, exact, deadline_ns, 0
        for i in range(self.blocks):
            b = self.block(i)
            memset(b, 0, sizeof(host_block_t))
            b.core = -1

    def file(self, uint64_t pages):
        """One more file, of so many pages; its number, from 1.  Raises ValueError if there are too many."""
        if self.head.nfiles + 1 >= HOST_FILES:
            raise ValueError(f"a program has at most {HOST_FILES - 1} files")
        self.head.nfiles += 1
        self.head.file[self.head.nfiles].pages = pages
        return self.head.nfiles

    def program(self, uint32_t cpu, const unsigned char[::1] records not None, uint64_t first, uint32_t tasks,
                uint64_t seed, int32_t core):
        """A CPU's program, from record `first` on.  seed: of its random numbers; core: pinned to it, or -1."""
        cdef host_block_t *b = self.block(cpu)
        cdef uint64_t count = records.shape[0] // sizeof(shmm_insn_t)
        if first + count > self.capacity:
            raise ValueError(f"the programs have more records than the {self.capacity} that there is room for")
        memcpy(<char *> self.head + self.records + first * sizeof(shmm_insn_t), &records[0], records.shape[0])
        memset(<char *> self.head + self.words + first * 8, 0, count * 8)
        memset(<char *> self.head + self.faults + first * 8, 0, count * 8)
        b.first, b.len, b.task, b.countdown, b.rng, b.core = first, count, cpu, 64, seed, core
        b.reg[14], b.reg[15] = cpu, tasks

    def register(self, uint32_t cpu, uint32_t number, value=None):
        """The value of a CPU's register; or sets it."""
        if number >= SHMM_REGS:
            raise ValueError(f"there is no register {number}")
        if value is not None:
            self.block(cpu).reg[number] = <uint64_t> value
        return self.block(cpu).reg[number]

    def go(self):
        """Lets the threads begin."""
        host_put(&self.head.go, 1)
        host_wake(&self.head.go)

    def stop(self):
        """Asks every CPU to stop."""
        host_put(&self.head.stop, 1)

    @property
    def ready(self):
        """How many threads wait for go()."""
        return host_get(&self.head.ready)

    @property
    def finished(self):
        """How many threads have ended."""
        return host_get(&self.head.finished)

    @property
    def status(self):
        """One of STATUSES."""
        return STATUSES[min(<size_t> host_get(&self.head.status), <size_t> len(STATUSES) - 1)]

    @property
    def error(self):
        """The errno of status "refused"."""
        return self.head.error

    @property
    def running(self):
        """The number of the address space that the CPU is in; 0: none."""
        return self.head.running

    @property
    def dead(self):
        """Of the process that died: address space, signal, exit status."""
        return self.head.dead_block, self.head.dead_signal, self.head.dead_exit

    @property
    def clock(self):
        """The programs' own clock: ns so far, and since when (monotonic) it runs, 0 if it stands."""
        return host_peek(&self.head.clock_ns), host_peek(&self.head.clock_since)

    def pid(self, uint32_t number):
        """The process of an address space (with threads: of block 0), 0 if there is none."""
        return self.block(number).pid

    def ops(self, uint32_t cpu):
        """What a CPU has counted so far."""
        return host_peek(&self.block(cpu).ops)

    def cpu(self, uint32_t cpu):
        """What there is to know of a CPU's program: a dict."""
        cdef host_block_t *b = self.block(cpu)
        return {
            "outcome": OUTCOMES[min(<size_t> b.outcome, <size_t> 2)], "pc": b.at, "op": b.doing, "ops": b.ops,
            "begun_ns": b.begun_ns, "ended_ns": b.ended_ns, "failed_pc": <int64_t> b.failed_pc - 1,
            "failed_result": b.failed_result, "failed_expect": b.failed_expect,
            "registers": tuple([b.reg[i] for i in range(SHMM_REGS)]),
            "counters": {name: b.counter[i] for i, name in enumerate(COUNTERS)},
        }

    def results(self, uint32_t cpu):
        """The result words of a CPU's records, and beside them the faults of each, if counted, with the byte that it
        loaded from bit 48 on: int64 each."""
        cdef host_block_t *b = self.block(cpu)
        cdef char *base = <char *> self.head
        cdef uint64_t first = min(b.first, self.capacity)
        cdef uint64_t end = first + min(b.len, self.capacity - first)
        return (base[self.words + first * 8: self.words + end * 8],
                base[self.faults + first * 8: self.faults + end * 8])
