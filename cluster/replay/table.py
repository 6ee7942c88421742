"""The tables that a replay prints for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from shmm.cluster.table import complain
from shmm.cluster.words import aborts, percent


def show(document: dict[str, Any], out: Console) -> None:
    """Prints what the trace was, how well each scheme's replay agrees with it, and what to know about that."""
    about = document["trace"]
    out.print(f"{about['name']}: {about['events']} events of {about['threads']} threads, {about['faults']} user page "
              f"faults, {about['calls']} calls replayed", markup=False)
    inferred = ", ".join(f"{count} {what}" for what, count in about["inferred"].items() if count)
    if inferred:
        out.print(f"inferred and translated: {inferred}", style="dim", markup=False)
    for what, count in about["differed"].items():
        out.print(f"{count} faults happen again for another reason: they {what}", style="dim", markup=False)
    if document["runs"]:
        out.print(table(document["runs"]))
    for run in document["runs"]:
        for line in causes(run):
            out.print(line, style="dim", markup=False)
    for warning in document["warnings"]:
        out.print(f"note: {warning}", style="yellow", markup=False)
    for run in document["runs"]:
        complain(run, out)


def table(runs: list[dict[str, Any]]) -> Table:
    """One line per scheme."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("scheme", no_wrap=True)
    for name in ("recorded faults", "replayed", "", "missing", "extra"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("speculated", justify="right", no_wrap=True)
    out.add_column("aborted")
    out.add_column("TLB flushes / recorded", justify="right", no_wrap=True)
    out.add_column("seconds", justify="right", no_wrap=True)
    for run in runs:
        out.add_row(
            run["scheme"], str(run["recorded_faults"]), str(run["replayed_faults"]),
            percent(run["replayed_faults"], run["recorded_faults"] or 1),
            str(run["recorded_faults"] - run["replayed_faults"]), str(run["extra_faults"]),
            str(run["counters"]["spf_attempt"]), aborts(run["counters"]),
            f"{run['tlb_flushes']} / {run['recorded_tlb_flushes']}", f"{run['seconds']:.2f}",
        )
    return out


def causes(run: dict[str, Any]) -> list[str]:
    """Why faults are missing, and which accesses were refused."""
    out = [f"{run['scheme']}: {count} missing: {cause}" for cause, count in run["missing_faults"].items()]
    for cause, count in run["failed_accesses"].items():
        out.append(f"{run['scheme']}: {count} faults end in a signal here as they did there ({cause})")
    return out
