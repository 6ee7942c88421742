"""What `calibrate` prints, and its JSON document shmm.calibrate/1: keys are a contract, added but never renamed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shmm.cluster import machines, topology
from shmm.cluster.calibrate.campaign import Measured
from shmm.cluster.calibrate.places import Shape
from shmm.cluster.calibrate.profile import rounded
from shmm.cluster.machines import Machine

SCHEMA = "shmm.calibrate/1"
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75}
MANY = 0.5                      # of the launches, dropped: worth a warning
BUSY = 0.5                      # of the cores, by the load average


def document(
    measured: Sequence[Measured], launches: int, shape: Shape, cpus: int, machine: Machine | None,
) -> dict[str, Any]:
    """The whole document.  launches: wanted of each probe; cpus: the host's; machine: None if there is none."""
    return {
        "schema": SCHEMA,
        "host": topology.host(),
        "launches": launches,
        "warnings": warnings(measured, shape, cpus),
        "topology": shape._asdict(),
        "figures": [entry(one) for one in measured],
        "machine": None if machine is None else machine_entry(machine),
    }


def entry(one: Measured) -> dict[str, Any]:
    """One element of "figures".  Quantiles are over launches, null if the figure was refused."""
    quantiles = {name: one.quantile(share) if one.refused is None else None for name, share in QUANTILES.items()}
    return {
        "figure": one.name, "between": one.between or None, "unit": one.unit, "method": one.how, **quantiles,
        "values": [rounded(value) for value in one.values],
        "launches_used": len(one.values), "launches_dropped": len(one.dropped),
        "dropped": dict(Counter(one.dropped)), "refused": one.refused,
    }


def machine_entry(machine: Machine) -> dict[str, Any]:
    """What goes into the machine file."""
    return {
        "name": machine.name,
        "cpu": machine.cpu,
        "ghz_by_active_cores": [list(step) for step in machine.clock],
        "figures": {name: {"value": figure.value, "unit": figure.unit, "source": figure.source}
                    for name, figure in machine.figures.items()},
    }


def warnings(measured: Sequence[Measured], shape: Shape, cpus: int) -> list[str]:
    """What a reader must know about these figures."""
    out = []
    flags = topology.read_text(Path("/proc/cpuinfo")) or ""
    if " hypervisor" in flags:
        out.append("a virtual machine: interrupts and wake-ups pass through the hypervisor, which also moves the CPUs")
    load = os.getloadavg()[0]
    if load > BUSY * topology.usable_cores():
        out.append(f"a load of {load:.1f} on {topology.usable_cores()} cores: others ran meanwhile, "
                   f"what they spoiled was dropped")
    if shape.cpus != cpus:
        out.append(f"{cpus} CPUs are described as {shape.cpus}: a machine file has sockets, clusters and cores "
                   f"of one kind")
    dropped = [title(one) for one in measured if one.refused is None
               and len(one.dropped) > MANY * (len(one.dropped) + len(one.values))]
    if dropped:
        out.append(f"more than half of the launches were dropped of: {', '.join(dropped)}")
    reasons = list(dict.fromkeys(one.refused for one in measured if one.refused is not None))
    return out + [f"not reported: {', '.join(title(one) for one in measured if one.refused == reason)}: {reason}"
                  for reason in reasons]


def title(one: Measured) -> str:
    """A figure's name, with its distance."""
    return f"{one.name} ({one.between})" if one.between else one.name


# ---- tables ------------------------------------------------------------------------------------------------------

def show(document: dict[str, Any], out: Console) -> None:
    """Prints a document: what was measured, what goes into the machine file and why, and what it is worth."""
    out.print(figures_table(document["figures"]))
    if document["machine"] is not None:
        out.print()
        out.print(machine_table(document["machine"]))
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    if "written" in document:
        path = document["written"]
        name = machines.HOST if path == str(machines.host_path()) else path
        out.print(f"written to {path}: --machine {name}", markup=False, soft_wrap=True)
    if document.get("interrupted"):
        out.print("interrupted: these are the figures until then, no machine file was written", style="yellow")


def figures_table(figures: Sequence[dict[str, Any]]) -> Table:
    """Every figure with its quantiles over launches."""
    out = plain_table(("figure", "between", "unit"), (*QUANTILES, "launches", "dropped"), "method")
    for one in figures:
        numbers = [number(one[name]) for name in QUANTILES]
        out.add_row(one["figure"], one["between"] or "", one["unit"], *numbers, str(one["launches_used"]),
                    str(one["launches_dropped"] or ""), one["method"])
    return out


def machine_table(machine: dict[str, Any]) -> Table:
    """Every figure of the machine file with its source."""
    out = plain_table(("machine file",), ("value",), "unit", "source")
    for name, figure in machine["figures"].items():
        out.add_row(name, number(figure["value"]), figure["unit"], figure["source"])
    return out


def plain_table(left: Sequence[str], right: Sequence[str], *last: str) -> Table:
    """A table without lines, whose last column wraps."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for header in (*left, *right, *last):
        out.add_column(header, justify="right" if header in right else "left", no_wrap=header != last[-1])
    return out


def number(value: float | None) -> str:
    """A figure with as many digits as it deserves; a dash if there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
