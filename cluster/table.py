"""The tables and lines that a run prints for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from shmm.cluster import results

BASE = "mmap_lock"              # what the other schemes are compared with
WIDTH = 132                     # when there is no terminal to fit into
WIDE = 110                      # a terminal that all columns fit into
ABORTS_SHOWN = 3


def console(stderr: bool) -> Console:
    """Where tables go; wide enough for them when it is no terminal."""
    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


def show(document: dict[str, Any], out: Console) -> None:
    """Prints a document: the table, what is wrong, what it is worth."""
    runs = document["runs"]
    if runs:
        for number, part in enumerate(tables(runs, out.width)):
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


def ratio(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """Throughput relative to the base scheme on the same workload and CPUs, if that was run."""
    same = ("workload", "workload_args", "cpus")
    for base in runs:
        if base["scheme"] == BASE and all(base[key] == run[key] for key in same) and base["ops_per_s"] > 0:
            return "" if run is base else f"{run['ops_per_s'] / base['ops_per_s']:.2f}x"
    return ""


def aborts(counters: dict[str, int]) -> str:
    """Aborted speculative faults in percent of attempts, and the commonest reasons."""
    attempts = counters["spf_attempt"]
    if attempts == 0:
        return ""
    reasons = sorted(
        ((count, name.removeprefix("SPF_ABORT_")) for name, count in counters.items()
         if name.startswith("SPF_ABORT_") and count), reverse=True,
    )
    text = percent(counters["spf_abort"], attempts)
    if not reasons:
        return text
    shown = ", ".join(f"{name} {percent(count, attempts)}" for count, name in reasons[:ABORTS_SHOWN])
    return f"{text}: {shown}{', ...' if len(reasons) > ABORTS_SHOWN else ''}"


def percent(part: int, whole: int) -> str:
    """A share with as many digits as it deserves."""
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 99.95 else f"{share:.3g} %"


def latency(times: dict[str, Any]) -> str:
    """Median and 99th percentile of shootdowns."""
    return f"{duration(times['median_ns'])} / {duration(times['p99_ns'])}" if times["count"] else ""


def duration(ns: int) -> str:
    """Nanoseconds in a unit that fits."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def quantity(value: float) -> str:
    """A number of things per second, three to four digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.1f}"


def notes(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Where a run differs from the benchmark whose name it carries."""
    out = []
    for run in runs:
        mapped, original = run["bytes_per_cpu"], run["original_bytes_per_cpu"]
        line = (f"{run['workload']}, {run['cpus']} CPUs: {size(mapped)} per task, "
                f"{size(original)} in the original")
        if original and mapped != original and line not in out:
            out.append(line)
    return out


def size(nbytes: int) -> str:
    """Bytes in a binary unit."""
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= one and nbytes % one == 0:
            return f"{nbytes // one} {unit}"
    return f"{nbytes} B"
