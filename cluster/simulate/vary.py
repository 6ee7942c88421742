"""The same points with other figures: does what the machine's own figures say survive them?

    transfer=10..200ns,ipi=0.5..4x:7,line.reader=2..16ns

A range is NAME=LOW..HIGH[UNIT][:N]: N values (default 5) from LOW to HIGH, each as many times the one before; the
machine's own is one of them if it lies between, in the place of the nearest.  NAME is a figure of the machine, or a
group of which the first is given and the others keep their proportion to it.  UNIT: that of the figure, or x, times the
machine's own.

One range is varied at a time, on every point of the run.  What the machine's own figures give is in "runs" already and
is not simulated again; the other runs serve for their ratios alone.  What the ratios say is in conclusions.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from shmm.cluster.config import Config
from shmm.cluster.machines import FIGURES, Machine, MachineError
from shmm.cluster.simulate import conclusions, costs
from shmm.cluster.words import BASE

# Names for figures that change together; the first is the one whose value is given.
GROUPS = {
    "transfer": ("line.cluster", "line.socket", "line.remote"),
    "memory": ("line.memory", "line.memory_remote"),
    "clear": ("page.clear", "page.copy"),
    "bandwidth": ("page.bandwidth",),
    "exception": ("kernel.exception",),
    "ipi": ("ipi.deliver", "ipi.send", "ipi.handle"),
    "sleep": ("sleep.resume", "sleep.wake", "sleep.block"),
    costs.JITTER_NAME: (costs.JITTER_NAME,),        # of no machine: the engine's own, see costs.py
}
UNITS = {"ns": "ns", "GBps": "GB_per_s", "x": "x"}  # as they are given -> as figures have them
VALUES, MOST_VALUES = 5, 16
CLOSEST = 1.001                 # HIGH / LOW: values nearer to each other are hardly told apart
DIGITS = 3                      # of a value that nobody gave

_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_RANGE = re.compile(rf"([\w.]+?)={_NUMBER}\.\.{_NUMBER}([A-Za-z]*)(?::(\d+))?")


class VaryError(ValueError):
    """Such a range cannot be.  One line, with what there is."""


@dataclass(frozen=True)
class Range:
    """A range as it was asked for."""

    name: str
    low: float
    high: float
    unit: str                   # that of the first figure, or x
    count: int

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that vary together."""
        return GROUPS.get(self.name, (self.name,))


@dataclass(frozen=True)
class Sweep:
    """A range on a machine."""

    name: str
    unit: str
    own: float                                          # the machine's own value, in the unit
    values: tuple[float, ...]                           # ascending
    figures: tuple[tuple[tuple[str, float], ...], ...]  # of each value: the figures, as Config.figures has them


# ---- what is asked for --------------------------------------------------------------------------------------------

def parse(text: str) -> tuple[Range, ...]:
    """The ranges between commas.  Raises VaryError."""
    out = [_range(word.strip()) for word in text.split(",")]
    for number, one in enumerate(out):
        if one.name in [other.name for other in out[:number]]:
            raise VaryError(f"{one.name} is varied twice: give it one range")
    return tuple(out)


def _range(word: str) -> Range:
    match = _RANGE.fullmatch(word)
    if match is None:
        raise VaryError(f"{word!r} is not NAME=LOW..HIGH[UNIT][:N], such as transfer=10..200ns or ipi=0.5..4x:7; "
                        f"{_names()}")
    name, given, low, high = match[1], match[4], float(match[2]), float(match[3])
    if name not in FIGURES and name not in GROUPS:
        raise VaryError(f"there is no figure {name!r} to vary; {_names()}")
    lead = GROUPS.get(name, (name,))[0]
    unit = UNITS.get(given) if given else _unit(lead)
    if unit is None or unit not in (_unit(lead), "x"):
        own = next((text for text, unit in UNITS.items() if unit == _unit(lead)), "no unit")
        raise VaryError(f"{word}: {name} is varied in {own}, or in x, times the machine's own, not in {given}")
    if not 0 < low * CLOSEST <= high < math.inf:
        raise VaryError(f"{word}: LOW must be greater than 0, for each value is so many times the one before, and less "
                        f"than HIGH")
    count = int(match[5] or VALUES)
    if not 2 <= count <= MOST_VALUES:
        raise VaryError(f"{word}: a range has 2 to {MOST_VALUES} values, not {count}")
    return Range(name, low, high, unit, count)


def _unit(figure: str) -> str:
    return FIGURES.get(figure, "ratio")


def _names() -> str:
    return f"there are the groups {', '.join(GROUPS)} and the figures {', '.join(FIGURES)}"


# ---- on a machine -------------------------------------------------------------------------------------------------

