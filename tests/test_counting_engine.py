"""A second engine is a second thin .pyx with another macro: the same rooms, every access counted.

The figures are those of the protocol's source, not of a machine: how many loads, stores, read-modify-writes and fences
one operation does.  They change whenever a room on the fault path does; that is what they are for.  If the change is
meant, run this file and take the new numbers from the failure."""

import pytest
from rooms.crew import machine
from rooms.world import POLICIES

from shmm import _fast
from shmm.layout import COUNTERS, DTYPES
from shmm.program import Program

pytest_plugins = ("engines",)

PAGE, RW, READ, ANON, FIXED, DONTNEED = 4096, 3, 1, 0x22, 0x10, 4
ARENA = 0x2000_0000_0000

# One store to an untouched page, its page table there, no batch empty or full, nobody else about.
# RMW: the instruction's beginning twice, the ptl, and then down_read and up_read, or interrupts off for two walks.
GOLDEN = {
    "mmap_lock": "LD_PLAIN=25 ST_PLAIN=14 LD_RELAXED=29 LD_ACQUIRE=18 ST_RELAXED=10 ST_RELEASE=4 RMW=5",
    "spf irq": "LD_PLAIN=31 ST_PLAIN=20 LD_RELAXED=44 LD_ACQUIRE=13 ST_RELAXED=11 ST_RELEASE=6 RMW=5 FENCE=4",
    "spf rcu": "LD_PLAIN=31 ST_PLAIN=20 LD_RELAXED=36 LD_ACQUIRE=13 ST_RELAXED=11 ST_RELEASE=4 RMW=3 FENCE=4",
}


@pytest.fixture(params=POLICIES)
def policy(request):
    return request.param


def warm_store(count, segment):
    """figures() of a store that takes one fault, and no other surprise; accesses to mmap_lock's line apart."""
    cpu = count.Cpu(segment.address, 0)
    assert cpu.exec(1) == 0
    addr = cpu.mmap(ARENA, 64 * PAGE, RW, ANON)
    assert cpu.touch(addr, PAGE) == 1                   # the tables, the anon_vma, the batches
    before = segment.view("cpu")["counter"][0].copy()
    mm = segment.view("mm")
    count.reset(mm[1:].ctypes.data + DTYPES["mm_t"].fields["mmap_lock"][1], 64)
    faults, *figures = count.store(cpu, addr + PAGE)
    assert faults == 1
    changed = segment.view("cpu")["counter"][0] - before
    return dict(zip(COUNTERS, changed.tolist(), strict=True)), *figures


def test_a_warm_fault_costs_what_it_costs(count, policy):
    with machine(**{"scheme": "spf", "force_speculation": 1, **POLICIES[policy]}) as segment:
        counters, kinds, _, cleared = warm_store(count, segment)
    assert cleared == PAGE
    assert counters["user_faults"] == counters["pgfault"] == counters["pgalloc"] == 1
    assert " ".join(f"{kind}={n}" for kind, n in kinds.items()) == GOLDEN[policy]


def test_only_the_classical_fault_writes_the_line_of_mmap_lock(count, policy):
    with machine(**{"scheme": "spf", "force_speculation": 1, **POLICIES[policy]}) as segment:
        counters, _, line, _ = warm_store(count, segment)
    if policy != "mmap_lock":
        assert counters["spf_success"] == 1 and counters["faults_classic"] == 0
        assert set(line) == {"LD_RELAXED"}              # mmap_seq, read and nothing else
    else:
        assert counters["rwsem_read_fast"] == counters["faults_classic"] == 1
        assert line == {"RMW": 2, "LD_RELAXED": 1}      # down_read and up_read, and a look at mmap_seq if --paranoid


def test_a_fault_on_a_page_in_the_tlb_is_none(count):
    with machine() as segment:
        cpu = count.Cpu(segment.address, 0)
        cpu.exec(1)
        addr = cpu.mmap(ARENA, PAGE, RW, ANON)
        cpu.touch(addr, PAGE)
        faults, kinds, _, cleared = count.store(cpu, addr)
    assert (faults, cleared) == (0, 0)
    assert kinds["RMW"] == 1                            # the barrier with which an instruction begins
    assert "FENCE" not in kinds


