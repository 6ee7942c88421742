"""`oracle`: the same program on this machine's kernel and on the native engine; nothing may differ.

    programs.py  where programs work, and their records       generate.py  what Hypothesis draws
    real.py      executes one on the host's kernel            emulate.py   and one on the native engine
    outcome.py   what came of it        compare.py  differences, in words        judge.py  all of that, for one program
    search.py    finds a program that differs, and shortens it                   campaign.py  many searches, side by side
    coverage.py  what was executed      kept.py  programs as files               table.py     what people see
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shmm.cluster import pool, session, topology
from shmm.cluster.check.options import check_path, whole
from shmm.cluster.config import SCHEMES
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.options import names, positive
from shmm.cluster.progress import Tasks
from shmm.segment import SegmentError

SCHEMA = "shmm.oracle/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The oracle command's options."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="compare these kept programs instead of generated ones")
    parser.add_argument("--programs", type=positive(int), default=200, metavar="N", help="to generate (default: 200)")
    parser.add_argument("--seed", type=whole(2**31 - 1), default=1, metavar="N", help="of the programs (default: 1)")
    parser.add_argument("--scheme", type=names, default=SCHEMES, metavar="A[,B...]",
                        help=f"concurrency designs, each compared (default: {','.join(SCHEMES)})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write each divergence there as a program")
    parser.add_argument("--coverage", action="store_true", help="show what the programs did")
    parser.add_argument("--jobs", type=positive(int), default=topology.usable_cores(), metavar="N",
                        help="processes (default: the cores of this machine)")
    parser.add_argument("--json", metavar="FILE|-", help="write the results there as one JSON document")
    parser.set_defaults(parser=parser)


def main(args: argparse.Namespace) -> int:
    """Compares, prints what differs, and returns the exit status: 1 if anything does."""
    for scheme in args.scheme:
        if scheme not in SCHEMES:
            args.parser.error(f"argument --scheme: {scheme!r} does not exist, choose from {', '.join(SCHEMES)}")
    if args.json not in (None, "-"):
        check_path("json", Path(args.json), False, args.parser)
    problem = unable(bool(args.files))
    if problem:
        print(f"shmm: {problem}", file=sys.stderr)
        return session.ENVIRONMENT
    from shmm.cluster.oracle import kept, table

    began = time.monotonic()
    try:
        total, status, error = replay(args) if args.files else run(args)
    except kept.KeptError as failed:
        args.parser.error(str(failed))
    total["seconds"] = round(time.monotonic() - began, 3)
    more: dict[str, Any] = {"interrupted": True} if status == session.INTERRUPTED else {}
    more |= {"error": error} if error is not None else {}
    session.report(document(args, total, more), functools.partial(table.show, coverage=args.coverage), args.json)
    if args.keep is not None and total["divergences"]:
        for path in kept.write(args.keep, total["divergences"]):
            print(f"kept {path}", file=sys.stderr)
    return session.VIOLATION if status == session.OK and total["divergences"] else status


def unable(replays: bool) -> str:
    """Why this environment cannot do it, and what to do; empty: it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the oracle compares with Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    if not replays and importlib.util.find_spec("hypothesis") is None:
        return "generated programs need Hypothesis: pip install 'shmm[oracle]'"
    if importlib.util.find_spec("shmm._host") is None:
        return "the host engine is not built: python setup.py build_ext -i"
    return ""


def run(args: argparse.Namespace) -> tuple[dict[str, Any], int, str | None]:
    """A campaign: its figures, the exit status, what went wrong."""
    from shmm import host
    from shmm.cluster.oracle import campaign
    from shmm.cluster.oracle.emulate import SeedError

    wanted = campaign.tasks(args.programs, args.seed, args.scheme)
    status, error = session.OK, None
    results: Sequence[Any] = []
    with session.interruptible() as interrupted, Tasks([title(task) for task in wanted], "programs") as view:
        try:
            results = pool.run_all(wanted, campaign.work, args.jobs, interrupted=interrupted, notice=view.notice,
                                   name=title, passed=(host.HostError, SeedError))
        except Interrupted as stopped:
            results, status = [result for result in stopped.result if result is not None], session.INTERRUPTED
        except ClusterError as failed:
            status, error = session.VIOLATION, str(failed)
        except (host.HostError, SeedError, SegmentError, MemoryError, OSError) as failed:
            status, error = session.ENVIRONMENT, str(failed)
    return campaign.merged(results), status, error


def title(task: Any) -> str:
    """A task's name for people."""
    return f"programs {task.number * 50 + 1} to {task.number * 50 + task.programs}, seed {task.seed}"


def replay(args: argparse.Namespace) -> tuple[dict[str, Any], int, str | None]:
    """Kept programs: the same figures."""
    from shmm import host
    from shmm.cluster.oracle import campaign, coverage, kept, programs
    from shmm.cluster.oracle.emulate import SeedError
    from shmm.cluster.oracle.judge import Judge

    wanted = [(path, kept.read(path)) for path in args.files]
    results = []
    try:
        with Judge(args.scheme) as judge:
            for path, program in wanted:
                verdict = judge(program)
                found = [campaign.entry(verdict, path.stem)] if verdict.differences else []
                results.append({"programs": 1, "operations": programs.operations(program), "divergences": found,
                                "again": 0, "coverage": coverage.count(verdict, judge)})
    except (host.HostError, SeedError, SegmentError, MemoryError, OSError) as failed:
        return campaign.merged(results), session.ENVIRONMENT, str(failed)
    return campaign.merged(results), session.OK, None


def document(args: argparse.Namespace, total: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The whole document."""
    return {"schema": SCHEMA, "seed": None if args.files else args.seed, "host": topology.host(),
            "kernel": platform.release(), "schemes": list(args.scheme), "files": [str(path) for path in args.files],
            "warnings": []} | total | more
