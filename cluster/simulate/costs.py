"""A machine's figures as the engine takes them: integers, picoseconds, for so many CPUs of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shmm.cluster.machines import Machine, MachineError, Seat

PS = 1000                       # per ns
PAGE = 4096
ALL = 1024                      # parts of one, in which the engine counts shares
JITTER = 256                    # lumps of work vary by a quarter up and down, of ALL
JITTER_NAME = "jitter"          # among the figures that a point varies (Config.figures), although no machine has it
MOST = 2**32                    # ps: the engine's costs are words of 32 bits, slowed down too
AHEAD = 0.9                     # of the shortest transfer: how far hits may run ahead

# The engine's names of what the machine files call otherwise.
NAMES = {
    "hit": "line.hit", "rmw": "line.rmw", "fence": "line.fence", "smt": "line.smt", "cluster": "line.cluster",
    "socket": "line.socket", "remote": "line.remote", "memory": "line.memory",
    "memory_remote": "line.memory_remote",
    "reader": "line.reader", "retention": "line.retention", "clear": "page.clear", "copy": "page.copy",
    "exception": "kernel.exception", "trap": "kernel.trap", "syscall": "kernel.syscall", "ipi_send": "ipi.send",
    "ipi_deliver": "ipi.deliver", "ipi_handle": "ipi.handle", "sleep_block": "sleep.block", "sleep_wake": "sleep.wake",
    "sleep_resume": "sleep.resume", "pause": "spin.pause",
}


def costs(machine: Machine, cpus: int, *, exact: bool = False, jitter: int = JITTER) -> dict[str, int]:
    """The engine's costs for the first cpus of the machine.  exact: no lookahead; jitter: of ALL.

    Raises MachineError for figures that a machine may have and the engine cannot count, and as Machine.seats does."""
    out = {name: round(machine.ns(figure) * PS) for name, figure in NAMES.items()}
    out["channel"] = round(PAGE / machine.figures["page.bandwidth"].value * PS)
    _can_be_counted(out, machine, cpus)
    if not 0 <= jitter < ALL:
        raise MachineError(f"{JITTER_NAME} of {jitter / ALL:g} cannot be: work varies by a share of less than 1")
    out["lookahead"] = 0 if exact else lookahead(out, machine.seats(cpus))
    out["jitter"] = jitter
    return out


def _can_be_counted(ps: dict[str, int], machine: Machine, cpus: int) -> None:
    most = MOST / max(machine.slowdowns(cpus))
    for name, cost in ps.items():
        if cost >= most or (cost == 0 and name in ("hit", "pause")):
            figure = NAMES.get(name, "page.bandwidth")
            value, unit = machine.figures[figure].value, machine.figures[figure].unit
            raise MachineError(f"{figure} of {value:g} {unit} cannot be simulated: a cost, or a page's time in memory, "
                               f"is from 0.001 ns to {most / PS / 1e6:.1f} ms")


def lookahead(ps: dict[str, int], seats: Sequence[Seat]) -> int:
    """Less than the shortest time in which a line can move between two cores of these seats.

    Hardware threads of one core do not count: they share a cache, and hardly ever anything else.  The nearest cores
    need not have the shortest way: figures can be varied."""
    cores = {seat.core: seat for seat in seats}.values()
    clusters = {seat.cluster: seat.socket for seat in cores}
    sockets = set(clusters.values())
    ways = {"cluster": len(cores) > len(clusters), "socket": len(clusters) > len(sockets), "remote": len(sockets) > 1}
    there_are = [ps[name] for name, some in ways.items() if some]
    return int(min(there_are, default=ps["cluster"]) * AHEAD)


def engine_seats(machine: Machine, cpus: int) -> list[tuple[int, int, int, int]]:
    """(core, cluster, socket, slowdown in 1/1024) of each CPU."""
    return [(seat.core, seat.cluster, seat.socket, round(slowdown * 1024))
            for seat, slowdown in zip(machine.seats(cpus), machine.slowdowns(cpus), strict=True)]


def with_figures(machine: Machine, figures: Iterable[tuple[str, float]]) -> Machine:
    """The machine with the figures that a point varies.  Raises MachineError for those that cannot be."""
    changed = {name: value for name, value in figures if name != JITTER_NAME}
    return machine.with_figures(changed) if changed else machine


def jitter(figures: Iterable[tuple[str, float]]) -> int:
    """The jitter of a point that varies these figures, of ALL."""
    return round(dict(figures).get(JITTER_NAME, JITTER / ALL) * ALL)
