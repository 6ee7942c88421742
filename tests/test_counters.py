"""Every counter moves by a known number: here, or in the test that has the means to make it move."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from mmap import MAP_PRIVATE
from pathlib import Path

import pytest
from rooms.crew import PATIENCE, counter, crew, machine
from rooms.world import ANON_FIXED, ARENA, IRQ_OFF, LOADS, PAGE, RMW, RW, World, world_of

from shmm import FaultError, Machine, _fast
from shmm.layout import COUNTERS

pytest_plugins = ("engines",)

ROOT = Path(__file__).resolve().parents[1]
ANON, READ, DONTNEED = 0x22, 1, 4

# ---- one step after the other, and all that each of them moves -----------------------------------------------------

FAULT = {"user_faults": 1, "pgfault": 1, "tlb_miss": 1}
CLASSIC = FAULT | {"faults_classic": 1, "rwsem_read_fast": 1}
SPECULATIVE = FAULT | {"spf_attempt": 1, "spf_success": 1}
TABLES = {"pgalloc": 4, "nr_page_table_pages": 3, "charge_refill": 1}       # and the page itself
COPY = {"pgalloc": 1, "pgcopy": 1, "nr_tlb_local_flush_one": 1, "nr_tlb_remote_flush": 1}
WP = {"SPF_ATTEMPT_PTE": 1, "SPF_ATTEMPT_WP": 1}
FLUSH_ONE = {"nr_tlb_local_flush_one": 1, "nr_tlb_remote_flush": 1}
WRITER = {"syscalls": 1, "rwsem_write_fast": 1}


def refused(reason: str, entered: bool = False) -> dict[str, int]:
    """A fault that speculation gave up.  entered: handle_mm_fault had begun, and is counted twice."""
    return CLASSIC | {"spf_attempt": 1, "spf_abort": 1, f"SPF_ABORT_{reason}": 1, "pgfault": 1 + entered}


class Story:
    """What two CPUs do to one address space, step by step."""

    def __init__(self, made: Machine) -> None:
        self.machine = made
        self.anon = self.file = self.child = 0

    def map(self) -> None:
        self.anon = self.machine.mmap(None, 1 << 20, RW, ANON)

    def map_file(self) -> None:
        self.file = self.machine.mmap(None, 2 * PAGE, RW, MAP_PRIVATE, file=self.machine.file(1))

    def fork(self) -> None:
        self.child = self.machine.fork()

    def write(self, page: int, cpu: int = 0, file: bool = False) -> None:
        self.machine.write((self.file if file else self.anon) + page * PAGE, b"x", cpu=cpu)

    def read(self, page: int, cpu: int = 0, file: bool = False) -> None:
        self.machine.read((self.file if file else self.anon) + page * PAGE, 1, cpu=cpu)

    def child_runs_on_cpu_1(self) -> None:
        self.machine.attach(self.child, cpu=1)

    def child_ends(self) -> None:
        self.machine.attach(1, cpu=1)


#: (step, what it moves under mmap_lock, what it moves under spf if that is something else)
STEPS: list[tuple[str, Callable[[Story], object], dict[str, int], dict[str, int] | None]] = [
    ("mmap", lambda s: s.map(), WRITER | {"mmap": 1}, None),
    ("the first store makes tables", lambda s: s.write(0), CLASSIC | TABLES, refused("PUD", entered=True) | TABLES),
    ("the same again is in the TLB", lambda s: s.write(0), {"tlb_hit": 1}, None),
    ("a store beside it", lambda s: s.write(1), CLASSIC | {"pgalloc": 1},
     SPECULATIVE | {"pgalloc": 1, "SPF_ATTEMPT_ANON": 1}),
    ("a load finds zeros", lambda s: s.read(2), CLASSIC, SPECULATIVE | {"SPF_ATTEMPT_ANON": 1}),
    ("a store there copies them", lambda s: s.write(2), CLASSIC | COPY | {"tlb_hit": 1, "tlb_miss": 0},
     SPECULATIVE | COPY | WP | {"tlb_hit": 1, "tlb_miss": 0}),
    ("the other CPU", lambda s: s.read(0, cpu=1), {"tlb_miss": 1, "nr_tlb_remote_flush_received": 1}, None),
    ("madvise", lambda s: s.machine.madvise(s.anon + PAGE, PAGE, DONTNEED),
     FLUSH_ONE | {"syscalls": 1, "madvise": 1, "rwsem_read_fast": 1, "pgfree": 1, "lru_drain": 1}, None),
    ("mprotect", lambda s: s.machine.mprotect(s.anon, PAGE, READ), WRITER | FLUSH_ONE | {"mprotect": 1}, None),
    ("a store that is not allowed", lambda s: s.write(0), CLASSIC | {"faults_segv": 1, "pgfault": 0},
     refused("ACCESS_ERROR") | {"faults_segv": 1, "pgfault": 0}),
    ("a store to nowhere", lambda s: s.write(-0x1000), CLASSIC | {"faults_segv": 1, "pgfault": 0},
     refused("UNMAPPED") | {"faults_segv": 1, "pgfault": 0}),
    ("mmap of a file", lambda s: s.map_file(), WRITER | {"mmap": 1}, None),
    ("a load of it", lambda s: s.read(0, file=True), CLASSIC | {"pgalloc": 1},
     refused("NO_SPECULATE") | {"pgalloc": 1}),
    ("a store copies it", lambda s: s.write(0, file=True), CLASSIC | COPY | {"tlb_hit": 1, "tlb_miss": 0},
     refused("NO_SPECULATE") | COPY | {"tlb_hit": 1, "tlb_miss": 0}),
    ("beyond its end", lambda s: s.read(1, file=True), CLASSIC | {"faults_sigbus": 1},
     refused("NO_SPECULATE") | {"faults_sigbus": 1}),
    ("brk", lambda s: s.machine.brk(), WRITER | {"brk": 1}, None),
    ("fork", lambda s: s.fork(), WRITER | {"fork": 1, "pgalloc": 4, "nr_page_table_pages": 4} | {
        "nr_tlb_local_flush_all": 1, "nr_tlb_remote_flush": 1}, None),
    ("a store to a shared page", lambda s: s.write(2), CLASSIC | COPY, SPECULATIVE | COPY | WP),
    ("the child's turn", lambda s: s.child_runs_on_cpu_1(), {"nr_tlb_remote_flush_received": 1}, None),
    ("it is alone with its page", lambda s: s.write(2, cpu=1), CLASSIC | {"pgreuse": 1}, None),     # and is no threads
    ("and ends", lambda s: s.child_ends(), {
        "pgfree": 5, "nr_page_table_pages": -4, "nr_tlb_local_flush_all": 2, "rwsem_write_fast": 1}, None),
    ("munmap", lambda s: s.machine.munmap(s.anon, 1 << 20),
     WRITER | FLUSH_ONE | {"munmap": 1, "pgfree": 2, "lru_drain": 1}, None),
]
NAMED = {name for _, _, one, two in STEPS for moved in (one, two or {}) for name in moved}


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_each_step_moves_what_it_must_and_nothing_else(scheme):
    with Machine(cpus=2, scheme=scheme, memory="8MiB") as made:
        story = Story(made)
        for name, step, classic, speculative in STEPS:
            before = made.counters()
            with suppress(FaultError):
                step(story)
            after = made.counters()
            moved = {key: after[key] - before[key] for key in NAMED if after[key] != before[key]}
            wanted = speculative if scheme == "spf" and speculative is not None else classic
            assert moved == {key: n for key, n in wanted.items() if n}, name
        assert made.check() == []


# ---- what somebody must be in the way of ---------------------------------------------------------------------------


def grown(world: World, *names: str) -> list[int]:
    return [counter(world.segment, name) for name in names]


@pytest.fixture(params=["mmap_lock", "spf irq"])
def world(request, count):
    with world_of(count, request.param) as made:
        yield made


def lock_word(world: World) -> tuple[int, int]:
    """Where mm 1's mmap_lock counts, and how long that is."""
    return world.address("mm", 1, "mmap_lock"), 8


