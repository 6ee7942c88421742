"""The machine file: which measured figure stands for which of the model's, and why; what nobody can measure, estimated.

Neighbours, interrupts and the host's scheduler only ever add time, so a figure is the lower quartile of its launches
(of rates the upper one)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from shmm.cluster import machines, topology
from shmm.cluster.calibrate.campaign import Measured
from shmm.cluster.calibrate.places import CLUSTER, REMOTE, SMT, SOCKET, Shape
from shmm.cluster.machines import Figure, Machine

QUARTILE = 0.25
FAULT_CYCLES = 250              # of a fault: accesses to the memory manager's shared structures, charged apart
TRAP_CYCLES = 150               # an exception's entry and exit cost so much more than a system call's
READER = 0.4                    # of a transfer: one more reader (19.5 of 49 cycles on an E7-8870, Clements' logs)
ASLEEP = 0.6                    # of a handoff: the sleeping side

# For figures that could not be measured: what is typical of servers.
TYPICAL = {
    "line.hit": 0.8, "line.rmw": 5.0, "line.fence": 8.0, "line.smt": 8.0, "line.cluster": 45.0, "line.socket": 100.0,
    "line.remote": 135.0, "line.memory": 95.0, "line.memory_remote": 150.0, "line.retention": 20.0,
    "page.clear": 250.0, "page.copy": 450.0, "page.bandwidth": 10.0, "kernel.exception": 350.0, "kernel.syscall": 100.0,
    "ipi.send": 150.0, "ipi.deliver": 1100.0, "sleep.block": 1000.0, "sleep.wake": 1500.0, "sleep.resume": 4000.0,
    "spin.pause": 40.0,
}
TYPICAL_GHZ = 3.0
SLOWDOWN = 1.6

# Figures that are a measured one as it is: key -> (the measured figure, between whom).
DIRECT = {
    "line.hit": ("access", ""), "line.rmw": ("fetch_add, own line", ""), "line.fence": ("fence", ""),
    "line.smt": ("transfer, ping-pong", SMT), "line.cluster": ("transfer, ping-pong", CLUSTER),
    "line.socket": ("transfer, ping-pong", SOCKET), "line.remote": ("transfer, ping-pong", REMOTE),
    "line.memory": ("memory", ""), "line.memory_remote": ("memory, remote", ""),
    "page.clear": ("clear, cold", ""), "page.copy": ("copy, cold", ""), "page.bandwidth": ("clear, all cores", ""),
    "kernel.syscall": ("system call", ""), "sleep.wake": ("wake", ""), "sleep.resume": ("wake to run", ""),
    "spin.pause": ("pause", ""),
}
# What stands in for a figure that was refused.
SECOND = {"transfer, ping-pong": "transfer, handshake"}


class Profile:
    """From measured figures to a machine."""

    def __init__(self, measured: Sequence[Measured], shape: Shape) -> None:
        """measured: the figures of a campaign; shape: the host's cores."""
        self.measured = {(one.name, one.between): one for one in measured}
        self.shape = shape
        self.figures: dict[str, Figure] = {}

    def machine(self) -> Machine:
        """The machine `host`."""
        clock, clock_source = self.clock()
        for key in DIRECT:
            self.put(key, *self.direct(key))
        self.put_lines()
        self.put_kernel(clock[0][1])
        self.put_rest()
        return Machine(
            name=machines.HOST, cpu=topology.cpu_model(), sockets=self.shape.sockets,
            clusters_per_socket=self.shape.clusters_per_socket, cores_per_cluster=self.shape.cores_per_cluster,
            threads_per_core=self.shape.threads_per_core, clock=clock,
            figures={name: self.figures[name] for name in machines.FIGURES},
            topology_source="measured: /sys/devices/system/cpu of this host", clock_source=clock_source,
        )

    # ---- figures ------------------------------------------------------------------------------------------------

    def put(self, key: str, value: float, source: str) -> None:
        """Sets a figure."""
        self.figures[key] = Figure(rounded(max(value, 0.0)), machines.FIGURES[key], source)

    def direct(self, key: str) -> tuple[float, str]:
        """A measured figure as it is, or what is typical."""
        name, between = DIRECT[key]
        one = self.get(name, between) or self.get(SECOND.get(name, ""), between)
        if one is None:
            return self.typical(key, name, between)
        rate = one.unit == "GB/s"
        share = 1 - QUARTILE if rate else QUARTILE
        return one.quantile(share), f"measured: {'upper' if rate else 'lower'} quartile of {len(one.values)} " \
                                    f"launches, {one.name}: {one.how}"

    def get(self, name: str, between: str = "") -> Measured | None:
        """A figure that was not refused, or None."""
        one = self.measured.get((name, between))
        return one if one is not None and one.refused is None else None

    def low(self, name: str, between: str = "") -> float | None:
        """A figure's lower quartile, or None if there is none."""
        one = self.get(name, between)
        return None if one is None else one.quantile(QUARTILE)

    def typical(self, key: str, name: str, between: str = "") -> tuple[float, str]:
        """What servers have, for a figure that was not measured, with the reason."""
        one = self.measured.get((name, between))
        why = one.refused if one is not None and one.refused else "no such pair of cores may be used here"
        return TYPICAL[key], f"estimate: typical of servers; {name} was not measured: {why}"

    def clock(self) -> tuple[tuple[tuple[int, float], ...], str]:
        """GHz by busy cores, and where that comes from."""
        cores = self.shape.cores_per_socket
        one, every = self.get("clock, one core"), self.get("clock, all cores")
        if one is None:
            ghz, source = nominal_ghz()
            return ((cores, ghz),), source
        first = rounded(one.quantile(1 - QUARTILE))
        source = f"measured: {one.how}, upper quartile of {len(one.values)} launches"
        last = rounded(min(first, every.quantile(1 - QUARTILE))) if every is not None else first
        if every is None:
            return ((cores, first),), f"{source}, one core busy"
        steps = ((cores, first),) if cores == 1 or first == last else ((1, first), (cores, last))
        return steps, f"{source}, one core busy and all that may be used"

    def put_lines(self) -> None:
        """What the shape leaves no room for, and what follows from a transfer."""
        shape = self.shape
        if shape.threads_per_core == 1:
            self.put("line.smt", 0, "specification: one hardware thread per core")
        if shape.clusters_per_socket == 1:
            self.copy("line.socket", "line.cluster", "one cluster per socket")
        if shape.sockets == 1:
            self.copy("line.remote", "line.socket", "one socket")
            self.copy("line.memory_remote", "line.memory", "one socket")
        self.put("line.reader", READER * self.figures["line.cluster"].value,
                 f"estimate: {READER} of a transfer in a cluster, as readers on an E7-8870 take")
        kept = self.nearest("line kept")
        if kept is None:
            self.put("line.retention", *self.typical("line.retention", "line kept", CLUSTER))
        else:
            self.put("line.retention", kept.quantile(QUARTILE),
                     f"measured: lower quartile of {len(kept.values)} launches, {kept.name}: {kept.how}")

    def nearest(self, name: str) -> Measured | None:
        """A figure of the nearest pair on two cores."""
        found = (self.get(name, between) for between in (CLUSTER, SOCKET, REMOTE))
        return next((one for one in found if one is not None), None)

    def copy(self, key: str, other: str, why: str) -> None:
        """A figure that is another one on this machine."""
        figure = self.figures[other]
        self.put(key, figure.value, f"{figure.source}; as {other}: {why}")

    def put_kernel(self, ghz: float) -> None:
        """What a fault, a trap and an interrupt cost beside what is charged apart."""
        trap = self.figures["kernel.syscall"].value + TRAP_CYCLES / ghz
        self.put("kernel.trap", trap, f"estimate: a system call and {TRAP_CYCLES} cycles, since exceptions use the "
                                      f"interrupt table and its return instruction")
        fault = self.low("fault without clearing")
        if fault is None:
            self.put("kernel.exception", *self.typical("kernel.exception", "fault without clearing"))
        else:
            self.put("kernel.exception", max(trap, fault - FAULT_CYCLES / ghz),
                     f"measured: an anonymous fault less clearing its page, {fault:.0f} ns, less {FAULT_CYCLES} cycles "
                     f"for accesses that are charged apart")
        self.put_ipi(trap)

    def put_ipi(self, trap: float) -> None:
        """An interrupt's parts: the whole and the sender's part are seen from user space, the rest is a division."""
        self.put("ipi.handle", trap, "estimate: as kernel.trap: an interrupt's entry and exit are an exception's")
        send, whole = self.low("kill, interrupting"), self.low("interrupt, round trip")
        if send is None:
            self.put("ipi.send", *self.typical("ipi.send", "kill, interrupting"))
        else:
            self.put("ipi.send", send, f"estimate: kill() of a running process less kill() of oneself, blocked: "
                                       f"{send:.0f} ns at most, since part of it may be the signal")
        if whole is None:
            self.put("ipi.deliver", *self.typical("ipi.deliver", "interrupt, round trip"))
        else:
            rest = self.figures["ipi.send"].value + trap + self.figures["line.cluster"].value
            self.put("ipi.deliver", whole - rest, f"estimate: a membarrier's interrupt and its answer, {whole:.0f} ns, "
                                                  f"less ipi.send, ipi.handle and one transfer")

    def put_rest(self) -> None:
        """Sleep and hardware threads."""
        handoff = self.low("handoff")
        if handoff is None:
            self.put("sleep.block", *self.typical("sleep.block", "handoff"))
        else:
            self.put("sleep.block", ASLEEP * handoff, f"estimate: {ASLEEP} of a handoff between two processes on one "
                                                      f"core, {handoff:.0f} ns; the rest is waking")
        if self.shape.threads_per_core == 1:
            self.put("smt.slowdown", 1, "specification: one hardware thread per core")
        else:
            self.put("smt.slowdown", SLOWDOWN, "estimate: typical of code that waits for its caches")


def nominal_ghz(root: Path = topology.CORES, cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[float, str]:
    """The clock as the host describes it, for want of a measurement, and where that comes from."""
    khz = topology.read_text(root / "cpu0/cpufreq/cpuinfo_max_freq")
    if khz and khz.isdigit():
        return rounded(int(khz) / 1e6), "specification: cpufreq's highest clock"
    if match := re.search(r"^cpu MHz\s*: ([\d.]+)", topology.read_text(cpuinfo) or "", re.MULTILINE):
        return rounded(float(match[1]) / 1000), "specification: /proc/cpuinfo"
    return TYPICAL_GHZ, "estimate: this host tells no clock"


def rounded(value: float) -> float:
    """Three digits: more would be a promise."""
    return 0.0 if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))


def lines_measured(measured: Sequence[Measured]) -> bool:
    """Whether anything is known of lines that move."""
    return any(one.name.startswith("transfer") and one.refused is None for one in measured)
