"""The speculative fault, step by step: what makes each of its checks fail, and what the writers owe it.

The counting engine traps an access of one CPU and lets another act there (test_rooms_interleavings.py tries all
moments; here are the ones that have a name)."""

import errno

import pytest
from rooms.crew import counter
from rooms.world import (
    ANON_FIXED,
    ARENA,
    DONTNEED,
    LOADS,
    PAGE,
    PAGES,
    POLICIES,
    READ,
    RMW,
    RW,
    STORES,
    World,
    world_of,
)

from shmm.layout import COUNTERS

pytest_plugins = ("engines",)

ELSEWHERE = ARENA + 64 * PAGE
SEGV = (-errno.EFAULT, ARENA + PAGE)
SPF = [name for name in POLICIES if name != "mmap_lock"]
ABORTS = [name for name in COUNTERS if name.startswith("SPF_ABORT")]


@pytest.fixture(params=SPF)
def world(request, count):
    with world_of(count, request.param) as made:
        yield made


def aborts(world: World) -> dict[str, int]:
    """The reasons for which speculation gave up, in the fault under test: the set-up has faults of its own."""
    return {name: counter(world.segment, name) - world.before[name] for name in ABORTS
            if counter(world.segment, name) != world.before[name]}


def faulting(world: World, *traps: tuple) -> object:
    """CPU a stores to page 1; traps: (action, kinds, skip, address), each set when the one before has sprung."""
    world.before = {name: counter(world.segment, name) for name in ABORTS}
    chain = list(traps)

    def set_next() -> None:
        if chain:
            action, kinds, skip, address = chain.pop(0)
            world.count.trap(lambda: (action(), set_next()), kinds, skip, address, 4)

    set_next()
    result = world.a.write(ARENA + PAGE, b"A")
    assert world.count.disarm() or not traps, "the fault was over before the trap"
    return result


def seq(world: World) -> int:
    return world.address("mm", 1, "mmap_seq")


def ptl(world: World) -> int:
    return world.address("frame", world.entry(1)[0], "ptl")


def pmd(world: World) -> int:
    table, index = world.entry(2)
    return int(world.segment.view("memory")[table:].ctypes.data) + 8 * index


# ---- what makes it give up --------------------------------------------------------------------------------------


def test_it_succeeds_if_nobody_interferes(world):
    assert faulting(world) is None
    assert aborts(world) == {}
    assert world.finish()[0][1] == b"A" + bytes(7)


@pytest.mark.parametrize("load, reason", [
    (0, ""), (1, "SPF_ABORT_VMA_COPY"), (2, "SPF_ABORT_PTE_MAP_LOCK_SEQ1"), (3, "SPF_ABORT_PTE_MAP_LOCK_SEQ2"),
])
def test_each_look_at_mmap_seq_notices_a_writer(world, load, reason):
    """The first look notices nothing: the writer is done when it comes."""
    def write() -> None:
        assert world.b.mmap(ELSEWHERE, PAGE, READ, ANON_FIXED) == ELSEWHERE

    assert faulting(world, (write, LOADS, load, seq(world))) is None
    assert aborts(world) == ({reason: 1} if reason else {})
    assert world.finish()[0][1] == b"A" + bytes(7)


@pytest.mark.parametrize("call, result", [("munmap", SEGV), ("mprotect", SEGV), ("mmap", None)])
def test_SEQ2_a_writer_that_was_here_before_the_ptl_is_noticed_under_it(world, call, result):
    """Without this check the page would be put into an unmapped, sealed or replaced mapping."""
    arguments = {"munmap": (), "mprotect": (READ,), "mmap": (RW, ANON_FIXED)}[call]

    def write() -> None:
        assert getattr(world.b, call)(ARENA + PAGE, PAGE, *arguments) >= 0

    assert faulting(world, (write, RMW, 0, ptl(world))) == result
    assert aborts(world) == {"SPF_ABORT_PTE_MAP_LOCK_SEQ2": 1}
    world.finish()


def test_ODD_a_writer_at_work(world):
    mm = world.segment.view("mm")
    mm["mmap_seq"][1] += 1
    assert faulting(world) is None
    mm["mmap_seq"][1] += 1
    assert aborts(world) == {"SPF_ABORT_ODD": 1}


def test_PTL_a_lock_that_is_held_is_not_waited_for(world):
    lock, frames = world.entry(1)[0], world.segment.view("frame")

    def hold() -> None:
        frames["ptl"]["owner"][lock] = 99

    def release() -> None:                              # the classical fault has begun
        frames["ptl"]["owner"][lock] = 0

    down_read = world.address("mm", 1, "mmap_lock")
    assert faulting(world, (hold, LOADS, 0, ptl(world)), (release, RMW, 0, down_read)) is None
    assert aborts(world) == {"SPF_ABORT_PTE_MAP_LOCK_PTL": 1}
    world.finish()