def test_a_page_table_lock_that_is_held_is_waited_for_under_the_mmap_lock(count):
    with world_of(count, "mmap_lock") as world:
        lock, owners = world.entry(1)[0], world.segment.view("frame")["ptl"]

        def hold() -> None:
            owners["owner"][lock] = 99
            world.segment.view("seg")["queued_spinlocks"] = 1
            count.trap(release, LOADS, 2, world.address("frame", lock, "ptl"), 4)

        def release() -> None:
            owners["owner"][lock] = 0

        before = grown(world, "ptl_contended", "spinlock_queued")
        count.trap(hold, LOADS, 0, world.address("frame", lock, "ptl"), 4)
        assert world.a.write(ARENA + PAGE, b"A") is None and count.disarm()
        assert grown(world, "ptl_contended", "spinlock_queued") == [before[0] + 1, before[1] + 1]
        world.finish()


def test_a_writer_spins_for_the_mmap_lock(world):
    lock = world.segment.view("mm")["mmap_lock"]
    names = ("rwsem_write_slow", "rwsem_write_spin", "rwsem_write_sleep", "rwsem_write_fast")
    before = grown(world, *names)
    lock["count"][1] = 1                                # held for writing, by nobody who sleeps

    def release() -> None:
        lock["count"][1] = 0

    world.count.trap(release, LOADS, 0, *lock_word(world))
    assert world.a.mmap(ARENA + 64 * PAGE, PAGE, READ, ANON_FIXED) > 0 and world.count.disarm()
    assert grown(world, *names) == [before[0] + 1, before[1] + 1, before[2], before[3]]
    world.finish()


