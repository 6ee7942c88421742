"""The tables that `check` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from shmm.cluster.table import Column
from shmm.cluster.table import table as plain_table
from shmm.cluster.words import quantity


def show(document: dict[str, Any], out: Console) -> None:
    """Prints a document: what was explored and what came of it."""
    runs = [run for run in document["runs"] if run is not None]
    if runs and "mutants" not in document:
        out.print(plain_table(runs, columns(runs)))
    if document.get("mutants"):
        show_mutants(document["mutants"], out)
    show_spare(document.get("spare", ()), out)
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    if document.get("interrupted"):
        left = "this is what was explored until then" if runs else "nothing was explored yet"
        out.print(f"interrupted: {left}", style="yellow", markup=False)


def columns(runs: Sequence[dict[str, Any]]) -> list[Column]:
    """What each line says."""
    out: list[Column] = [
        ("scenario", False, lambda run: run["scenario"]),
        ("scheme", False, lambda run: run["scheme"]),
        ("variant", False, lambda run: run["variant"]),
        ("memory", False, lambda run: run["memory"]),
        ("strategy", False, strategy),
        ("schedules", True, lambda run: f"{run['schedules']:,}"),
        ("accesses", True, lambda run: quantity(run["steps"])),
        ("schedules/s", True, lambda run: quantity(run["schedules"] / run["seconds"] if run["seconds"] else 0)),
        ("explored", False, explored),
        ("result", False, result),
    ]
    if any(run["mutant"] for run in runs):      # then figures of speed matter less
        out = [column for column in out if column[0] not in ("accesses", "schedules/s")]
        out.insert(4, ("without", False, lambda run: run["mutant"] or ""))
    return out


def strategy(run: dict[str, Any]) -> str:
    """The strategy with its parameter."""
    if run["strategy"] == "dfs":
        return f"dfs {run['bound']}"
    return f"pct {run['depth']}" if run["strategy"] == "pct" else str(run["strategy"])


def explored(run: dict[str, Any]) -> str:
    """Whether this was all within the bound."""
    if run["violation"] is not None:
        return "until then"
    return "exhausted" if run["exhausted"] else "cut short" if run["strategy"] == "dfs" else "sampled"


def result(run: dict[str, Any]) -> str:
    """What came of it."""
    found = run["violation"]
    if found is None:
        return "fine"
    return f"{found['invariant']}, {preemptions(found)}"


def preemptions(found: dict[str, Any]) -> str:
    """How many preemptions the schedule needs, and whether fewer would do."""
    count = found["preemptions"]
    text = f"{count} preemption{'' if count == 1 else 's'}"
    return text if found["fewest"] else f"{text} or fewer"


def show_mutants(mutants: Sequence[dict[str, Any]], out: Console) -> None:
    """The kill table, and why what survives does."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("mutant", "what is missing", "killed by", "scenario/scheme", "memory, strategy", "schedules",
                   "preempt."):
        right = header in ("schedules", "preempt.")
        table.add_column(header, justify="right" if right else "left", no_wrap=header != "what is missing")
    for mutant in mutants:
        if mutant["killed"]:
            table.add_row(mutant["mutant"], mutant["missing"], mutant["invariant"],
                          f"{mutant['scenario']}/{mutant['scheme']}", f"{mutant['memory']}, {mutant['strategy']}",
                          f"{mutant['schedules']:,}", str(mutant["preemptions"]))
        else:
            table.add_row(mutant["mutant"], mutant["missing"], "survives", "", "", "", "")
    out.print(table)
    killed = sum(mutant["killed"] for mutant in mutants)
    out.print(f"{killed} of {len(mutants)} protections are missed when they are taken away", markup=False)


def show_spare(mutants: Sequence[dict[str, Any]], out: Console) -> None:
    """What others stand in for, and whether that is still so."""
    for mutant in mutants:
        if mutant["killed"]:
            text = f"noticed after all ({mutant['invariant']}): not a spare one, give it a group of its own"
        else:
            text = f"spare, not missed in {mutant['schedules']:,} schedules: {mutant['explanation']}"
        out.print(f"{mutant['mutant']}: {text}", markup=False, soft_wrap=True)