def sweep(asked: Range, machine: Machine, cpus: int) -> Sweep:
    """The range's values on the machine, of which so many CPUs run.  Raises VaryError, MachineError for figures that
    no machine can have."""
    lead = _own(machine, asked.figures[0])
    if lead == 0 and (asked.unit == "x" or len(asked.figures) > 1):
        way = "give the range in ns" if len(asked.figures) == 1 else "vary the figures of the group one by one"
        raise VaryError(f"--vary {asked.name}: {asked.figures[0]} is 0 on {machine.name}, and nothing is in proportion "
                        f"to it: {way}")
    own = 1.0 if asked.unit == "x" else lead
    values = spaced(asked.low, asked.high, asked.count, own)
    figures = [_figures(asked, machine, value) for value in values]
    for changed in figures:
        try:
            costs.costs(costs.with_figures(machine, changed), cpus, jitter=costs.jitter(changed))
        except MachineError as error:
            raise MachineError(f"--vary {asked.name}: {error}") from None
    return Sweep(asked.name, asked.unit, own, tuple(values), tuple(figures))


def spaced(low: float, high: float, count: int, own: float) -> list[float]:
    """That many values from low to high, each as many times the one before; own, if it is between, instead of the
    nearest, or beside it if that is low or high."""
    step = (high / low) ** (1 / (count - 1))
    out: list[float] = []
    for digits in range(DIGITS, 17):
        out = [low, *[float(f"{low * step**i:.{digits}g}") for i in range(1, count - 1)], high]
        if all(a < b for a, b in pairwise(out)):
            break
    if low < own < high:
        nearest = min(range(count), key=lambda i: abs(math.log(out[i] / own)))
        out[nearest:nearest + 1] = [own] if 0 < nearest < count - 1 else sorted((own, out[nearest]))
    return out


def _own(machine: Machine, figure: str) -> float:
    return costs.JITTER / costs.ALL if figure == costs.JITTER_NAME else machine.figures[figure].value


def _figures(asked: Range, machine: Machine, value: float) -> tuple[tuple[str, float], ...]:
    times = value if asked.unit == "x" else value / lead if (lead := _own(machine, asked.figures[0])) else 0.0
    out = [(figure, float(f"{_own(machine, figure) * times:.12g}")) for figure in asked.figures]
    if asked.unit != "x":
        out[0] = (asked.figures[0], value)              # as it was given, to the last digit
    return tuple(out)


# ---- runs ---------------------------------------------------------------------------------------------------------

def points(sweeps: Sequence[Sweep], base: Sequence[Config], runs: Sequence[dict[str, Any]]) -> list[Config]:
    """What must be simulated beside the runs of the base points: every point with every value but the machine's own.

    The size is that of the runs, which may have depended on the memory that was free."""
    return [
        replace(point, size=run["bytes_per_cpu"], figures=figures)
        for sweep in sweeps for value, figures in zip(sweep.values, sweep.figures, strict=True) if value != sweep.own
        for point, run in zip(base, runs, strict=True)
    ]


def document(
    sweeps: Sequence[Sweep], base: Sequence[Config], runs: Sequence[dict[str, Any]],
    varied: Sequence[dict[str, Any] | None],
) -> list[dict[str, Any]]:
    """The document's "vary": for each sweep its values, and for each point that is compared the ratios, and the lowest
    and highest of the seeds; null where a run is missing.  varied: the runs of points(), None for those that are
    missing."""
    rest = iter(varied)
    out = []
    for sweep in sweeps:
        by_value = [list(runs) if value == sweep.own else [next(rest) for _ in base] for value in sweep.values]
        out.append({
            "name": sweep.name, "unit": sweep.unit, "values": list(sweep.values), "machine_value": sweep.own,
            "figures": {name: [dict(figures)[name] for figures in sweep.figures] for name, _ in sweep.figures[0]},
            "points": [_point(sweep, number, base, runs, by_value) for number, point in enumerate(base)
                       if point.scheme != BASE],
            "violations": sum(_broken(run) for some in by_value for run in some if run is not None),
        })
    return out


def _point(
    sweep: Sweep, number: int, base: Sequence[Config], runs: Sequence[dict[str, Any]],
    by_value: Sequence[Sequence[dict[str, Any] | None]],
) -> dict[str, Any]:
    point = base[number]
    other = next(i for i, one in enumerate(base) if one == replace(point, scheme=BASE))
    ratios = [_ratio(some[number], some[other]) for some in by_value]
    at_home = _ratio(runs[number], runs[other])
    return {"workload": point.workload, "workload_args": list(point.workload_args), "cpus": point.cpus,
            "scheme": point.scheme, "base": BASE,
            "machine_ratio": at_home and at_home.median, "machine_seeds": at_home and [at_home.low, at_home.high],
            "ratios": [ratio and ratio.median for ratio in ratios],
            "seeds": [ratio and [ratio.low, ratio.high] for ratio in ratios],
            "holds": conclusions.holds(sweep.values, ratios, sweep.own, at_home)}


def _ratio(run: dict[str, Any] | None, base: dict[str, Any] | None) -> conclusions.Ratio | None:
    """Of the medians; and of each seed, for the same seed serves both schemes.  None where a run is missing or did
    nothing."""
    if run is None or base is None or not all(base["ops_per_s_all"]):
        return None
    seeds = [one / other for one, other in zip(run["ops_per_s_all"], base["ops_per_s_all"], strict=True)]
    return conclusions.Ratio(run["ops_per_s"] / base["ops_per_s"], min(seeds), max(seeds))


def _broken(run: dict[str, Any]) -> int:
    return run["violations"] + (run["frames_leaked"] or 0)
