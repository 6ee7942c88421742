"""The tables of simulated runs: the curves, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from shmm.cluster.simulate import stack
from shmm.cluster.words import BASE, latency, main_abort, quantity, ratio

COLUMNS = 6                     # of a time stack, at most
HEADERS = (("workload", False), ("CPUs", True), ("scheme", False), ("ops/s", True), ("speed-up", True),
           (f"/ {BASE}", True), ("shootdown p50/p99", True), ("aborted", False), ("overhead", False))


def tables(runs: Sequence[dict[str, Any]]) -> list[Table]:
    """One table of all runs, then for each workload a time stack."""
    out = [curves(runs)]
    for workload in dict.fromkeys(run["workload"] for run in runs):
        out.append(stack.table(chosen([run for run in runs if run["workload"] == workload])))
    return out


def curves(runs: Sequence[dict[str, Any]]) -> Table:
    """One line per run."""
    out = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="bold",
                title=f"modelled on {', '.join(dict.fromkeys(run['machine'] for run in runs))}")
    for header, right in HEADERS:
        out.add_column(header, justify="right" if right else "left", no_wrap=True)
    for run in runs:
        out.add_row(
            " ".join([run["workload"], *run["workload_args"]]), str(run["cpus"]), run["scheme"],
            quantity(run["ops_per_s"]), speed_up(run, runs), ratio(run, runs), latency(run["shootdown"]),
            main_abort(run["counters"]), stack.saturated(run),
        )
    return out


def speed_up(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """Throughput relative to the same with the fewest CPUs."""
    same = ("workload", "workload_args", "scheme", "machine")
    alike = [other for other in runs if all(other[key] == run[key] for key in same)]
    base = min(alike, key=lambda other: int(other["cpus"]))
    return "" if base is run or not base["ops_per_s"] else f"{run['ops_per_s'] / base['ops_per_s']:.2f}x"


def chosen(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs whose stacks are shown: of the fewest, a middling number of and the most CPUs."""
    counts = sorted({run["cpus"] for run in runs})
    wanted = {counts[0], counts[len(counts) // 2], counts[-1]}
    return [run for run in runs if run["cpus"] in wanted][:COLUMNS]
