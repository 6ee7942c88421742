"""What a machine is: cores, clock and figures, and what follows from them for its CPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

KINDS = ("published: ", "measured: ", "specification: ", "estimate: ")      # what a source begins with
VARIED = "varied: "         # ... if somebody changed the figure on the way; no file may
NO_SOURCE = "estimate: no source was given"
LIMIT = 1e9                 # more of any unit is a mistake: a second to hit a cache line

# Every figure and its unit, in the order of the files.
FIGURES: Mapping[str, str] = {
    **{f"line.{key}": "ns" for key in ("hit", "rmw", "fence", "smt", "cluster", "socket", "remote", "memory",
                                       "memory_remote", "reader", "retention")},
    "page.clear": "ns", "page.copy": "ns", "page.bandwidth": "GB_per_s",
    "kernel.exception": "ns", "kernel.trap": "ns", "kernel.syscall": "ns",
    "ipi.send": "ns", "ipi.deliver": "ns", "ipi.handle": "ns",
    "sleep.block": "ns", "sleep.wake": "ns", "sleep.resume": "ns",
    "smt.slowdown": "ratio",
    "spin.pause": "ns",
}
# Without these a loop would take no time, and whoever waits in one would wait for ever.
POSITIVE = frozenset({"line.hit", "page.bandwidth", "spin.pause"})
TOPOLOGY = ("sockets", "clusters_per_socket", "cores_per_cluster", "threads_per_core")


class MachineError(ValueError):
    """There is no such machine, its file cannot be, or it has not so many CPUs.  One line, with the next step."""


@dataclass(frozen=True)
class Figure:
    """One figure of a machine."""

    value: float
    unit: str                   # ns, GB_per_s or ratio
    source: str                 # begins with one of KINDS, or VARIED


@dataclass(frozen=True)
class Seat:
    """Where a CPU sits."""

    socket: int
    cluster: int                # numbered through the whole machine, as cores are
    core: int
    thread: int                 # which hardware thread of the core


@dataclass(frozen=True)
class Machine:
    """A machine.  Raises MachineError if it cannot be."""

    name: str
    cpu: str                                    # what it is, in words
    sockets: int
    clusters_per_socket: int                    # groups of cores that share a last-level cache
    cores_per_cluster: int
    threads_per_core: int
    clock: tuple[tuple[int, float], ...]        # (n, GHz) ascending: with at most n busy cores in a socket
    figures: Mapping[str, Figure] = field(hash=False)       # "line.hit" -> ...; all of FIGURES
    topology_source: str = NO_SOURCE
    clock_source: str = NO_SOURCE

    def __post_init__(self) -> None:
        for problem in (self._text_problem(), self._topology_problem(), self._clock_problem(), self._figures_problem()):
            if problem:
                raise MachineError(f"machine {self.name!r}: {problem}")

    @property
    def cores_per_socket(self) -> int:
        """Cores of one socket."""
        return self.clusters_per_socket * self.cores_per_cluster

    @property
    def cpus(self) -> int:
        """Hardware threads in all."""
        return self.sockets * self.cores_per_socket * self.threads_per_core

    def ns(self, name: str) -> float:
        """A figure in nanoseconds, by its name such as "line.hit".  Raises MachineError if it is none."""
        figure = self._figure(name)
        if figure.unit != "ns":
            raise MachineError(f"{name} is in {figure.unit}, not in ns: take figures[{name!r}].value")
        return figure.value

    def with_figures(self, values: Mapping[str, float]) -> Machine:
        """The machine with other values of some figures, {"line.remote": 200.0}; their units stay.

        Raises MachineError for a name or a value that cannot be."""
        changed = {}
        for name, value in values.items():
            old = self._figure(name)
            changed[name] = Figure(value, old.unit, f"{VARIED}it was {old.value:g} {old.unit}, {old.source}")
        return replace(self, figures={**self.figures, **changed})

    def seats(self, cpus: int) -> tuple[Seat, ...]:
        """Seats of that many CPUs, close together: the cores of socket 0 cluster by cluster, those of socket 1, ...,
        then the second hardware threads in the same order.  Raises MachineError if there are not so many."""
        if not 1 <= cpus <= self.cpus:
            raise MachineError(f"machine {self.name} has {self.cpus} CPUs, not {cpus}: use 1 to {self.cpus} of them, "
                               f"or another machine")
        cores = self.sockets * self.cores_per_socket
        return tuple(Seat(core // self.cores_per_socket, core // self.cores_per_cluster, core, thread)
                     for thread, core in (divmod(cpu, cores) for cpu in range(cpus)))

    def slowdowns(self, cpus: int) -> tuple[float, ...]:
        """How much slower each of that many CPUs runs than one alone on the machine: the clock falls as cores of its
        socket get busy, and a busy sibling takes its share.  Raises MachineError as seats() does."""
        seats = self.seats(cpus)
        threads = Counter(seat.core for seat in seats)
        busy = Counter(seat.socket for seat in seats if seat.thread == 0)
        smt = self.figures["smt.slowdown"].value
        return tuple(self._ghz(1) / self._ghz(busy[seat.socket]) * (smt if threads[seat.core] > 1 else 1.0)
                     for seat in seats)

    def _ghz(self, busy: int) -> float:
        return next(ghz for cores, ghz in self.clock if busy <= cores)

    def _figure(self, name: str) -> Figure:
        if name not in self.figures:
            raise MachineError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
        return self.figures[name]

    def _text_problem(self) -> str | None:
        for key, text in (("name", self.name), ("cpu", self.cpu)):
            if not isinstance(text, str) or not text.isprintable() or not text.strip():
                return f"{key} must be a line of text, not {text!r}"
        return None

    def _topology_problem(self) -> str | None:
        for key in TOPOLOGY:
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= LIMIT:
                return f"topology.{key} must be a whole number of at least 1, not {value!r}"
        return _source_problem("topology", self.topology_source)

    def _clock_problem(self) -> str | None:
        counts = [count for count, _ in self.clock]
        if not all(_is_number(ghz) and ghz > 0 for _, ghz in self.clock):
            return "clock.ghz_by_active_cores: each GHz must be a number greater than 0"
        if not all(type(count) is int and count >= 1 for count in counts) or counts != sorted(set(counts)):
            return "clock.ghz_by_active_cores: the numbers of cores must be whole, at least 1, and ascend"
        if not counts or counts[-1] < self.cores_per_socket:
            return (f"clock.ghz_by_active_cores must reach the {self.cores_per_socket} cores of a socket, "
                    f"not {counts[-1] if counts else 0}: add [{self.cores_per_socket}, GHz]")
        return _source_problem("clock", self.clock_source)

    def _figures_problem(self) -> str | None:
        if set(self.figures) != set(FIGURES):
            odd = ", ".join(sorted(set(self.figures) ^ set(FIGURES)))
            return f"these figures are missing, or not a machine's: {odd}; it has {', '.join(FIGURES)}"
        for name, figure in self.figures.items():
            least = 1 if figure.unit == "ratio" else 0
            if figure.unit != FIGURES[name]:
                return f"{name} must be in {FIGURES[name]}, not in {figure.unit!r}"
            if not _is_number(figure.value) or figure.value < least or (name in POSITIVE and figure.value == 0):
                bound = "greater than 0" if name in POSITIVE else f"of at least {least}"
                return f"{name} must be a number {bound} and at most {LIMIT:g}, not {figure.value!r}"
            problem = _source_problem(name, figure.source)
            if problem:
                return problem
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LIMIT


def _source_problem(what: str, source: object) -> str | None:
    if isinstance(source, str) and any(source.startswith(kind) and source != kind for kind in (*KINDS, VARIED)):
        return None
    return (f"{what}: source must begin with one of {', '.join(map(repr, KINDS))} and go on to say it, "
            f"not {source!r}")
