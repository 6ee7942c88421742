"""The published curves (cluster/anchors), each with what the simulator runs for one of its points.

A curve's *shape* is its level at n CPUs over its level at its smallest number of CPUs, which no scale of either side
enters: of rates the speed-up over one CPU, of elapsed times the same (T1 / Tn), of an operation on a counter how many
times dearer it is than for one CPU, and on a line than for two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shmm.cluster import anchors
from shmm.cluster.config import Config

CACHELINE, ATOMICS = "cacheline_sharing_cycles", "contended_atomics_ns_per_op_per_thread"
UPROBE, PFT = "uprobe_mmap_lock_Mps", "spf_gorman_pft_elapsed_s"
READ, WRITE, RATE = "ns_per_read", "ns_per_write", "ops_per_s"      # figures of the simulator

TOGETHER = 2                    # CPUs on a line, at least: one alone shares nothing
GOLD = "gold-6138-2x20"
SHARERS = {"ben": "e7-8870-8x10", "tom": "opteron-8431-8x6"}
COUNTERS = {"skl": ("skylake-client-4", 4), "icl": ("icelake-client-4", 4),     # machine, its hardware threads
            "g1-16": ("graviton1-16", 16), "g2-16": ("graviton2-16", 16)}
ASSUMED = {PFT: f"the machine is not named; assumed is {GOLD}, two Skylake sockets with 80 threads"}
# What a workload needs beside the defaults of a simulated run.  uprobes speculate with one thread, too.  A task of pft
# gets the same memory at every point, for a smaller share of it goes into page tables the more there is.
SETTINGS: dict[str, dict[str, Any]] = {"uprobe": {"force_speculation": True}, "pft": {"size": 8 << 20}}


@dataclass(frozen=True)
class Bench:
    """CPUs that do nothing but access one line, or one counter."""

    machine: str
    kind: str
    cpus: int


Request = Bench | Config


@dataclass(frozen=True)
class Curve:
    """One published curve."""

    name: str
    figures: str                        # the file in cluster/anchors
    machine: str                        # of cluster/machines
    workload: str                       # of a run; or what is done to a line
    simulated: str                      # the figure of the simulator that stands against it: RATE, READ or WRITE
    published: Mapping[int, float]      # CPUs -> figure in the file's unit
    scheme: str | None = None           # None: a benchmark of a line
    elapsed: bool = False               # published are times of equal work, against a rate
    before: str | None = None           # the curve of the older design on the same workload

    @property
    def base(self) -> int:
        """The number of CPUs that the shape is relative to."""
        return min(self.published)

    def level(self, cpus: int) -> float:
        """The published figure as something of the simulated figure's kind: a rate or a cost."""
        return 1 / self.published[cpus] if self.elapsed else self.published[cpus]

    def request(self, cpus: int, seed: int) -> Request:
        """What to run for a point."""
        if self.scheme is None:
            return Bench(self.machine, self.workload, cpus)
        return Config(engine="sim", machine=self.machine, workload=self.workload, cpus=cpus, scheme=self.scheme,
                      seed=seed, **SETTINGS.get(self.workload, {}))

    def is_called(self, name: str) -> bool:
        """Whether the name is the curve's own, begins it, or is its file's, machine's or workload's."""
        return name in (self.name, self.figures, self.machine, self.workload) or self.name.startswith(f"{name}/")


def by_cpus(points: Mapping[str, Any]) -> dict[int, Any]:
    """The points of a file, whose keys are numbers of CPUs as text."""
    return {int(cpus): value for cpus, value in points.items()}


def cacheline() -> Iterator[Curve]:
    """Cores on one line; where one writes, the readers and the writer apart."""
    operations = {"ww": (WRITE,), "rw": (READ, WRITE), "rr": (READ,), "wx": (WRITE,), "rx": (READ,)}
    data = anchors.load(CACHELINE)["data"]
    for machine, name in SHARERS.items():
        for kind, simulated in operations.items():
            points = by_cpus(data[f"{machine}_{kind}"])
            for figure in simulated:
                word = figure.removeprefix("ns_per_")
                title = f"lines/{machine}/{kind}" + (f"-{word}" if len(simulated) > 1 else "")
                yield Curve(title, CACHELINE, name, kind, figure,
                            {cpus: point[f"cycles/{word}"] for cpus, point in points.items() if cpus >= TOGETHER})


def atomics() -> Iterator[Curve]:
    """Threads on one counter, as many as the machine has hardware threads."""
    data = anchors.load(ATOMICS)["data"]
    for machine, (name, threads) in COUNTERS.items():
        for kind, word in (("atomic add", "add"), ("cas add", "cas")):
            points = by_cpus(data[machine][kind])
            yield Curve(f"atomics/{machine}/{word}", ATOMICS, name, kind, WRITE,
                        {cpus: value for cpus, value in points.items() if cpus <= threads})


def uprobe() -> Iterator[Curve]:
    """Traps under mmap_lock, and speculative ones."""
    figures = anchors.load(UPROBE)
    yield Curve("uprobe/mmap_lock", UPROBE, GOLD, "uprobe", RATE, by_cpus(figures["before_mmap_read_lock"]),
                "mmap_lock")
    yield Curve("uprobe/spf", UPROBE, GOLD, "uprobe", RATE, by_cpus(figures["after_speculation"]), "spf",
                before="uprobe/mmap_lock")


def pft() -> Iterator[Curve]:
    """pft under mmap_lock and with speculative page faults.  That the machine is this one is an assumption."""
    points = by_cpus(anchors.load(PFT)["data"])
    yield Curve("pft/mmap_lock", PFT, GOLD, "pft", RATE, {cpus: times[0] for cpus, times in points.items()},
                "mmap_lock", elapsed=True)
    yield Curve("pft/spf", PFT, GOLD, "pft", RATE, {cpus: times[1] for cpus, times in points.items()},
                "spf", elapsed=True, before="pft/mmap_lock")


def curves() -> list[Curve]:
    """All curves, those of one file together.  Raises AnchorError."""
    return [*cacheline(), *atomics(), *uprobe(), *pft()]
