"""Time stacks: where the CPUs' time went, as the document has it and as a table for people.

A part is work (whatever is not one of the others: hits and the instructions around them), an exception's entry and
what the kernel does beside the memory manager, clearing and copying pages, waiting for the node's memory to do it,
sending interrupts, waiting for their acknowledgement, taking them, speculation that was dropped, falling asleep and
waking others, idling at a barrier; a transfer of a line, the queue for it included; a wait for a lock, spinning or
asleep.  Transfers and waits are told apart by the structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = 0.01                    # a line of the table has at least this share of one run's time
TEXTS = {
    "work": "work", "exception": "fault, trap and system call entry", "clear": "clearing and copying pages",
    "bandwidth": "memory bandwidth", "ipi_send": "sending IPIs", "ipi_wait": "waiting for IPIs",
    "interrupt": "taking IPIs", "retry": "dropped speculation", "sleep": "falling asleep, waking others",
    "idle": "idle at a barrier",
}


def document(stack: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """The parts, the largest first: {"part", "structure" (or None), "ps" (of all CPUs together), "share"}."""
    total = sum(stack.values())
    parts = sorted(stack.items(), key=lambda item: (-item[1], item[0]))
    return [{"part": part, "structure": structure or None, "ps": ps, "share": ps / total if total else 0.0}
            for (part, structure), ps in parts if ps]


def text(part: Mapping[str, Any]) -> str:
    """A part's name for people."""
    if part["structure"] is None:
        return TEXTS[part["part"]]
    name = part["structure"].replace("_", " ") if part["structure"] != "mmap_lock" else "mmap_lock"
    return f"lines of {name}" if part["part"] == "transfer" else f"waiting for {name}"


def saturated(run: Mapping[str, Any]) -> str:
    """The part, work and its like excepted, that takes most of a run's time; empty if none takes a tenth."""
    overhead = [part for part in run["time_stack"]
                if part["part"] not in ("work", "exception", "clear", "interrupt") and part["share"] >= 0.1]
    return f"{text(overhead[0])} {overhead[0]['share']:.0%}" if overhead else ""


def table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One column per run, ns per operation; a line for each part that takes a hundredth of one run's time."""
    shown: dict[str, float] = {}
    for run in runs:
        for part in run["time_stack"]:
            if part["share"] >= SHOWN:
                shown[text(part)] = shown.get(text(part), 0.0) + part["share"]
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("ns per op", no_wrap=True)
    for run in runs:
        out.add_column(f"{run['scheme']} {run['cpus']}", justify="right", no_wrap=True)
    for name in sorted(shown, key=lambda name: -shown[name]):
        out.add_row(name, *[cell(run, lambda part, name=name: text(part) == name) for run in runs])
    out.add_row("the rest", *[cell(run, lambda part: text(part) not in shown) for run in runs])
    out.add_row("all", *[cell(run, lambda part: True) for run in runs], style="bold")
    return out


def cell(run: Mapping[str, Any], chosen: Any) -> str:
    """The parts chosen, ns of CPU time per operation."""
    ps = sum(part["ps"] for part in run["time_stack"] if chosen(part))
    if not run["ops"]:
        return ""
    ns = ps / 1000 / run["ops"]
    return f"{ns:,.0f}" if ns >= 9.95 else f"{ns:.1f}"
