"""A machine's figures as the engine takes them: integers, picoseconds, for so many CPUs of it."""

from __future__ import annotations

from collections.abc import Sequence

from shmm.cluster.machines import Machine, Seat

PS = 1000                       # per ns
PAGE = 4096
JITTER = 256                    # lumps of work vary by a quarter up and down (1/1024)
AHEAD = 0.9                     # of the shortest transfer: how far hits may run ahead

# The engine's names of what the machine files call otherwise.
NAMES = {
    "hit": "line.hit", "rmw": "line.rmw", "fence": "line.fence", "smt": "line.smt", "cluster": "line.cluster",
    "socket": "line.socket", "remote": "line.remote", "memory": "line.memory",
    "reader": "line.reader", "retention": "line.retention", "clear": "page.clear", "copy": "page.copy",
    "exception": "kernel.exception", "trap": "kernel.trap", "syscall": "kernel.syscall", "ipi_send": "ipi.send",
    "ipi_deliver": "ipi.deliver", "ipi_handle": "ipi.handle", "sleep_block": "sleep.block", "sleep_wake": "sleep.wake",
    "sleep_resume": "sleep.resume", "pause": "spin.pause",
}


def costs(machine: Machine, cpus: int, *, exact: bool = False, jitter: int = JITTER) -> dict[str, int]:
    """The engine's costs for the first cpus of the machine.  exact: no lookahead."""
    out = {name: round(machine.ns(figure) * PS) for name, figure in NAMES.items()}
    out["channel"] = round(PAGE / machine.figures["page.bandwidth"].value * PS)
    out["lookahead"] = 0 if exact else lookahead(out, machine.seats(cpus))
    out["jitter"] = jitter
    return out


def lookahead(ps: dict[str, int], seats: Sequence[Seat]) -> int:
    """Less than the shortest time in which a line can move between two cores of these seats.

    Hardware threads of one core do not count: they share a cache, and hardly ever anything else."""
    cores = {seat.core: seat for seat in seats}.values()
    if len({seat.socket for seat in cores}) == len(cores):
        shortest = ps["remote"]
    elif len({seat.cluster for seat in cores}) == len(cores):
        shortest = ps["socket"]
    else:
        shortest = ps["cluster"]
    return int(shortest * AHEAD)


def engine_seats(machine: Machine, cpus: int) -> list[tuple[int, int, int, int]]:
    """(core, cluster, socket, slowdown in 1/1024) of each CPU."""
    return [(seat.core, seat.cluster, seat.socket, round(slowdown * 1024))
            for seat, slowdown in zip(machine.seats(cpus), machine.slowdowns(cpus), strict=True)]
