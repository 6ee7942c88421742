"""Two engines, one protocol: what the native engine counts and what the sim engine counts is the same.

In turns, where tasks do their rounds one after the other, all of it; side by side, all that does not depend on who is
faster."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from simulated import MACHINE, config, fine, simulated

from shmm.cluster import replay, workloads
from shmm.cluster.config import Config, Job
from shmm.cluster.launch import run_point
from shmm.cluster.replay.presence import FAULTS
from shmm.cluster.replay.trace import read
from shmm.cluster.simulate import programs
from shmm.cluster.sizing import job_for
from shmm.layout import COUNTERS
from shmm.maps import areas
from shmm.program import INSN, OP

CPUS, ROUNDS = 2, 3
ROUND = 13                          # a register that no workload uses
SIZE = 2 << 20                      # a page table each, so that no two slices share one
TRACES = Path(__file__).parent / "traces"
SCHEMES = ["mmap_lock", "spf"]

# Counters that depend on time, and why.
ARRIVALS = {                        # even in turns
    "nr_tlb_remote_flush_received",  # requests that a sleeper finds when it wakes are one, and native sleepers look up
    "shootdown_waits",              # and a native sleeper that looks up may have its interrupts off just then
}
WAITS = {                           # side by side, here and below
    # who finds the mmap_lock taken, and whether it spins or sleeps until it is free
    "rwsem_read_fast", "rwsem_read_slow", "rwsem_read_sleep", "rwsem_write_fast", "rwsem_write_slow",
    "rwsem_write_spin", "rwsem_write_sleep", "rwsem_handoff",
    "ptl_contended",                # the same for a page table's lock,
    *(name for name in COUNTERS if name.startswith("spinlock_")),       # and for any
}
LATER = {                           # what is done every so often, by whoever looks at the time
    "rcu_grace_periods", "rcu_callbacks", "rcu_backpressure",
}
ORDER = {
    # which of two tasks is the first in a stretch of memory that both use: it makes the tables; of two that make the
    # same one, the second gives its own back; and what lies in memory beside a task's mapping decides how many
    # levels of tables go when it is unmapped
    "pgalloc", "pgfree", "nr_page_table_pages",
    "zone_refill", "zone_drain",    # follow from those: batches of frames
    # a writer at the same time sends a speculation away, and the fault is taken under the lock, counted once more
    "pgfault", "faults_classic", "spf_abort", "spf_success", "SPF_ABORT_ODD", "SPF_ABORT_VMA_COPY",
    "SPF_ABORT_PTE_MAP_LOCK_SEQ1", "SPF_ABORT_PTE_MAP_LOCK_SEQ2", "SPF_ABORT_PTE_MAP_LOCK_PMD",
    "SPF_ABORT_PTE_MAP_LOCK_PTL",
    # as for the tables: who is first; a mapping that merges with one that has an anon_vma needs none
    "SPF_ABORT_PUD", "SPF_ABORT_PMD", "SPF_ABORT_ANON_VMA",
    "SPF_ABORT_NO_SPECULATE",       # less those that an odd sequence count sends away before the VMA is looked at
    "SPF_ATTEMPT_ANON",             # past the checks in which a writer shows
    "nr_tlb_local_flush_one", "nr_tlb_local_flush_all", "nr_tlb_remote_flush",  # tables that go flush once more
}
SHARED = {                          # where tasks touch the same pages: two that do so at once both fault, and take one
    "user_faults", "spf_attempt", "lru_drain", "charge_refill", "tlb_hit", "tlb_hit_l2", "tlb_miss", "SPF_ATTEMPT_PTE",
    "SPF_ATTEMPT_WP", "pgreuse",        # or the second finds the page when it has the lock
}


def finite(program: NDArray[Any], rounds: int) -> NDArray[Any]:
    """The program with its endless loop run so many times; all of it is measured."""
    program = program.copy()
    program["op"][program["op"] == OP["CLOCK"]] = OP["NOP"]
    found = programs.loop(program)
    if found is None:
        return program
    first, last = found
    jumps = np.isin(program["op"], (OP["JMP"], OP["DJNZ"])) & (program["value"] >= first)
    program["value"][jumps] += 1
    program[last]["op"], program[last]["dst"] = OP["DJNZ"], ROUND
    return np.concatenate([program[:first], record("LEA", dst=ROUND, value=rounds), program[first:]])


def record(op: str, **fields: int) -> NDArray[Any]:
    """One record."""
    out = np.zeros(1, INSN)
    out["op"] = OP[op]
    for name, value in fields.items():
        out[name] = value
    return out


def in_turns(program: NDArray[Any], task: int, rounds: int) -> NDArray[Any]:
    """The same, the loop unrolled, in stretches that end with a round or where the tasks meet; of each stretch the
    tasks do theirs one after the other."""
    found = programs.loop(program)
    first, last = found if found is not None else (len(program) - 1, len(program) - 1)
    stretches = stretches_of(program[:first], 0)
    for _ in range(rounds if found is not None else 0):
        stretches += stretches_of(program[first:last], first)
    barrier, out = record("BARRIER"), []
    for stretch in stretches:
        at = sum(map(len, out)) + task
        stretch["value"][stretch["op"] == OP["DJNZ"]] += at
        out += [barrier] * task + [stretch] + [barrier] * (CPUS - task)
    return np.concatenate([*out, record("END")])


def stretches_of(records: NDArray[Any], first: int) -> list[NDArray[Any]]:
    """The records between the barriers, jumps counted from each one's beginning; first: the number of the first."""
    cuts = [-1, *np.flatnonzero(records["op"] == OP["BARRIER"]), len(records)]
    out = []
    for before, end in pairwise(cuts):
        stretch = records[before + 1 : end].copy()
        stretch["op"][stretch["op"] == OP["CLOCK"]] = OP["NOP"]
        stretch["value"][stretch["op"] == OP["DJNZ"]] -= first + before + 1
        out.append(stretch)
    return out


