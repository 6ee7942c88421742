"""`validate`: published curves recomputed by the simulator, and how far off they are.

    curves.py    what was published, and what to run for a point        measure.py   runs it
    compare.py   errors of shapes and of ratios between designs         table.py     what people see

Only the curves marked "validation" judge the model: no figure of a machine was chosen by looking at them.  Absolute
figures are not compared, as a model's are no predictions.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from shmm.cluster import session, topology
from shmm.cluster.check.options import check_path, whole
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.options import positive
from shmm.cluster.validate import measure, table
from shmm.cluster.validate.curves import ASSUMED, Curve, curves
from shmm.cluster.validate.errors import LIMIT, compare, refuted
from shmm.segment import SegmentError

SCHEMA = "shmm.validate/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The validate command's options."""
    parser.add_argument("--only", metavar="NAME",
                        help="one curve, or those of a machine, a workload or a file of figures")
    parser.add_argument("--points", action="store_true", help="show every point")
    parser.add_argument("--seed", type=whole(2**63 - 1), default=1, metavar="N", help="of the simulations (default: 1)")
    parser.add_argument("--jobs", type=positive(int), default=topology.usable_cores(), metavar="N",
                        help="processes (default: the cores of this machine)")
    parser.add_argument("--json", metavar="FILE|-", help="write the results there as one JSON document")
    parser.set_defaults(parser=parser)


def main(args: argparse.Namespace) -> int:
    """Recomputes the curves, prints the table, and returns the exit status: 1 if a validation curve is refuted."""
    chosen = [curve for curve in curves() if args.only is None or curve.is_called(args.only)]
    if not chosen:
        known = {name for curve in curves() for name in (curve.figures, curve.machine, curve.name.partition("/")[0])}
        args.parser.error(f"argument --only: no curve, file, machine or workload is called {args.only!r}; there are "
                          f"{', '.join(sorted(known))}, and single curves as the table names them")
    if args.json not in (None, "-"):
        check_path("json", Path(args.json), False, args.parser)
    simulated, status, error = simulate(chosen, args.seed, args.jobs)
    entries = compare(chosen, simulated)
    more: dict[str, Any] = {"interrupted": True} if status == session.INTERRUPTED else {}
    more |= {"error": error} if error is not None else {}
    session.report(document(entries, args.seed, **more), functools.partial(table.show, points=args.points), args.json)
    return session.VIOLATION if status == session.OK and any(map(refuted, entries)) else status


def simulate(
    chosen: Sequence[Curve], seed: int, jobs: int,
) -> tuple[dict[str, dict[int, float]], int, str | None]:
    """The simulator's figures by curve and CPUs, file after file; the exit status; what went wrong."""
    simulated: dict[str, dict[int, float]] = {}
    console = Console(stderr=True, highlight=False)
    groups = [list(group) for _, group in itertools.groupby(chosen, lambda curve: curve.figures)]
    try:
        for number, group in enumerate(groups, 1):
            wanted = measure.requests(group, seed)
            line = f"[{number}/{len(groups)}] {group[0].figures}: {len(wanted)} simulations ..."
            console.print(line, markup=False, soft_wrap=True)
            results = measure.run(wanted, seed, jobs)
            simulated |= {curve.name: measure.figures_of(curve, results, seed) for curve in group}
    except (Interrupted, KeyboardInterrupt):
        return simulated, session.INTERRUPTED, None
    except ClusterError as failed:
        return simulated, session.VIOLATION, str(failed)
    except (SegmentError, MemoryError, OSError, ValueError) as failed:      # a machine that does not exist, too
        return simulated, session.ENVIRONMENT, str(failed)
    return simulated, session.OK, None


def document(entries: Sequence[Mapping[str, Any]], seed: int, **more: Any) -> dict[str, Any]:
    """The whole document."""
    return {"schema": SCHEMA, "seed": seed, "host": topology.host(), "limit": LIMIT, "warnings": warnings(entries),
            "curves": list(entries)} | more


def warnings(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was assumed about the published figures."""
    names = dict.fromkeys(entry["figures"] for entry in entries)
    return [f"{name}: {ASSUMED[name]}" for name in names if name in ASSUMED]
