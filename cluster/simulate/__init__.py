"""Runs in virtual time: the programs of a job on the simulated CPUs of a named machine.

    programs.py     where a round begins, tasks out of phase        costs.py      a machine's figures for the engine
    structures.py   whose line is which                             stack.py      where the time went
    vary.py         the same with other figures                     conclusions.py  what comes of it

run_point does one measured point, as launch.run_point does on real processes; run_points several, side by side.
What is measured begins when CPU 0 begins its second round (its first one fills caches, page tables and lists) and ends
with a round.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from shmm import _sim
from shmm.cluster import fate, pool, results, topology
from shmm.cluster.config import Config, Job
from shmm.cluster.crew import ClusterError, Interrupted, never
from shmm.cluster.launch import Progress, seed_of
from shmm.cluster.machines import HOST, Machine, MachineError, load
from shmm.cluster.measurement import Measurement
from shmm.cluster.progress import title
from shmm.cluster.simulate import costs, programs, stack, structures
from shmm.cluster.sizing import job_for
from shmm.cluster.workloads import PAGE, WorkloadError
from shmm.layout import CONSTANTS, COUNTERS
from shmm.segment import Segment

SLICE = 10_000_000              # accesses between looks at Ctrl-C
FAIR = 2                        # nobody overtakes in the line for a spinlock (mm/spinlock.pxd)
PS = 1e12                       # per second
MOST_SECONDS = 100.0            # of virtual time, before a run is cut off
MOST_ACCESSES = 50_000_000_000

__all__ = ["Simulated", "common_size", "line_bench", "machine_of", "run_point", "run_points"]


class Simulated:
    """A machine's segment with its job written into it, and the simulation of it."""

    def __init__(self, config: Config, job: Job, machine: Machine, seed: int) -> None:
        self.config, self.machine, self.seed = config, machine, seed
        self.job = dataclasses.replace(job, programs=programs.stagger(job.programs))
        self.cpus = len(job.programs)
        self.seats = machine.seats(self.cpus)

    def __enter__(self) -> Self:
        nodes = len({seat.socket for seat in self.seats})
        geometry = self.job.geometry()
        geometry = dataclasses.replace(geometry, nframe=nodes * self._frames_of_a_node(geometry.nframe))
        self.segment = Segment.private(
            geometry, nnode=min(nodes, CONSTANTS["MAX_NODE"]),
            **self.config.segment_policy(False) | {"queued_spinlocks": FAIR},
            cpu_node=[seat.socket % CONSTANTS["MAX_NODE"] for seat in self.seats],
        )
        try:
            self._simulation()
            self._write_job()
            self._attach()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        if hasattr(self, "simulation"):
            self.simulation.close()
        self.segment.__exit__(RuntimeError, None, None)     # whatever views a traceback may hold

    def _frames_of_a_node(self, frames: int) -> int:
        """So many that the CPUs of the fullest socket find theirs at home."""
        fullest = max(Counter(seat.socket for seat in self.seats).values())
        return -(-frames * fullest // self.cpus)

    def _simulation(self) -> None:
        self.simulation = _sim.Simulation(
            self.segment.address,
            costs.costs(self.machine, self.cpus, exact=self.config.exact, jitter=costs.jitter(self.config.figures)),
            costs.engine_seats(self.machine, self.cpus), structures.structure_map(self.segment), self.seed,
        )

    def _write_job(self) -> None:
        self.job.write(self.segment, _sim.Cpu)
        for cpu in range(self.cpus):
            self.segment.view("cpu")["rng"][cpu] = seed_of(self.seed, 0, cpu)
        self.segment.view("seg")["barrier_parties"] = self.cpus

    def _attach(self) -> None:
        """An empty address space that all CPUs run, unless their programs choose one."""
        self.frames_at_rest = _sim.frames_in_use(self.segment.address)
        self.executors = [_sim.Cpu(self.segment.address, cpu) for cpu in range(self.cpus)]
        for cpu, executor in enumerate(self.executors):
            if cpu and self.job.places_itself(cpu):
                continue
            err = executor.attach(1) if cpu else executor.exec(1)
            if err < 0:
                raise ClusterError(f"CPU {cpu} could not enter address space 1: {os.strerror(-err)}")

    def run(
        self, interrupted: Callable[[], bool] = never, progress: Callable[[float, int], None] | None = None,
    ) -> dict[str, Any]:
        """Simulates until the measured time and the programs are over; what was measured (_sim.Simulation.measured).

        Raises Interrupted, and ClusterError if every CPU waits for another or a cut-off was reached."""
        least = round(self.config.seconds * PS)
        self.simulation.begin(programs.round_begins(self.job.programs[0]), 0, least, round(MOST_SECONDS * PS),
                              most_accesses=MOST_ACCESSES, clocked=self.job.clocked)
        while (status := self.simulation.run(SLICE)) == "running":
            if interrupted():
                raise Interrupted
            if progress is not None:
                ps, accesses = self.simulation.progress()
                progress(ps / PS, accesses)
        found = self.simulation.measured()
        if status != "finished" or found is None:
            raise ClusterError(self._cut_off(status))
        return found

    def _cut_off(self, status: str) -> str:
        """One line: which CPUs are stuck, and what they wait for."""
        why = {
            "stuck": "every CPU waits for another",
            "time": f"the run is not over after {MOST_SECONDS:.0f} s of virtual time",
            "accesses": f"the run is not over after {MOST_ACCESSES:.0e} accesses",
        }[status]
        blocked = self.simulation.blocked()
        told = "; ".join(f"CPU {cpu} {what} ({structure}), {fate.doing(self.segment, cpu)}"
                         for cpu, what, structure, _ in blocked[:4])
        more = f"; and {len(blocked) - 4} more" if len(blocked) > 4 else ""
        return f"{why}: {told}{more}"

    def measurement(self, found: dict[str, Any]) -> Measurement:
        """What was measured, and whether all is well with the machine at rest."""
        counters = np.frombuffer(found["counters"], np.int64).reshape(self.cpus, len(COUNTERS))
        violations = tuple(fate.failure(self.segment, cpu) for cpu, result in enumerate(found["results"]) if result < 0)
        histogram = self.segment.view("cpu")["shootdown_hist"].astype(np.int64).sum(axis=0)
        out = Measurement(found["lasted"] / PS, counters[:, 0], counters, histogram, 0, violations)
        for executor in self.executors:
            executor.rcu_drain()
        out.violations += tuple(_sim.check(self.segment.address))
        for executor in self.executors:
            executor.exit()
        _sim.settle(self.segment.address)
        out.frames_leaked = _sim.frames_in_use(self.segment.address) - self.frames_at_rest
        return out


def machine_of(config: Config) -> Machine:
    """The machine that a point names, with the figures that it varies.  Raises MachineError."""
    machine = load(config.machine or HOST)
    machine.seats(config.cpus)          # raises if there are not so many
    return costs.with_figures(machine, config.figures)


def run_point(
    config: Config, job: Job | None = None, *, interrupted: Callable[[], bool] = never,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Simulates one point config.repeats times, each with the next seed; returns its element of "runs".

    Raises Interrupted, ClusterError (stuck, cut off), MachineError, WorkloadError, SegmentError, MemoryError."""
    machine = machine_of(config)
    job = job or job_for(config)
    measured: list[Measurement] = []
    found: list[dict[str, Any]] = []
    for repeat in range(config.repeats):
        with Simulated(config, job, machine, config.seed + repeat) as simulated:
            tell = None if progress is None else lambda seconds, accesses, n=repeat: progress(n + 1, seconds, accesses)
            found.append(simulated.run(interrupted, tell))
            measured.append(simulated.measurement(found[-1]))
    return entry(config, job, machine, measured, found)


def entry(
    config: Config, job: Job, machine: Machine, measured: Sequence[Measurement], found: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The element of "runs": that of a native run, in virtual time, and where the time went."""
    out = results.entry(config, job, measured, pins=())
    rates = [m.ops_per_s for m in measured]
    chosen = found[rates.index(sorted(rates)[(len(rates) - 1) // 2])]
    return out | {
        "machine": machine.name, "clock": "virtual", "start_method": None,
        "time_stack": stack.document(chosen["stack"]),
        "simulation": {"accesses": chosen["accesses"], "accesses_in_all": chosen["all_accesses"],
                       "rounds": chosen["rounds"], "begun_ps": chosen["begun"], "lasted_ps": chosen["lasted"],
                       "figures": dict(config.figures)},
    }


def run_points(
    points: Sequence[Config], jobs: int | None = None, *, interrupted: Callable[[], bool] = never,
    notice: pool.Notice = lambda number, so_far, result: None,
) -> list[dict[str, Any]]:
    """The points' elements of "runs", simulated side by side by so many processes (default: a core each).

    Raises as run_point does; Interrupted with the runs there are, in order, and None for those that are missing."""
    order = sorted(range(len(points)), key=lambda number: -points[number].cpus)     # the long ones first

    def in_order(done: Sequence[Any]) -> list[Any]:
        by_number = dict(zip(order, done, strict=True))
        return [by_number[number] for number in range(len(points))]

    try:
        return in_order(pool.run_all(
            [points[number] for number in order], _work, jobs or topology.usable_cores(), interrupted=interrupted,
            notice=lambda number, so_far, result: notice(order[number], so_far, result), name=title,
            passed=(MachineError, WorkloadError),
        ))
    except Interrupted as stopped:
        raise Interrupted(in_order(stopped.result)) from None


def _work(point: Config, tell: Callable[[int], None]) -> dict[str, Any]:
    return run_point(point, progress=lambda repeat, seconds, accesses: tell(accesses))


def common_size(points: Sequence[Config]) -> list[Config]:
    """The points, those of one workload with the same memory per task: what fits with the most CPUs.

    A curve over CPU counts on which the work of a round shrinks from point to point would be no curve."""
    out = []
    for point in points:
        most = max(other.cpus for other in points if other.workload == point.workload)
        size = point.size or job_for(dataclasses.replace(point, cpus=most)).bytes_per_cpu
        out.append(dataclasses.replace(point, size=max(PAGE, size)))
    return out


KINDS = {"ww": "write", "rr": "read", "rw": "read_write", "wx": "own_write", "rx": "own_read", "atomic add": "write",
         "cas add": "cas"}
BURST_NS = 166_667              # 400,000 cycles at 2.4 GHz, as in the logs that bursts are compared with
BURSTS = 60


def line_bench(machine: str, kind: str, cpus: int, seed: int = 1) -> dict[str, float | None]:
    """CPUs that do nothing but access one line, in virtual time.

    kind: of KINDS.  ww, rr, rw (CPU 0 writes, the others read), wx and rx (each CPU its own line): bursts of one
    operation of each CPU, all at once; the others: one after the other, as fast as it goes.  Returns
    {"ns_per_write": ..., "ns_per_read": ...}: the mean time of an operation of a CPU, None where there is none."""
    model = load(machine)
    figures, seats = costs.costs(model, cpus), costs.engine_seats(model, cpus)
    ns, period = (BURSTS * BURST_NS, BURST_NS) if len(kind) == 2 else (100_000, 0)
    done = _sim.line_bench(KINDS[kind], figures, seats, ns, period, seed)

    def mean(cpus: Sequence[tuple[int, int]]) -> float | None:
        ops = sum(ops for ops, _ in cpus)
        return sum(ps for _, ps in cpus) / ops / 1000 if ops else None

    reads = done if kind in ("rr", "rx") else done[1:] if kind == "rw" else []
    writes = done[:1] if kind == "rw" else [] if reads else done
    return {"ns_per_write": mean(writes), "ns_per_read": mean(reads)}
