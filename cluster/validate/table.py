"""The tables that `validate` prints for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from shmm.cluster import anchors
from shmm.cluster.table import Column
from shmm.cluster.table import table as plain_table
from shmm.cluster.validate.errors import LIMIT, refuted

WIDE = 131                      # what all columns need
LEGEND = ("off: simulated / published - 1 without its sign, its median and the worst; "
          "shape: relative to the fewest CPUs, ratio: to the older design")
USES = {anchors.CALIBRATION: "calibration", anchors.VALIDATION: "validation (never fitted)"}


def show(document: dict[str, Any], out: Console, points: bool = False) -> None:
    """Prints a document: a line for each curve, with `points` also one for each of its points."""
    curves = document["curves"]
    for number, part in enumerate(columns(out.width) if curves else ()):
        out.print(*([""] if number else []), plain_table(curves, part), sep="\n")
    for curve in curves if points else ():
        out.print(f"\n{curve['curve']}: {curve['unit']}, against {curve['simulated_unit']}", markup=False)
        out.print(plain_table(rows(curve), point_columns(curve)))
    for line in notes(curves):
        out.print(line, style="dim", markup=False, soft_wrap=True)
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    for curve in filter(refuted, curves):
        text = f"{curve['curve']}: the shape is off by {percent(curve['shape']['median'])}, more than {percent(LIMIT)}"
        out.print(text, style="bold red", markup=False)
    if document.get("interrupted"):
        left = "this is what was compared until then" if curves else "nothing was compared yet"
        out.print(f"interrupted: {left}", style="yellow", markup=False)


def columns(width: int) -> list[list[Column]]:
    """What the line of a curve says; on a narrow terminal in two tables.  Errors are medians, then the worst."""
    key: list[Column] = [("curve", False, lambda curve: curve["curve"])]
    shape: list[Column] = [
        ("machine", False, lambda curve: curve["machine"]),
        ("workload", False, lambda curve: curve["workload"]),
        ("points", True, lambda curve: str(len(curve["points"]))),
        ("shape off", True, lambda curve: percent(curve["shape"]["median"])),
        ("worst", True, lambda curve: worst(curve["shape"])),
    ]
    ratio: list[Column] = [
        ("ratio off", True, lambda curve: percent(curve["ratio"]["median"]) if curve["ratio"] else ""),
        ("worst", True, lambda curve: worst(curve["ratio"]) if curve["ratio"] else ""),
        ("use", False, lambda curve: USES[curve["use"]]),
    ]
    return [key + shape + ratio] if width >= WIDE else [key + shape, key + ratio]


def notes(curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """How to read the table, and what the comparisons cannot cover."""
    gaps = {f"{curve['figures']}, not modelled: {gap}": None for curve in curves for gap in curve["not_modelled"]}
    return [LEGEND, *gaps] if curves else []


def percent(share: float | None) -> str:
    """An error in percent, two digits of it."""
    return "" if share is None else f"{100 * share:.{1 if share < 0.0995 else 0}f} %"


def worst(errors: Mapping[str, Any]) -> str:
    """The worst error and where it is."""
    return "" if errors["worst"] is None else f"{percent(errors['worst'])} at {errors['worst_cpus']}"


def rows(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A curve's points, each with its ratio to the older design if there is one."""
    ratios = {value["cpus"]: value for value in curve["ratio"]["values"]} if curve["ratio"] else {}
    return [{**point, "ratio": ratios.get(point["cpus"])} for point in curve["points"]]


def point_columns(curve: Mapping[str, Any]) -> Sequence[Column]:
    """What the line of a point says."""
    out: list[Column] = [
        ("CPUs", True, lambda point: str(point["cpus"])),
        ("published", True, lambda point: f"{point['published']:,g}"),
        ("simulated", True, lambda point: f"{point['simulated']:,.5g}"),
        ("shape, published", True, lambda point: f"{point['published_shape']:.2f}"),
        ("simulated", True, lambda point: f"{point['simulated_shape']:.2f}"),
        ("error", True, lambda point: percent(point["error"]) if point["cpus"] != curve["base_cpus"] else "base"),
    ]
    if curve["ratio"]:
        out += [
            (f"/ {curve['ratio']['before']}, published", True, lambda point: of_ratio(point, "published")),
            ("simulated", True, lambda point: of_ratio(point, "simulated")),
            ("error", True, lambda point: percent(point["ratio"]["error"]) if point["ratio"] else ""),
        ]
    return out


def of_ratio(point: Mapping[str, Any], side: str) -> str:
    """One side of a point's ratio to the older design."""
    return f"{point['ratio'][side]:.2f}x" if point["ratio"] else ""
