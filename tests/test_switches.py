"""The series' switches: who may speculate, when a VMA is freed, and what frees tables when memory is short."""

import pathlib
import re

import pytest
from rooms.crew import counter, machine

import shmm
from shmm import _fast
from shmm.cluster.check import explore
from shmm.cluster.check.explore import Task
from shmm.machine import Machine

PAGE, RW, ANON, POPULATE, LOCKED = 4096, 3, 0x22, 0x8000, 0x2000


# ---- who may speculate (v2 28/35) --------------------------------------------------------------------------------


def faults(m: Machine) -> tuple[int, int]:
    m.touch(m.mmap(None, 1100 * PAGE, RW, ANON), 1100 * PAGE)
    return m.counters()["spf_attempt"], m.counters()["faults_classic"]


def test_a_single_threaded_program_makes_no_attempt():
    with Machine(cpus=1) as m:
        assert faults(m) == (0, 1100)


def test_unless_it_is_forced_to():
    with Machine(cpus=1, force_speculation=True) as m:
        attempts, classic = faults(m)
        assert attempts == 1100 and classic < 10


def test_a_second_thread_is_what_turns_it_on():
    with Machine(cpus=2) as m:
        assert faults(m)[0] == 1100


@pytest.mark.parametrize("flag", [POPULATE, LOCKED])
def test_faults_of_the_kernel_make_no_attempt(flag):
    with Machine(cpus=2, force_speculation=True) as m:
        at = m.mmap(None, 20 * PAGE, RW, ANON | flag)
        now = m.counters()
        assert (now["spf_attempt"], now["user_faults"], now["pgfault"]) == (0, 0, 20)
        assert m.touch(at, 20 * PAGE) == 0              # it did bring them in, for writing
        assert m.read(at, 1) == b"\x01"


def test_what_is_populated_keeps_its_contents():
    with Machine(cpus=2) as m:
        at = m.mmap(None, 2 * PAGE, RW, ANON)
        m.write(at, b"old")
        fresh = m.mmap(None, 2 * PAGE, 1, ANON | POPULATE)
        assert m.touch(fresh, 2 * PAGE, write=False) == 0
        assert m.read(fresh, 3) == b"\0\0\0"
        assert m.read(at, 3) == b"old"


def test_nothing_counts_SPF_ABORT_FAULT():
    """Only the first posting's path for files did, which looked at the count before it called the file system; v1 and
    v2 declare the counter, and refuse every file before."""
    rooms = pathlib.Path(shmm.__file__).parent
    named = [path for path in rooms.rglob("*.p[xy]*") if re.search(r"SHMM_C_SPF_ABORT_FAULT\b", path.read_text())]
    assert [path.name for path in named] == ["layout.pxd"]


# ---- when a VMA is freed (v2 29/35) ------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "cpus", "deferred"), [
    ("auto", 1, False), ("rcu", 1, True), ("auto", 2, True), ("rcu", 2, True),
])
def test_a_lone_cpu_frees_vmas_at_once_unless_told_otherwise(policy, cpus, deferred):
    with machine(cpus=2, vma_free=policy) as segment:
        run = [_fast.Cpu(segment.address, n) for n in range(cpus)]
        assert run[0].exec(1) == 0
        for other in run[1:]:
            assert other.attach(1) == 0
        at = run[0].mmap(0, 3 * PAGE, RW, ANON)
        assert run[0].munmap(at + PAGE, PAGE) == run[0].munmap(at, 3 * PAGE) == 0
        run[0].rcu_drain()
        assert counter(segment, "rcu_callbacks") == (3 if deferred else 0)
        for cpu in run:
            cpu.exit()
        _fast.settle(segment.address)
        assert _fast.check(segment.address) == []
        assert segment.view("seg")["vma_pool"]["free"] == len(segment.view("vma")) - 1


# ---- tables without a batch page ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "broken"), [("rcu", True), ("both", False)])
@pytest.mark.parametrize("scenario", ["table_free_walk", "upper_tables_free"])
def test_an_interrupt_is_enough_for_walks_with_interrupts_off_only(scenario, variant, broken):
    run = explore.run(Task(scenario, variant=variant, mutant="TABLE_FREE_FALLBACK"))
    assert run["exhausted"] is not broken
    assert (run["violation"] or {}).get("invariant") == ("poison" if broken else None)


# ---- the copy that comes back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mutant", "lost"), [("VMA_MEMCMP", False), ("SEQ_BOTH", False), ("COW_ABA", True)])
def test_a_store_is_lost_only_without_the_count_and_without_the_reference(mutant, lost):
    run = explore.run(Task("cow_aba_fork", mutant=mutant, bound=1))
    assert (run["violation"] or {}).get("invariant") == ("not-sequential" if lost else None)