def points(workload: str, scheme: str) -> tuple[Config, Config]:
    """The same for both engines."""
    size = SIZE if workload.startswith(("page_fault", "pft", "spf_", "tlb_flush1", "tlb_flush3")) else None
    same: dict[str, Any] = {"workload": workload, "scheme": scheme, "cpus": CPUS, "size": size}
    return Config(**same), config(**same)


def mappings(segment) -> list[Any]:
    """What is mapped at rest."""
    return [*areas(segment, 1), int(segment.view("mm")["map_count"][1])]


def both(native: Config, sim: Config, work: Job) -> tuple[dict[str, Any], dict[str, Any], list[Any], list[Any]]:
    """The same job on both engines: the counters, and what was mapped when it was over."""
    seen: list[Any] = []
    on_cores = run_point(native, work, at_rest=lambda segment: seen.extend(mappings(segment)))
    virtual = fine(simulated(sim, work, mappings))
    assert on_cores["violations"] == on_cores["frames_leaked"] == 0, on_cores["violation_messages"]
    assert on_cores["per_cpu_ops"] == virtual.run["per_cpu_ops"]
    assert set(on_cores["counters"]) == set(virtual.run["counters"])
    return on_cores["counters"], virtual.run["counters"], seen, virtual.at_rest


def differences(one: dict[str, int], two: dict[str, int], but: set[str]) -> dict[str, tuple[int, int]]:
    """The counters that differ, except those."""
    return {name: (one[name], two[name]) for name in one if one[name] != two[name] and name not in but}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("workload", workloads.available())
def test_in_turns_both_engines_count_the_same(workload, scheme):
    native, sim = points(workload, scheme)
    named = job_for(sim)
    turns = [in_turns(program, task, ROUNDS) for task, program in enumerate(named.programs)]
    on_cores, virtual, *mapped = both(native, sim, dataclasses.replace(named, programs=turns, finite=True))
    assert differences(on_cores, virtual, ARRIVALS) == {}
    assert mapped[0] == mapped[1]
    assert virtual["mmap"] > 0 and virtual["rwsem_write_slow"] == virtual["rwsem_read_slow"] == 0
    if scheme == "spf" and workload == "pft":
        assert (virtual["SPF_ABORT_PMD"], virtual["SPF_ABORT_PUD"]) == (3, 3)     # each round: the first makes both


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("workload", workloads.available())
def test_side_by_side_both_engines_count_the_same_work(workload, scheme):
    native, sim = points(workload, scheme)
    named = job_for(sim)
    work = dataclasses.replace(named, programs=[finite(program, ROUNDS) for program in named.programs], finite=True)
    on_cores, virtual, *mapped = both(native, sim, work)
    shared = SHARED if workload == "mapbench_global" else set()
    assert differences(on_cores, virtual, ARRIVALS | WAITS | LATER | ORDER | shared) == {}
    for counters in (on_cores, virtual):
        assert counters["spf_attempt"] == counters["spf_success"] + counters["spf_abort"]
        assert counters["faults_classic"] == counters["user_faults"] - counters["spf_success"]
    if workload in ("brk1", "brk2"):        # their tasks move one brk, each from where it found it
        return
    pages = [sum(area.end - area.start for area in each if not isinstance(area, int)) // 4096 for each in mapped]
    assert pages[0] == pages[1] > 0


def test_the_lists_of_exceptions_name_counters():
    lists = (ARRIVALS, WAITS, LATER, ORDER, SHARED)
    assert set(COUNTERS) > set.union(*lists)
    assert sum(map(len, lists)) == len(set.union(*lists))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["threads", "remap", "spawn", "shell", "fixed", "memory"])
def test_a_recorded_program_faults_where_the_model_says(name, scheme):
    """As on the native engine (test_replay.py): a trace, a model of what is present, and an engine."""
    translation = replay.translate(read(TRACES / f"{name}.txt.xz"))
    work = replay.job_of(name, translation)
    point = replay.ReplayConfig(engine="sim", machine=MACHINE, scheme=scheme, cpus=len(work.programs))
    taken = fine(simulated(point, work, lambda segment: replay.result_words(segment, translation.faults))).at_rest
    wanted = [1 if expected == FAULTS else -14 if expected in ("no permission", "not mapped") else 0
              for expected in translation.expected]
    assert taken.tolist() == wanted
    assert len(wanted) > 500
