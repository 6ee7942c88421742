"""A campaign: every probe launched again and again, in turns, so that each figure has seen all of the same minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shmm import _calibrate
from shmm.cluster import topology
from shmm.cluster.calibrate import launches, places, probes
from shmm.cluster.calibrate.launches import Launch, LaunchError
from shmm.cluster.calibrate.places import Place
from shmm.cluster.calibrate.probes import Probe
from shmm.cluster.crew import Interrupted

LEAST = 5                       # launches: fewer say nothing about how a figure scatters
ATTEMPTS = 3                    # for each launch that is wanted
SECONDS = 45.0                  # for all of it
MIB = 1 << 20
FAULTS = MIB                    # to fault in: soon done, before anybody wants the core
HUGE_PAGE = 2 * MIB
COLD_MOST = 256 * MIB
COLD_LEAST = 16 * MIB


@dataclass
class Task:
    """A probe at one place, and what its launches brought."""

    probe: Probe
    between: str                                    # the distance of the pair, or ""
    cores: Sequence[tuple[int, ...]]                # for the launches, in turns; empty: this host has no such place
    buffer: int = 0
    touched_by: int | None = None
    used: list[dict[str, float]] = field(default_factory=list)      # reading -> value, of each launch
    dropped: list[str] = field(default_factory=list)                # why, of each launch that was not believed

    @property
    def attempts(self) -> int:
        """Launches so far."""
        return len(self.used) + len(self.dropped)

    def done(self, wanted: int) -> bool:
        """Whether there is no more to be had."""
        return not self.cores or len(self.used) >= wanted or self.attempts >= ATTEMPTS * wanted

    def refusal(self) -> str | None:
        """Why there is no figure, or None if there is one."""
        if not self.cores:
            return "needs two cores, this process may use one"
        if len(self.used) >= LEAST:
            return None
        why = f": {max(self.dropped, key=self.dropped.count)}" if self.dropped else ""
        return f"{len(self.used)} of {self.attempts} launches could be believed, {LEAST} are needed{why}"

    def attempt(self, interrupted: Callable[[], bool]) -> None:
        """One launch."""
        launch = Launch(self.probe.method, self.cores[self.attempts % len(self.cores)], self.buffer,
                        self.probe.memory != probes.PAGES, self.touched_by, self.probe.sleepers)
        try:
            reports = launches.run(launch, interrupted)
            if doubt := self.probe.doubt(reports):
                raise LaunchError(doubt)
        except LaunchError as error:
            self.dropped.append(str(error))
        else:
            self.used.append({reading.name: reading.value(reports) for reading in self.probe.readings})


@dataclass(frozen=True)
class Measured:
    """A figure, over launches."""

    name: str
    between: str
    unit: str
    how: str
    values: tuple[float, ...]
    dropped: tuple[str, ...]
    refused: str | None

    def quantile(self, share: float) -> float:
        """A quantile of the launches' values; nan if there is none."""
        return float(np.quantile(self.values, share)) if self.values else float("nan")


def results(tasks: Sequence[Task]) -> list[Measured]:
    """The figures of all tasks, in their order."""
    return [
        Measured(reading.name, task.between, reading.unit, reading.how,
                 tuple(launch[reading.name] for launch in task.used), tuple(task.dropped), task.refusal())
        for task in tasks for reading in task.probe.readings
    ]


def measure(
    tasks: Sequence[Task], wanted: int, interrupted: Callable[[], bool], notice: Callable[[Task], None],
    seconds: float = SECONDS,
) -> bool:
    """Launches until every task has what is wanted or the time is over; whether somebody interrupted."""
    until = time.monotonic() + seconds
    try:
        while any(not task.done(wanted) for task in tasks):
            for task in tasks:
                if time.monotonic() > until:
                    return False
                if not task.done(wanted):
                    task.attempt(interrupted)
                    notice(task)
    except Interrupted:
        return True
    return interrupted()


# ---- what is measured where --------------------------------------------------------------------------------------

def plan(usable: Sequence[Place]) -> list[Task]:
    """Every probe at every place that it is for, on the CPUs that this process may use."""
    far_apart = places.pairs(usable)
    cores = places.one_of_each_core(usable)
    return [task for probe in probes.PROBES for task in _tasks(probe, cores, far_apart)]


def _tasks(probe: Probe, cores: Sequence[Place], far_apart: dict[str, list[tuple[int, int]]]) -> Iterator[Task]:
    if probe.where == probes.EACH_DISTANCE:
        for distance, pairs in far_apart.items():
            yield Task(probe, distance, pairs)
        if not far_apart:
            yield Task(probe, "", [])
        return
    if probe.where == probes.FAR_MEMORY:
        for a, b in far_apart.get(places.REMOTE, [])[:1]:
            yield Task(probe, "", [(b,)], buffer(probe, 1, cores), touched_by=a)
        return
    stands: dict[str, Sequence[tuple[int, ...]]] = {
        probes.ONE: [(place.cpu,) for place in cores],
        probes.SAME_CORE: [(place.cpu, place.cpu) for place in cores],
        probes.TWO_CORES: next((far_apart[name] for name in places.DISTANCES[1:] if name in far_apart), []),
        probes.ALL: [tuple(place.cpu for place in _one_socket(cores))],
    }
    where = stands[probe.where]
    yield Task(probe, "", where, buffer(probe, len(where[0]) if where else 1, cores))


def _one_socket(cores: Sequence[Place]) -> list[Place]:
    return [place for place in cores if place.socket == cores[0].socket][:_calibrate.most_processes()]


def buffer(probe: Probe, processes: int, cores: Sequence[Place]) -> int:
    """Bytes for each process of a launch: for cold memory four times its share of the cache, if they are to be had."""
    if probe.memory != probes.COLD:
        return FAULTS if probe.memory == probes.PAGES else 0
    sharers = sum(place.cluster == cores[0].cluster for place in cores) if processes > 1 else 1
    wanted = min(COLD_MOST, max(COLD_LEAST, 4 * places.cache_bytes(cores[0].cpu) // sharers))
    there = available_bytes() // 4 // processes
    return max(HUGE_PAGE, min(wanted, there) // HUGE_PAGE * HUGE_PAGE)


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """The memory that may be used without pushing anything out; 1 GiB if the host does not say."""
    for line in (topology.read_text(meminfo) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1024 * MIB