def test_a_reader_that_comes_late_steals_the_mmap_lock(world):
    """A writer had queued and is gone again: the reader finds the flag of waiters, and nobody."""
    lock = world.segment.view("mm")["mmap_lock"]
    before = grown(world, "rwsem_read_slow", "rwsem_read_sleep")
    lock["count"][1] = 1

    def release() -> None:
        lock["count"][1] -= 1

    world.count.trap(release, RMW, 1, world.address("mm", 1, "mmap_lock"), 64)      # the second is of its wait_lock
    assert world.a.madvise(ARENA, PAGE, DONTNEED) == 0 and world.count.disarm()
    assert grown(world, "rwsem_read_slow", "rwsem_read_sleep") == [before[0] + 1, before[1]]
    world.finish()


def test_a_shootdown_waits_for_a_cpu_with_interrupts_off(world):
    cpus = world.segment.view("cpu")
    before = grown(world, "shootdown_waits", "nr_tlb_remote_flush")
    state = int(cpus["state"][1])
    cpus["state"][1] = state | IRQ_OFF

    def on_again() -> None:
        cpus["state"][1] = state

    world.count.trap(on_again, LOADS, 2, world.address("cpu", 1, "state"), 8)
    assert world.a.madvise(ARENA, PAGE, DONTNEED) == 0 and world.count.disarm()
    assert grown(world, "shootdown_waits", "nr_tlb_remote_flush") == [before[0] + 1, before[1] + 1]
    world.finish()


@pytest.mark.parametrize(("held", "step", "names"), [
    ("write", "unwrite", ("rwsem_read_slow", "rwsem_read_sleep")),
    ("try", "unread", ("rwsem_write_slow", "rwsem_write_sleep", "rwsem_handoff")),
])
def test_who_must_wait_for_the_mmap_lock_sleeps(rooms, held, step, names):
    """A reader until the writer wakes it; a writer, which at last asks for a hand-off, once."""
    with machine(cpus=3, shared_core=1) as segment:
        keeper, sleeper = (rooms.Cpu(segment.address, n) for n in (0, 1))
        assert keeper.exec(1) == sleeper.attach(1) == 0
        assert keeper.mmap(ARENA, PAGE, RW, ANON_FIXED) == ARENA
        before = [counter(segment, name) for name in names]

        def sleep() -> int:
            if held == "write":
                return int(sleeper.madvise(ARENA, PAGE, DONTNEED))
            return int(sleeper.munmap(ARENA, PAGE))

        def release() -> None:
            while any(counter(segment, name) == was for name, was in zip(names, before, strict=True)):
                pass                                    # until each has moved: the crew's patience is the limit
            rooms.rwsem_step(keeper, step)

        rooms.rwsem_step(keeper, held)
        assert crew(sleep, release, patience=PATIENCE)[0] == 0
        slow, slept, *handed = (counter(segment, name) - was for name, was in zip(names, before, strict=True))
        assert (slow, handed) == (1, [1] * len(handed)) and slept >= 1      # once for each look at the lock


