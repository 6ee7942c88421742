"""Lookahead: letting hits run ahead of the others saves time on the host, and changes no result.

Throughput with lookahead is compared with --exact, over seeds, for both schemes, with and without writers that come and
go; lookahead that is longer than a line takes to move must be found out."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any, NamedTuple

import pytest
from simulated import config

from shmm.cluster import simulate, topology
from shmm.cluster.config import Job
from shmm.cluster.crew import never
from shmm.cluster.pool import run_all
from shmm.cluster.simulate import costs
from shmm.cluster.workloads import ANON, PAGE, RW, Program

SCHEMES = ("mmap_lock", "spf")
SEEDS = 6
ABSURD = 20_000_000                 # ps: many times what a line takes from one core to another
MOST = 0.02                         # off, beyond twice what the seeds scatter
REST = 1000                         # loads between two of a writer's calls: some 20 us
FOUR = "skylake-client-4"           # eight CPUs are all of it, siblings included


class Case(NamedTuple):
    """What the CPUs do."""

    workload: str
    cpus: int
    scheme: str
    writers: int = 0                # so many of them map and unmap instead
    seconds: float = 0.008
    machine: str = "skylake-2x28"

    def __str__(self) -> str:
        return f"{self.workload}-{self.cpus}-{self.scheme}-{self.writers}"


class Task(NamedTuple):
    """One simulation of a case."""

    case: Case
    how: str                        # ahead, exact or absurd
    seed: int


CASES = [
    *[Case("page_fault1", 16, scheme, writers) for scheme in SCHEMES for writers in (0, 1)],
    *[Case("page_fault1", 16, scheme, 4, seconds=0.006) for scheme in SCHEMES],
    *[Case("pft", cpus, scheme, seconds=0.004) for scheme in SCHEMES for cpus in (16, 64)],
    *[Case(workload, 8, "spf", machine=FOUR) for workload in ("page_fault1", "pft")],
    Case("page_fault1", 8, "mmap_lock", machine=FOUR),
    Case("page_fault1", 64, "spf", 4),
]
TELLING = [case for case in CASES if case.cpus == 16 and case.scheme == "spf" and case.workload == "page_fault1"]


def writer() -> Program:
    """Maps and unmaps, and works a while on its own page."""
    program = Program()
    program.mmap(0, PAGE, RW, ANON, dst=2)
    program.store(0, base=2)
    with program.forever():
        program.mmap(0, 64 * PAGE, RW, ANON, dst=1)
        program.munmap(0, 64 * PAGE, base=1)
        program.touch(0, REST, 0, base=2, write=False, ops=False)
    return program


def job_of(point: Any, writers: int) -> Job:
    """The workload's job, the last tasks replaced."""
    job = simulate.job_for(point)
    programs = [*job.programs[: len(job.programs) - writers], *[writer().array()] * writers]
    return dataclasses.replace(job, programs=programs)


def work(task: Task, tell: Any) -> float:
    """Operations per virtual second."""
    case = task.case
    point = config(workload=case.workload, cpus=case.cpus, scheme=case.scheme, machine=case.machine,
                   seconds=case.seconds, seed=task.seed, exact=task.how == "exact")
    found = costs.lookahead
    if task.how == "absurd":
        costs.lookahead = lambda *_: ABSURD
    try:
        run = simulate.run_point(point, job_of(point, case.writers))
    finally:
        costs.lookahead = found
    assert run["violations"] == run["frames_leaked"] == 0
    return float(run["ops_per_s"])


@pytest.fixture(scope="module")
def rates() -> dict[tuple[Case, str], list[float]]:
    """Each case's throughput for each way and seed, all simulated side by side."""
    wanted = [(how, case) for how in ("exact", "ahead", "absurd") for case in (TELLING if how == "absurd" else CASES)]
    tasks = [Task(case, how, seed) for how, case in wanted for seed in range(1, SEEDS + 1)]
    done = run_all(tasks, work, topology.usable_cores(), interrupted=never, notice=lambda *_: None, name=str)
    out: dict[tuple[Case, str], list[float]] = {}
    for task, rate in zip(tasks, done, strict=True):
        out.setdefault((task.case, task.how), []).append(rate)
    return out


def off(rates: dict[tuple[Case, str], list[float]], case: Case, how: str) -> tuple[float, float]:
    """How far from exact a way is on average, and the standard error of that, both as shares."""
    exact, other = rates[case, "exact"], rates[case, how]
    scatter = sum(statistics.variance(each) / statistics.mean(each) ** 2 / len(each) for each in (exact, other)) ** 0.5
    return abs(statistics.mean(other) / statistics.mean(exact) - 1), scatter


@pytest.mark.parametrize("case", CASES, ids=str)
def test_running_ahead_changes_no_throughput(rates, case):
    difference, scatter = off(rates, case, "ahead")
    assert difference < MOST + 2 * scatter, f"{difference:.1%} off, +- {scatter:.1%}"
    assert scatter < 0.03 or case.cpus == 64, "the seeds scatter so much that nothing is shown"


@pytest.mark.parametrize("case", TELLING, ids=str)
def test_running_too_far_ahead_is_found_out(rates, case):
    difference, scatter = off(rates, case, "absurd")
    assert difference > 2 * MOST + 2 * scatter, f"only {difference:.1%} off, +- {scatter:.1%}"
