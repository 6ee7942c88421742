"""The tables and lines that a run prints for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from shmm.cluster import modelled, results
from shmm.cluster.simulate import conclusions
from shmm.cluster.words import BASE, aborts, latency, quantity, ratio, size

WIDTH = 132                     # when there is no terminal to fit into
WIDE = 110                      # a terminal that all columns fit into


def console(stderr: bool) -> Console:
    """Where tables go; wide enough for them when it is no terminal."""
    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


def show(document: dict[str, Any], out: Console) -> None:
    """Prints a document: the table, what is wrong, what it is worth."""
    runs = document["runs"]
    simulated = [run for run in runs if run["engine"] == "sim"]
    native = [run for run in runs if run["engine"] != "sim"]
    shown: list[RenderableType] = list(tables(native, out.width)) if native else []
    if simulated:
        shown += modelled.tables(simulated)
    shown += conclusions.show(document)
    for number, part in enumerate(shown):
        if number:
            out.print()
        out.print(part)
    for line in notes(runs):
        out.print(line, style="dim", markup=False)
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    for run in runs:
        complain(run, out)
    if document.get("interrupted"):
        left = "these are the figures until then" if runs else "nothing was measured yet"
        out.print(f"interrupted: {left}", style="yellow", markup=False)


def complain(run: dict[str, Any], out: Console) -> None:
    """Prints what was violated in a run."""
    if run["violations"]:
        out.print(f"{results.name(run)}: {run['violations']} violations", style="bold red", markup=False)
    for message in run["violation_messages"]:
        out.print(f"  {message}", markup=False)
    if run["frames_leaked"]:
        leaked = f"{results.name(run)}: {run['frames_leaked']} frames leaked"
        out.print(leaked, style="bold red", markup=False)


Column = tuple[str, bool, Callable[[dict[str, Any]], str]]     # header, right-aligned, a run's text


def columns(runs: Sequence[dict[str, Any]]) -> tuple[list[Column], list[Column], list[Column]]:
    """What identifies a run, its throughput, and what went on behind it."""
    key: list[Column] = [
        ("workload", False, lambda run: " ".join([run["workload"], *run["workload_args"]])),
        ("CPUs", True, lambda run: str(run["cpus"])),
        ("scheme", False, lambda run: run["scheme"]),
    ]
    throughput: list[Column] = [
        ("ops/s", True, lambda run: quantity(run["ops_per_s"])),
        ("min..max", True, spread),
        (f"/ {BASE}", True, lambda run: ratio(run, runs)),
        ("seconds", True, lambda run: f"{run['seconds']:.2f}"),
    ]
    behind: list[Column] = [
        ("shootdown p50 / p99", True, lambda run: latency(run["shootdown"])),
        ("speculation aborted", False, lambda run: aborts(run["counters"])),
    ]
    return key, throughput, behind


def tables(runs: Sequence[dict[str, Any]], width: int) -> list[Table]:
    """One line per run; on a narrow terminal two tables, so that no column is lost."""
    key, throughput, behind = columns(runs)
    if width >= WIDE:
        return [table(runs, key + throughput + behind)]
    return [table(runs, key + throughput), table(runs, key + behind)]


def table(runs: Sequence[dict[str, Any]], chosen: Sequence[Column]) -> Table:
    """These columns of these runs."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for header, right, _ in chosen:
        wraps = header == "speculation aborted"
        out.add_column(header, justify="right" if right else "left", no_wrap=not wraps)
    for run in runs:
        out.add_row(*[text(run) for _, _, text in chosen])
    return out


def spread(run: dict[str, Any]) -> str:
    """The slowest and the fastest repeat."""
    low, high = quantity(run["ops_per_s_min"]), quantity(run["ops_per_s_max"])
    return f"{low}..{high}" if run["repeats"] > 1 else ""


def notes(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Where a run differs from the benchmark whose name it carries."""
    out = []
    for run in runs:
        mapped, original = run["bytes_per_cpu"], run["original_bytes_per_cpu"]
        whose = f"{run['workload']} on {run['machine']}" if run["machine"] else f"{run['workload']}, {run['cpus']} CPUs"
        line = f"{whose}: {size(mapped)} per task, {size(original)} in the original"
        if original and mapped != original and line not in out:
            out.append(line)
    return out
