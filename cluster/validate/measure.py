"""The simulator's side: each point of the curves is run once, however many curves want it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from shmm.cluster.config import Config
from shmm.cluster.crew import ClusterError
from shmm.cluster.validate.curves import Bench, Curve, Request

Results = dict[Request, Mapping[str, Any]]


class Simulator(Protocol):
    """What of shmm.cluster.simulate is used here."""

    def run_points(self, points: Sequence[Config], jobs: int) -> list[dict[str, Any]]:
        """An element of "runs" of shmm.run/1 for each point, in order; rates are in virtual time."""

    def line_bench(self, machine: str, kind: str, cpus: int, seed: int) -> dict[str, float | None]:
        """ns_per_write and ns_per_read, mean per operation and CPU; None of what nobody does."""


def simulator() -> Simulator:
    """The simulator, whose engine is loaded only when something is to be run."""
    return cast(Simulator, importlib.import_module("shmm.cluster.simulate"))


def requests(curves: Sequence[Curve], seed: int) -> list[Request]:
    """What the curves' points need, each once."""
    return list(dict.fromkeys(curve.request(cpus, seed) for curve in curves for cpus in curve.published))


def run(wanted: Sequence[Request], seed: int, jobs: int) -> Results:
    """Runs everything, points in `jobs` processes; benchmarks of lines take milliseconds.  Raises what the simulator
    raises."""
    engine = simulator()
    results: Results = {one: engine.line_bench(one.machine, one.kind, one.cpus, seed)
                        for one in wanted if isinstance(one, Bench)}
    points = [request for request in wanted if isinstance(request, Config)]
    if points:
        results.update(zip(points, engine.run_points(points, jobs), strict=True))
    return results


def figures_of(curve: Curve, results: Results, seed: int) -> dict[int, float]:
    """CPUs -> the figure that the curve is about.  Raises ClusterError if the simulator has none."""
    out = {}
    for cpus in curve.published:
        value = results[curve.request(cpus, seed)].get(curve.simulated)
        if not value or not value > 0:
            raise ClusterError(f"the simulator has no {curve.simulated} of {curve.workload} on {curve.machine} with "
                               f"{cpus} CPUs ({value}): run that alone with `shmm validate --only {curve.name!r}`")
        out[cpus] = float(value)
    return out
