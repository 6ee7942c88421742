"""Simulations for tests: made-up machines with round figures, jobs of a few programs, and what came of them.

    bench("write", seats(cores=4), cluster=40)          # [(operations, mean ns) of each CPU] on one line
    point = config(cpus=2, figures=(("ipi.deliver", 1e6),))
    outcome = simulated(point, job(one, two))           # its element of "runs", and what a look at rest found
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shmm import _sim
from shmm.cluster import simulate
from shmm.cluster.config import Config, Job
from shmm.cluster.sizing import job_for
from shmm.program import Program
from shmm.segment import Segment

MACHINE = "skylake-2x28"            # two sockets of 28 cores of two threads
PS = 1000                           # per ns
FIGURES = {                         # ns, all so different that a sum tells what is in it
    "hit": 1, "rmw": 5, "fence": 5, "smt": 8, "cluster": 40, "socket": 70, "remote": 130, "memory": 90, "reader": 10,
    "clear": 400, "copy": 700, "channel": 50, "exception": 300, "trap": 200, "syscall": 100, "ipi_send": 80,
    "ipi_deliver": 900, "ipi_handle": 300, "sleep_block": 800, "sleep_wake": 1000, "sleep_resume": 3000, "pause": 40,
}
JITTER = 256                        # of 1024

Seats = list[tuple[int, int, int, int]]


def costs(**ns: float) -> dict[str, int]:
    """The engine's costs, ps: FIGURES but for these; lookahead and retention are 0 unless given, like what is new."""
    known = {name: 0.0 for name in _sim.COSTS} | {k: float(v) for k, v in FIGURES.items()} | ns
    return {name: round(known[name] * PS) for name in _sim.COSTS} | {"jitter": JITTER}


def seats(sockets: int = 1, clusters: int = 1, cores: int = 1, threads: int = 1, slowdown: float = 1.0) -> Seats:
    """Seats of so many sockets of clusters of cores: first threads first, as Machine.seats has them."""
    per_socket = clusters * cores
    return [(core, core // cores, core // per_socket, round(slowdown * 1024))
            for _ in range(threads) for core in range(sockets * per_socket)]


def bench(
    kind: str, where: Seats, *, us: int = 200, burst_us: int = 0, seed: int = 1, **ns: float,
) -> list[tuple[int, float]]:
    """One line for so many virtual us: (operations, mean ns of one) of each CPU.

    burst_us: one operation of each CPU every so many us, all at once; 0: one after the other."""
    done = _sim.line_bench(kind, costs(**ns), where, us * 1000, burst_us * 1000, seed)
    return [(ops, ps / ops / PS) for ops, ps in done]


def mean(cpus: Sequence[tuple[int, float]]) -> float:
    """Mean ns of an operation of all of them."""
    return sum(ops * ns for ops, ns in cpus) / sum(ops for ops, _ in cpus)


class Outcome(NamedTuple):
    """One simulation."""

    run: dict[str, Any]             # its element of "runs"
    found: dict[str, Any]           # what _sim.Simulation.measured() had
    at_rest: Any                    # what the look at the machine at rest returned

    def ns(self, part: str, structure: str | None = None) -> float:
        """A part of the time stack, ns of all CPUs together."""
        return sum(entry["ps"] for entry in self.run["time_stack"]
                   if entry["part"] == part and structure in (None, entry["structure"])) / PS


def config(**changes: Any) -> Config:
    """A point of the sim engine."""
    return Config(**{"engine": "sim", "machine": MACHINE, "size": 1 << 20, "seconds": 0.0005} | changes)


def job(*programs: Program, frames: int = 4096, **settings: Any) -> Job:
    """A job of these programs, which end by themselves."""
    return Job("test", [program.array() for program in programs], frames=frames, finite=True, **settings)


def simulated(
    point: Config, work: Job | None = None, look: Callable[[Segment], Any] = lambda segment: None,
) -> Outcome:
    """Simulates the point once.  look: at the segment when the programs have ended and nothing is torn down yet."""
    work, machine = work or job_for(point), simulate.machine_of(point)
    with simulate.Simulated(point, work, machine, point.seed) as running:
        found = running.run()
        seen = look(running.segment)
        measured = running.measurement(found)
    return Outcome(simulate.entry(point, work, machine, [measured], [found]), found, seen)


def fine(outcome: Outcome) -> Outcome:
    """The same; fails if anything was violated or leaked."""
    assert outcome.run["violations"] == 0, outcome.run["violation_messages"]
    assert outcome.run["frames_leaked"] == 0
    return outcome