def test_PMD_another_table_than_the_one_walked(world):
    where, there = world.entry(2), int(world.entries[world.entry(2)])

    def collapse() -> None:                             # what a huge page would do, under the lock for read
        world.entries[where] = 0

    def restore() -> None:                              # the classical fault has begun
        world.entries[where] = there

    down_read = world.address("mm", 1, "mmap_lock")
    assert faulting(world, (collapse, LOADS, 2, seq(world)), (restore, RMW, 0, down_read)) is None
    assert aborts(world) == {"SPF_ABORT_PTE_MAP_LOCK_PMD": 1}
    world.finish()


@pytest.mark.parametrize("where, length, prot, reason", [
    (0, 0, 0, "SPF_ABORT_UNMAPPED"),
    (0, PAGE, READ, "SPF_ABORT_ACCESS_ERROR"),
    (0, PAGE, RW, "SPF_ABORT_ANON_VMA"),
    (2 << 20, PAGE, RW, "SPF_ABORT_PMD"),
    (1 << 30, PAGE, RW, "SPF_ABORT_PUD"),
    (1 << 39, PAGE, RW, "SPF_ABORT_PUD"),
])
def test_what_it_does_not_try(world, where, length, prot, reason):
    before = {name: counter(world.segment, name) for name in ABORTS}
    addr = ELSEWHERE + where
    if length:
        assert world.a.mmap(addr, length, prot, ANON_FIXED) == addr
    assert (world.a.write(addr, b"x") is None) == (prot == RW)
    assert {name for name in ABORTS if counter(world.segment, name) != before[name]} == {reason}


def test_it_does_not_try_files_nor_for_a_single_user(world):
    before = counter(world.segment, "SPF_ABORT_NO_SPECULATE")
    file = world.a.file_new(1)
    assert world.a.mmap(ELSEWHERE, PAGE, RW, 0x11, file) == ELSEWHERE
    assert world.a.write(ELSEWHERE, b"x") is None
    assert counter(world.segment, "SPF_ABORT_NO_SPECULATE") == before + 1
    attempts = counter(world.segment, "spf_attempt")
    world.b.exit()
    assert world.a.write(ARENA + PAGE, b"x") is None
    assert counter(world.segment, "spf_attempt") == attempts


# ---- what writers owe it: flush, then free ------------------------------------------------------------------------


@pytest.mark.parametrize("call, arguments", [("munmap", ()), ("mmap", (RW, ANON_FIXED)), ("madvise", (DONTNEED,))])
def test_G3_a_frame_is_freed_after_its_translations_are_gone(world, call, arguments):
    assert world.b.write(ARENA + PAGE, b"B") is None                # in b's TLB too
    pte = world.entry(1, 1)
    pfn = int(world.entries[pte]) >> 12 & 0xFFFFFFFFFF
    told = []

    def posted() -> None:
        assert world.entries[pte] == 0                              # before the flush: none can be cached anew
        told.append("posted")
        world.count.trap(freed, STORES | RMW, 0, world.address("frame", pfn, "refs"), 12)     # refs, kind, gen

    def freed() -> None:
        assert world.segment.view("cpu")["ipi_req"][1] != 0
        assert world.segment.view("frame")["kind"][pfn] != 0
        told.append("freed")

    world.count.trap(posted, RMW, 0, world.address("cpu", 1, "ipi_req"), 8)
    getattr(world.a, call)(ARENA + PAGE, PAGE, *arguments)
    world.count.disarm()
    assert told == ["posted", "freed"]
    world.finish()


def test_G3_so_is_a_table(world):
    world.a.munmap(ARENA + 9 * PAGE, PAGES * PAGE)
    world.segment.view("cpu")["ipi_req"][1] = 0
    table, upper = world.entry(1)[0], world.entry(2)
    told = []

    def freed() -> None:
        assert world.segment.view("cpu")["ipi_req"][1] != 0
        assert world.entries[upper] == 0
        told.append("freed")

    world.count.trap(freed, STORES, 0, world.address("frame", table, "kind"), 4)
    world.a.munmap(ARENA, PAGES * PAGE)
    deferred = world.segment.view("frame")["kind"][table] != 0
    assert deferred == bool(world.segment.view("seg")["table_free_policy"])
    world.a.rcu_drain()
    world.count.disarm()
    assert told == ["freed"]
