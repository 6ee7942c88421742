"""A session: points measured one after the other; Ctrl-C or an error ends it with what there is so far."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from shmm.cluster import host, results, table
from shmm.cluster.config import HOST, Config
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.launch import Progress, run_point
from shmm.cluster.progress import Tasks, View, title
from shmm.segment import SegmentError

OK, VIOLATION, USAGE, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130

Measure = Callable[[Config, Callable[[], bool], Progress], dict[str, Any]]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into the answer of a function, so that neither comes at a bad moment."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def measure_named(config: Config, interrupted: Callable[[], bool], progress: Progress) -> dict[str, Any]:
    """Measures a point whose workload has a name."""
    if config.engine == HOST:
        return host.run_point(config, interrupted=interrupted, progress=progress)
    return run_point(config, interrupted=interrupted, progress=progress)


def simulate_all(points: Sequence[Config], jobs: int | None, interrupted: Callable[[], bool]) -> list[dict[str, Any]]:
    """The points in virtual time, side by side.  Raises Interrupted with the runs there are."""
    from shmm.cluster import simulate

    try:
        with Tasks([title(point) for point in points], "accesses") as view:
            return simulate.run_points(simulate.common_size(points), jobs, interrupted=interrupted, notice=view.notice)
    except Interrupted as stopped:
        raise Interrupted([run for run in stopped.result or [] if run is not None]) from None


def vary_all(
    sweeps: Sequence[Any], points: Sequence[Config], runs: Sequence[dict[str, Any]], jobs: int | None,
    interrupted: Callable[[], bool],
) -> tuple[list[dict[str, Any]], bool]:
    """The document's "vary" of these points, whose runs are these; and whether all of it is there."""
    from shmm.cluster.simulate import run_points, vary

    varied = vary.points(sweeps, points, runs)
    whole = True
    try:
        with Tasks([title(point) for point in varied], "accesses") as view:
            found: Sequence[Any] = run_points(varied, jobs, interrupted=interrupted, notice=view.notice)
    except Interrupted as stopped:
        found, whole = stopped.result, False
    return vary.document(sweeps, points, runs, found), whole


def measure_all(
    points: Sequence[Config], json_to: str | None, *, measure: Measure = measure_named, modelled: Sequence[Config] = (),
    jobs: int | None = None, sweeps: Sequence[Any] = (),
) -> int:
    """Measures the points, and simulates those that are modelled so many at a time, then with the figures of the
    sweeps; prints the tables, writes the JSON (a path, or - for stdout) and returns the exit status."""
    runs: list[dict[str, Any]] = []
    host_more: dict[str, Any] = {}
    vary: list[dict[str, Any]] = []
    error: str | None = None
    status = OK
    with interruptible() as interrupted:
        try:
            with View(list(points)) as view:
                for number, point in enumerate(points):
                    view.begin(number)
                    runs.append(measure(point, interrupted, view.update))
            if modelled:
                began = time.monotonic()
                simulated = simulate_all(modelled, jobs, interrupted)
                host_more = simulation(simulated, time.monotonic() - began)
                runs += simulated
            if sweeps:
                vary, whole = vary_all(sweeps, modelled, simulated, jobs, interrupted)
                status = OK if whole else INTERRUPTED
        except Interrupted as stopped:
            found = stopped.result or []
            runs += found if isinstance(found, list) else [found]
            status = INTERRUPTED
        except ClusterError as failed:
            error, status = str(failed), VIOLATION
        except SegmentError as failed:
            error, status = str(failed), ENVIRONMENT
        except MemoryError as failed:
            error, status = str(failed), ENVIRONMENT
        except OSError as failed:
            error, status = f"this machine cannot run it: {failed}; see `shmm doctor`", ENVIRONMENT
        finished = results.document(
            runs, (points or modelled)[0].seed, error=error, interrupted=status == INTERRUPTED, host_more=host_more,
        )
        if vary:
            finished["vary"] = vary
        report(finished, table.show, json_to)
    broken = any(run["violations"] or run["frames_leaked"] for run in runs) or any(one["violations"] for one in vary)
    if status == OK and broken:
        status = VIOLATION
    return status


def simulation(runs: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What this host did to simulate these runs: the one thing about them that differs from one time to the next."""
    accesses = sum(run["simulation"]["accesses_in_all"] for run in runs)
    return {"simulation": {"seconds": round(seconds, 3), "accesses": accesses,
                           "accesses_per_s": round(accesses / seconds) if seconds > 0 else 0}}


def report(document: dict[str, Any], show: Callable[[dict[str, Any], Console], None], json_to: str | None) -> None:
    """Shows the document on stdout, or on stderr if the JSON goes to stdout; then the error, if any, on stderr."""
    show(document, table.console(stderr=json_to == "-"))
    if json_to == "-":
        json.dump(document, sys.stdout, indent=1)
        sys.stdout.write("\n")
        sys.stdout.flush()
    elif json_to is not None:
        try:
            results.write(document, Path(json_to))
        except OSError as failed:
            print(f"shmm: cannot write {json_to}: {failed.strerror}", file=sys.stderr)
    if "error" in document:
        print(f"shmm: {document['error']}", file=sys.stderr)
