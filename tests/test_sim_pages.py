"""The contents of pages: the sim engine keeps hardly any of them, and a program cannot tell.

The native engine, its CPUs threads of this process, is the judge; what a program should find is in a dictionary."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import config, costs, fine, job, seats, simulated

from shmm import _fast, _sim
from shmm.cluster import simulate
from shmm.cluster.config import Config, Job
from shmm.cluster.simulate.structures import structure_map
from shmm.cluster.workloads import ANON, DONTNEED, FIXED, PAGE, RW, SHARED, Program
from shmm.segment import Geometry, Segment

ARENA = 0x1000_0000_0000
PAGES = 4
OFFSETS = (0, 100, PAGE - 1)
SCHEMES = ["mmap_lock", "spf"]
Step = tuple[Any, ...]


class Story:
    """Programs of two CPUs that take turns: each step is one record of one of them, then both meet."""

    def __init__(self) -> None:
        self.programs = [Program(), Program()]
        self.pages: list[dict[tuple[int, int], int]] = [{}]     # of the address space, and of the child that CPU 1 runs
        self.alone(0, "mmap", ARENA, PAGES * PAGE, RW, ANON | FIXED)

    def alone(self, cpu: int, what: str, *words: Any, **more: Any) -> None:
        """One CPU does it while the other waits."""
        getattr(self.programs[cpu], what)(*words, **more)
        for program in self.programs:
            program.barrier()

    def tell(self, steps: list[Step]) -> list[Program]:
        """The programs of all steps, CPU 1 back where it began."""
        for name, *words in steps:
            getattr(self, name)(*words)
        if len(self.pages) > 1:
            self.fork()
        return self.programs

    def seen_by(self, cpu: int) -> dict[tuple[int, int], int]:
        """(page, offset) -> byte, of the address space that it runs."""
        return self.pages[-1 if cpu else 0]

    def store(self, cpu: int, page: int, offset: int, value: int) -> None:
        """A byte."""
        self.alone(cpu, "store", ARENA + page * PAGE + offset, value)
        self.seen_by(cpu)[page, offset] = value

    def load(self, cpu: int, page: int, offset: int) -> None:
        """The byte that was stored there last, or 0."""
        expect = self.seen_by(cpu).get((page, offset), 0)
        self.alone(cpu, "load", ARENA + page * PAGE + offset, expect=expect)

    def drop(self, cpu: int, page: int, count: int) -> None:
        """Gives pages back, the mapping stays."""
        count = min(count, PAGES - page)
        self.alone(cpu, "madvise", ARENA + page * PAGE, count * PAGE, DONTNEED)
        self._gone(cpu, page, count)

    def remap(self, cpu: int, page: int, count: int) -> None:
        """Fresh pages in the place of others."""
        count = min(count, PAGES - page)
        self.alone(cpu, "munmap", ARENA + page * PAGE, count * PAGE)
        self.alone(cpu, "mmap", ARENA + page * PAGE, count * PAGE, RW, ANON | FIXED)
        self._gone(cpu, page, count)

    def fork(self) -> None:
        """CPU 1 runs a copy from now on; the second time, what it came from again."""
        if len(self.pages) == 1:
            self.alone(0, "fork", 2)
            self.alone(1, "mm", 2)
            self.pages.append(dict(self.pages[0]))
        else:
            self.alone(1, "mm", 1)
            self.pages.pop()

    def _gone(self, cpu: int, page: int, count: int) -> None:
        seen = self.seen_by(cpu)
        for where in [where for where in seen if page <= where[0] < page + count]:
            del seen[where]


def on_threads(point: Config, work: Job) -> list[int]:
    """The job on the native engine; the result words of all programs, one after the other."""
    with Segment.create(work.geometry(), **point.segment_policy(True)) as memory:
        cpus = [_fast.Cpu(memory.address, cpu) for cpu in range(len(work.programs))]
        records, places, start = memory.view("insn"), memory.view("cpu"), 0
        for cpu, program in enumerate(work.programs):
            records[start : start + len(program)] = program
            places["program_first"][cpu], places["program_len"][cpu] = start, len(program)
            start += len(program)
            assert (cpus[cpu].attach(1) if cpu else cpus[cpu].exec(1)) == 0
        memory.view("seg")["barrier_parties"] = len(cpus)
        run_all(cpus)
        failed, words = places["failed_pc"].tolist(), results(memory, work)
        for executor in cpus:
            executor.rcu_drain()
            executor.exit()
        broken = _fast.check(memory.address)
        del records, places
    assert (failed, broken) == ([0] * len(cpus), [])
    return words


def run_all(cpus: list[_fast.Cpu]) -> None:
    """Their programs, each on a thread."""
    threads = [threading.Thread(target=cpu.run) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def results(memory: Segment, work: Job) -> list[int]:
    """The result words of all programs, one after the other."""
    words, starts = memory.view("result"), memory.view("cpu")["program_first"].tolist()
    return [int(word) for start, program in zip(starts, work.programs, strict=True)
            for word in words[start : start + len(program)]]


def agree(programs: list[Program], scheme: str = "spf", **more: Any) -> None:
    """Both engines find what the programs expect, and take the same faults."""
    work = job(*programs, frames=64, mms=2, regions=8)
    point = config(cpus=len(programs), scheme=scheme, size=PAGE, **more)
    virtual = fine(simulated(point, work, lambda memory: results(memory, work)))
    assert virtual.at_rest == on_threads(point, work)


def story(*steps: Step) -> list[Program]:
    """The programs of these steps."""
    return Story().tell(list(steps))


# ---- stories -------------------------------------------------------------------------------------------------------

page, offset, cpu = st.integers(0, PAGES - 1), st.sampled_from(OFFSETS), st.integers(0, 1)
step = st.one_of(
    st.tuples(st.just("store"), cpu, page, offset, st.integers(0, 255)),
    st.tuples(st.just("load"), cpu, page, offset),
    st.tuples(st.just("drop"), cpu, page, st.integers(1, 3)),
    st.tuples(st.just("remap"), cpu, page, st.integers(1, 3)),
    st.tuples(st.just("fork")),
)


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=100, deadline=None)
@given(steps=st.lists(step, max_size=40))
def test_random_stories_are_told_alike(scheme, steps):
    agree(story(*steps), scheme)


BOTH_BYTES = [("store", 0, 0, 1, 7), ("store", 1, 0, 100, 8)]
STORIES = {
    "what one stores another loads": [("store", 0, 0, 0, 7), ("load", 1, 0, 0), ("store", 1, 0, 0, 8),
                                      ("load", 0, 0, 0)],
    "a page that was only read is zero": [("load", 0, 1, 5), ("load", 1, 1, 5), ("store", 1, 1, 5, 9),
                                          ("load", 0, 1, 5)],
    "two bytes of one page": [*BOTH_BYTES, ("load", 0, 0, 1), ("load", 0, 0, 100), ("load", 0, 0, 0)],
    "zero is a value": [("store", 0, 0, 1, 0), ("store", 0, 0, 2, 5), ("store", 0, 0, 2, 0), ("load", 1, 0, 2)],
    "cleared when dropped": [*BOTH_BYTES, ("drop", 0, 0, 1), ("load", 1, 0, 1), ("load", 0, 0, 100)],
    "cleared when unmapped": [("store", 0, 0, 1, 7), ("remap", 1, 0, 3), ("load", 0, 0, 1), ("store", 0, 0, 2, 3),
                              ("load", 1, 0, 1), ("load", 1, 0, 2)],
    "copied at the first write after a fork": [
        *BOTH_BYTES, ("store", 0, 1, 0, 1), ("fork",), ("load", 1, 0, 1), ("load", 1, 1, 0), ("store", 1, 1, 0, 2),
        ("store", 0, 0, 1, 9), ("load", 1, 0, 1), ("load", 1, 0, 100), ("load", 0, 1, 0), ("load", 1, 1, 0),
        ("load", 0, 0, 100), ("store", 1, 0, 2, 4), ("load", 1, 0, 1), ("load", 1, 0, 100), ("load", 0, 0, 2),
        ("load", 0, 0, 1), ("fork",), ("load", 1, 0, 1), ("load", 1, 1, 0)],
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", STORIES)
def test_a_story_is_told_alike(name, scheme):
    agree(story(*STORIES[name]), scheme)


def test_a_story_that_expects_too_much_fails():
    """The judge can say no."""
    wrong = Story()
    wrong.store(0, 0, 0, 7)
    wrong.pages[0][0, 0] = 8
    wrong.load(1, 0, 0)
    run = simulated(config(cpus=2), job(*wrong.programs)).run
    assert any("(LOAD): the result was 7, expected 8" in message for message in run["violation_messages"])


# ---- frames that were something else -------------------------------------------------------------------------------


def far_and_near(rounds: int) -> Program:
    """Touches memory far apart, which takes three tables each time, gives it back, and then needs as many pages."""
    program = Program()
    with program.repeat(rounds, 3):
        for far in range(4):
            program.mmap(ARENA + (far << 39), PAGE, RW, ANON | FIXED)
            program.store(ARENA + (far << 39), 0xFF)
        for far in range(4):
            program.munmap(ARENA + (far << 39), PAGE)
        program.mmap(0, 64 * PAGE, RW, ANON, dst=1)
        program.lea(2, base=1)
        with program.repeat(64, 4):
            for at in (0, 8, 16, PAGE - 8, PAGE - 1):       # where an entry of a table lies
                program.load(at, base=2, expect=0)
                program.store(at, 0x77, base=2)
            program.lea(2, base=2, value=PAGE)
        program.munmap(0, 64 * PAGE, base=1)
    return program


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_table_that_becomes_a_page_is_zero(scheme, cpus):
    agree([far_and_near(20) for _ in range(cpus)][:1] + [Program() for _ in range(cpus - 1)], scheme,
          force_speculation=True)


def shares(cpu: int) -> Program:
    """Two address spaces and a shared mapping: what the child stores the parent finds."""
    program = Program()
    if cpu == 0:
        program.mmap(ARENA, PAGE, RW, SHARED | 0x20 | FIXED)
        program.store(ARENA + 3, 5)
        program.fork(2)
    program.barrier()
    if cpu == 1:
        program.mm(2)
        program.load(ARENA + 3, expect=5)
        program.store(ARENA + 4, 6)
        program.store(ARENA + 3, 7)
    program.barrier()
    if cpu == 0:
        program.load(ARENA + 3, expect=7)
        program.load(ARENA + 4, expect=6)
    program.barrier()
    return program


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_shared_page_is_one(scheme):
    agree([shares(0), shares(1)], scheme)


# ---- bytes that Python moves ---------------------------------------------------------------------------------------


@pytest.fixture
def running() -> Iterator[simulate.Simulated]:
    """A simulation whose one program adds to what it finds."""
    program = Program()
    program.load(ARENA, expect=ord("s"))
    program.load(ARENA + PAGE, expect=ord("!"))
    program.store(ARENA + 1, ord("H"))
    program.store(ARENA + 2 * PAGE, ord("z"))
    point = config(cpus=1)
    with simulate.Simulated(point, job(program), simulate.machine_of(point), 1) as out:
        yield out


def test_python_and_programs_see_the_same_bytes(running):
    cpu = running.executors[0]
    assert cpu.mmap(ARENA, 3 * PAGE, RW, ANON | FIXED) == ARENA
    assert cpu.write(ARENA, b"shmm") is None
    assert cpu.write(ARENA + PAGE - 1, b"?!") is None
    found = running.run()
    assert found["results"] == [0]
    assert cpu.read(ARENA, 4) == b"sHmm"
    assert cpu.read(ARENA + PAGE - 1, 2) == b"?!"
    assert cpu.read(ARENA + 2 * PAGE, 2) == b"z\0"
    assert cpu.touch(ARENA, 3 * PAGE) == 0
    assert cpu.munmap(ARENA, 3 * PAGE) == 0
    assert running.measurement(found).violations == ()


def test_without_a_simulation_a_page_is_simply_memory():
    with Segment.private(Geometry.for_run(1, 64)) as memory:
        cpu = _sim.Cpu(memory.address, 0)
        assert cpu.exec(1) == 0 and cpu.mmap(ARENA, 2 * PAGE, RW, ANON | FIXED) == ARENA
        assert cpu.write(ARENA, b"shmm") is None
        assert cpu.touch(ARENA + PAGE, PAGE) == 1
        assert cpu.read(ARENA, 4) == b"shmm" and cpu.read(ARENA + PAGE, 1) == b"\1"
        with _sim.Simulation(memory.address, costs(), seats(), structure_map(memory)):
            pass
        assert cpu.read(ARENA, 4) == b"shmm"
        assert cpu.exit() == 0