# ---- memory and machine ----------------------------------------------------------------------------------------------


def test_a_fault_for_which_there_is_no_memory():
    with Machine(cpus=1, scheme="mmap_lock", memory="64KiB") as made:
        addr = made.mmap(None, 1 << 30, RW, ANON)
        with suppress(OSError, FaultError):
            made.touch(addr, 1 << 30)
        assert made.counters()["faults_oom"] == 1
        made.munmap(addr, 1 << 30)
        made.touch(made.mmap(None, PAGE, RW, ANON), PAGE)
        assert made.counters()["faults_oom"] == 1


def test_what_populating_brings_in_is_no_fault_of_the_user_s():
    with Machine(cpus=1, scheme="mmap_lock", memory="8MiB") as made:
        made.mmap(None, 4 * PAGE, RW, ANON | 0x8000)
        counters = made.counters()
        assert (counters["gup_faults"], counters["user_faults"]) == (4, 0) and counters["pgfault"] == 4


def test_a_notifier_registers_once():
    with Machine(cpus=1, scheme="spf", memory="8MiB", mmu_notifier=True) as made:
        made.notifier()
        assert made.counters()["mmu_notifier_register"] == 1
        made.notifier(False)
        assert made.counters()["mmu_notifier_register"] == 1


def test_paranoia_counts_what_it_finds(count):
    with machine(cpus=1, paranoid=1) as segment:
        cpu = _fast.Cpu(segment.address, 0)
        assert cpu.exec(1) == 0 and cpu.mmap(ARENA, PAGE, RW, ANON_FIXED) == ARENA
        assert cpu.write(ARENA, b"x") is None
        assert counter(segment, "violations") == 0
        segment.view("frame")["gen"][:] += 1            # as if each had been freed and used again
        cpu.read(ARENA, 1)
        assert counter(segment, "violations") == 1


# ---- none is forgotten -----------------------------------------------------------------------------------------------

NEVER = {"reader_beside_writer",        # a mutant alone makes it move: woken_readers
         "SPF_ABORT_FAULT"}             # v1 and v2 declare it; only the file path of the RFC has incremented it
AWAITED = {"SPF_ABORT_USERFAULTFD"}       # nothing here that could make it move

WAITS = {"rwsem_read_slow", "rwsem_read_sleep", "rwsem_write_slow", "rwsem_write_spin", "rwsem_write_sleep",
         "rwsem_handoff", "ptl_contended", "spinlock_queued", "shootdown_waits",       # above, by their variables,
         "gup_fast", "gup_slow"}                # and in test_gup.py
CHANCE = {                              # only somebody at the same moment makes them move
    "rt_lock_sleep",                    # test_preempt_rt.py
    "truncate_raced",                   # truncate_fault.py
    "secondary_retry",                  # the checker's scenarios of notifiers
}


def asserted() -> dict[str, list[str]]:
    """Counters, and the lines of tests that compare them with a number."""
    out: dict[str, list[str]] = {name: [] for name in COUNTERS}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for name in re.findall(r'"(\w+)"', line) if "==" in line and "assert" in line else ():
                if name in out:
                    out[name].append(f"{path.name}:{number}")
    return out


def test_every_counter_is_made_to_move_by_a_known_number():
    known = NAMED | {name for name, lines in asserted().items() if lines} | NEVER | AWAITED | WAITS | CHANCE
    here = set(re.findall(r'"(SPF_\w+)"', (ROOT / "tests" / "test_rooms_spf.py").read_text()))
    assert set(COUNTERS) - known - here == set()


def test_SPF_ABORT_FAULT_stays_zero_because_nothing_counts_it():
    """Declared by the series, incremented by the RFC's file path only, which looked at the sequence count before it
    called the file system's handler.  Without speculation on files there is no such look."""
    text = "\n".join(path.read_text() for path in (ROOT / "shmm").rglob("*.pxd") if path.name != "layout.pxd")
    assert "SHMM_C_SPF_ABORT_FAULT" not in text
    assert "SHMM_C_SPF_ABORT_NO_SPECULATE" in text