def test_C_D_every_entry_is_announced_by_a_full_barrier(count):
    """On x86 hardly any race shows when it is missing."""
    willneed = 3
    with machine() as segment:
        cpu = count.Cpu(segment.address, 0)
        cpu.exec(1)
        addr = cpu.mmap(ARENA, PAGE, RW, ANON)
        count.reset(segment.view("cpu").ctypes.data + DTYPES["cpu_t"].fields["state"][1], 8)
        cpu.madvise(addr, PAGE, willneed)
        _, state, _ = count.figures()
    assert state["RMW"] == 3                            # waking up, entering the kernel, going to sleep
    assert state["ST_RELEASE"] == 1                     # leaving it


@pytest.mark.parametrize("queued", [0, 1, 2])
def test_a_spinlock_that_nobody_else_wants_costs_one_swap_and_one_store(count, queued):
    """And a look whether somebody stands in line, if nobody who does may be overtaken."""
    with machine(queued_spinlocks=queued) as segment:
        cpu = count.Cpu(segment.address, 0)
        assert cpu.exec(1) == 0
        addr = cpu.mmap(ARENA, PAGE, RW, ANON)
        cpu.touch(addr, PAGE)
        frame = segment.view("frame")
        (table,) = (frame["level"] == 1).nonzero()[0]
        count.reset(frame[table:].ctypes.data + frame.dtype.fields["ptl"][1], 8)
        assert cpu.madvise(addr, PAGE, DONTNEED) == 0
        _, lock, _ = count.figures()
        assert lock == {"RMW": 1, "ST_RELEASE": 1} | ({"LD_RELAXED": 1} if queued == 2 else {})


# ---- the same results ------------------------------------------------------------------------------------------


def program() -> Program:
    """Something of everything that one CPU can do alone."""
    p = Program()
    p.mmap(0, 80 * PAGE, RW, ANON, dst=1)
    with p.repeat(20, reg=2):
        p.rand(3, 60, PAGE)
        p.lea(3, base=3, add_reg=1)
        p.touch(0, 12, base=3)
        p.munmap(PAGE, 3 * PAGE, base=3)
        p.mmap(0, 5 * PAGE, RW, ANON | FIXED, base=3)
        p.mprotect(2 * PAGE, 2 * PAGE, READ, base=3)
        p.store(2 * PAGE, base=3, may_fail=True)
        p.probe(2 * PAGE, base=3)
        p.mprotect(2 * PAGE, 2 * PAGE, RW, base=3)
        p.madvise(0, 4 * PAGE, DONTNEED, base=3)
        p.touch(0, 6, base=3, write=False)
    p.brk(0, dst=4)
    p.brk(9 * PAGE, base=4)
    p.touch(0, 9, base=4)
    p.fork(2)
    p.touch(0, 5, base=1, may_fail=True)
    p.mm(2)
    p.touch(0, 5, base=1, may_fail=True)
    return p


def run(engine, segment) -> tuple[int, bytes]:
    """Runs the program on CPU 0, with CPU 1 for a bystander; all of the segment afterwards."""
    records = program().array()
    segment.view("insn")[: len(records)] = records
    segment.view("cpu")["program_len"][0] = len(records)
    cpu, other = (engine.Cpu(segment.address, n) for n in (0, 1))
    assert cpu.exec(1) == other.attach(1) == 0
    ended = cpu.run()
    segment.view("cpu")["shootdown_hist"] = 0           # time is another on each engine
    assert engine.check(segment.address) == []
    return ended, bytes(segment.view("seg")) + b"".join(
        segment.view(name).tobytes()
        for name in ("cpu", "mm", "vma", "anon", "file", "cache", "frame", "insn", "result", "memory"))


def test_both_engines_do_the_same(count, policy):
    ends = []
    for engine in (_fast, count):
        with machine(**{"cpus": 2, "scheme": "spf", **POLICIES[policy]}) as segment:
            ends.append(run(engine, segment))
            counters = dict(zip(COUNTERS, segment.view("cpu")["counter"][0].tolist(), strict=True))
    assert ends[0][0] == ends[1][0] == 0
    assert ends[0][1] == ends[1][1]                     # byte by byte: results, counters, tables, contents
    assert counters["pgfault"] > 100 and counters["nr_tlb_remote_flush"] > 20 and counters["pgcopy"] > 0
    assert (counters["spf_success"] > 100) == (policy != "mmap_lock")
