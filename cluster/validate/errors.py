"""How far a simulated curve is from the published one: errors of its shape, and of its ratio to the older design's.

An error is |simulated / published - 1|.  Entries are those of "curves" in the JSON document; the base point of a
shape, which is right by definition, is in no median."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from shmm.cluster import anchors
from shmm.cluster.validate.curves import Curve

LIMIT = 0.20                    # of a validation curve's median shape error: beyond it the model is not believed


def relative(simulated: float, published: float) -> float:
    """The relative error, never negative."""
    return abs(simulated / published - 1)


def summary(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median error and the worst with its number of CPUs; nulls if there is no point."""
    if not points:
        return {"points": 0, "median": None, "worst": None, "worst_cpus": None}
    worst = max(points, key=lambda point: point["error"])
    return {"points": len(points), "median": statistics.median(point["error"] for point in points),
            "worst": worst["error"], "worst_cpus": worst["cpus"]}


def entry(curve: Curve, simulated: Mapping[int, float]) -> dict[str, Any]:
    """One element of "curves", its ratio still open.  simulated: CPUs -> the simulator's figure, for every point."""
    figures = anchors.load(curve.figures)
    points = []
    for cpus, published in sorted(curve.published.items()):
        shape = curve.level(cpus) / curve.level(curve.base)
        ours = simulated[cpus] / simulated[curve.base]
        points.append({"cpus": cpus, "published": published, "simulated": simulated[cpus], "published_shape": shape,
                       "simulated_shape": ours, "error": relative(ours, shape)})
    return {
        "curve": curve.name, "figures": curve.figures, "use": figures["use"], "source": figures["source"],
        "machine": curve.machine, "workload": curve.workload, "scheme": curve.scheme,
        "unit": figures["unit"], "simulated_unit": curve.simulated, "base_cpus": curve.base,
        "not_modelled": figures.get("not_modelled", []),
        "shape": summary([point for point in points if point["cpus"] != curve.base]), "ratio": None, "points": points,
    }


def ratio(
    curve: Curve, simulated: Mapping[int, float], before: Curve, simulated_before: Mapping[int, float],
) -> dict[str, Any]:
    """How many times the older design's throughput the curve's design reaches, where both were published."""
    points = []
    for cpus in sorted(set(curve.published) & set(before.published)):
        published = curve.level(cpus) / before.level(cpus)
        ours = simulated[cpus] / simulated_before[cpus]
        points.append({"cpus": cpus, "published": published, "simulated": ours, "error": relative(ours, published)})
    return {"before": before.name, **summary(points), "values": points}


def compare(curves: Sequence[Curve], simulated: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """The entries of the curves that were simulated.  simulated: a curve's name -> CPUs -> the simulator's figure."""
    named = {curve.name: curve for curve in curves if curve.name in simulated}
    out = []
    for name, curve in named.items():
        out.append(entry(curve, simulated[name]))
        if curve.before in named:
            out[-1]["ratio"] = ratio(curve, simulated[name], named[curve.before], simulated[curve.before])
    return out


def refuted(curve: Mapping[str, Any]) -> bool:
    """Whether an entry says that the model does not hold."""
    median = curve["shape"]["median"]
    return bool(curve["use"] == anchors.VALIDATION and median is not None and median > LIMIT)
