"""What ratios over a range of values say: where one scheme beats the other, in sentences and as a table.

One scheme beats another if it does more than 5 % better, with every seed; anything less is no conclusion.  Between two
values at which the ratio is on different sides the border is interpolated, in logarithms of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

MARGIN = 1.05                   # a ratio nearer to 1 is no conclusion: another seed moves it by as much
NO_CONCLUSION = "not a conclusion"
NAMES = {"ns": " ns", "GB_per_s": " GB/s", "ratio": "", "x": "x"}
LEAST = 1e-9                    # of a ratio, for its logarithm


class Ratio(NamedTuple):
    """One scheme's throughput relative to another's."""

    median: float
    low: float                  # of the seeds
    high: float

    @property
    def cautious(self) -> float:
        """That of the seed that is nearest to 1; 1 if they disagree about who is faster."""
        return max(self.low, LEAST) if self.low > 1 else self.high if self.high < 1 else 1.0

    @property
    def side(self) -> int:
        """Who beats whom: 1, -1, or 0."""
        return 1 if self.cautious > MARGIN else -1 if self.cautious < 1 / MARGIN else 0


@dataclass(frozen=True)
class Part:
    """A part of a range in which the ratio stays on one side."""

    side: int                   # 1: the scheme beats the base, -1: the base beats it, 0: neither
    low: float
    high: float
    ratios: tuple[Ratio, ...]
    before: tuple[float, float] | None      # its lower end is interpolated between these values; None: the range's end
    after: tuple[float, float] | None


def parts(values: Sequence[float], ratios: Sequence[Ratio]) -> list[Part]:
    """The parts of a range, ascending."""
    out = []
    for which, run in groupby(range(len(values)), lambda i: ratios[i].side):
        numbers = list(run)
        first, last = numbers[0], numbers[-1]
        more = last + 1 < len(values)
        out.append(Part(
            which, _border(values, ratios, first - 1) if first else values[0],
            _border(values, ratios, last) if more else values[-1], tuple(ratios[i] for i in numbers),
            (values[first - 1], values[first]) if first else None, (values[last], values[last + 1]) if more else None,
        ))
    return out


def _border(values: Sequence[float], ratios: Sequence[Ratio], i: int) -> float:
    """Where the ratio changes sides between values i and i + 1."""
    here, there = ratios[i], ratios[i + 1]
    level = math.log(MARGIN) * (here.side + there.side)         # 0 if who wins one loses the other
    begins, ends = math.log(max(here.cautious, LEAST)), math.log(max(there.cautious, LEAST))
    return values[i] * (values[i + 1] / values[i]) ** ((level - begins) / (ends - begins))


def chosen(found: Sequence[Part], own: float, side: int) -> Part | None:
    """The part in which what the machine's own figures say is so, the nearest to its own value; None: nowhere."""
    alike = [part for part in found if part.side == side]
    return min(alike, key=lambda part: max(part.low / own, own / part.high, 1.0) if own else part.low, default=None)


def holds(values: Sequence[float], ratios: Sequence[Ratio | None], own: float, at_home: Ratio | None) -> list[float]:
    """[low, high], the values for which what the machine's own figures say is so; [] if there are none.

    own, at_home: the machine's own value and its ratio.  While a ratio is missing (None) nothing is known to hold."""
    known = [ratio for ratio in ratios if ratio is not None]
    if at_home is None or len(known) < len(ratios) or not at_home.side:
        return []
    part = chosen(parts(values, known), own, at_home.side)
    return [] if part is None else [part.low, part.high]


# ---- sentences ----------------------------------------------------------------------------------------------------

def sentence(varied: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """What a point's ratios say.  varied: an element of the document's "vary", point: one of its points."""
    values, own = varied["values"], varied["machine_value"]
    ratios, at_home = _ratios(point)
    if at_home is None or len(ratios) < len(values):
        return f"{_claim(0, point)}, {varied['name']}: runs are missing, {NO_CONCLUSION}"
    found = parts(values, ratios)
    first = chosen(found, own, at_home.side)
    rest = [_clause(varied, part, _claim(part.side, point, short=True)) for part in found if part is not first]
    if first is None:
        survives = f"but for no {varied['name']} {_span(varied)}" if at_home.side else _why([at_home])
        home = f"with the machine's own {_value(own, varied)} ({_told([at_home])}), {survives}"
        return "; ".join([f"{_claim(at_home.side, point)} {home}", *rest])
    home = (f"{_value(own, varied)} is the machine's own" if values[0] <= own <= values[-1]
            else f"{_told([at_home])} with the machine's own {_value(own, varied)}")
    only = " only" if rest and first.side else ""
    return "; ".join([_clause(varied, first, _claim(first.side, point) + only, home), *rest])


def _ratios(point: Mapping[str, Any]) -> tuple[list[Ratio], Ratio | None]:
    """The ratios of all values, without those that are missing, and the machine's own."""
    ratios = [Ratio(ratio, *seeds) for ratio, seeds in zip(point["ratios"], point["seeds"], strict=True)
              if ratio is not None]
    home = point["machine_ratio"]
    return ratios, None if home is None else Ratio(home, *point["machine_seeds"])


def _clause(varied: Mapping[str, Any], part: Part, claim: str, home: str = "") -> str:
    gaps = [f"{_number(low)} and {_number(high)}" for low, high in filter(None, (part.before, part.after))]
    told = [_told(part.ratios), f"interpolated between {', and between '.join(gaps)}" if gaps else "", home]
    text = " ".join(filter(None, (claim, _where(varied, part), f"({'; '.join(filter(None, told))})")))
    return text if part.side else f"{text}: {_why(part.ratios)}"


def _claim(side: int, point: Mapping[str, Any], short: bool = False) -> str:
    """Who beats whom; short: after somebody has said on how many CPUs."""
    one, other = (point["base"], point["scheme"]) if side < 0 else (point["scheme"], point["base"])
    if short:
        return f"{one} beats {other}" if side else ""
    return f"{one} {'beats' if side else 'against'} {other} at {point['cpus']} CPU{'s' if point['cpus'] > 1 else ''}"


def _why(ratios: Sequence[Ratio]) -> str:
    """Why these ratios are no conclusion."""
    within = all(1 / MARGIN <= end <= MARGIN for ratio in ratios for end in ratio)
    agree = all(ratio.low >= 1 or ratio.high <= 1 for ratio in ratios)
    reason = f"within {100 * MARGIN - 100:.0f} %"
    return f"{reason if within or agree else f'{reason}, or the seeds disagree'}: {NO_CONCLUSION}"


def _told(ratios: Sequence[Ratio]) -> str:
    low, high = (f"{end:.2f}x" for end in (min(ratio.low for ratio in ratios), max(ratio.high for ratio in ratios)))
    return low if low == high else f"{low} to {high}"


def _where(varied: Mapping[str, Any], part: Part) -> str:
    low, high = f"about {_value(part.low, varied)}", f"about {_value(part.high, varied)}"
    if part.before and part.after:
        return f"from {low} to {high}"
    if part.before:
        return f"from {low} on"
    return f"up to {high}" if part.after else f"for every {varied['name']} {_span(varied)}"


def _span(varied: Mapping[str, Any]) -> str:
    return f"from {_number(varied['values'][0])} to {_value(varied['values'][-1], varied)}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _value(value: float, varied: Mapping[str, Any]) -> str:
    return f"{_number(value)}{NAMES[varied['unit']]}"


# ---- for people ---------------------------------------------------------------------------------------------------

def show(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """For each workload of the document's "vary" its table, the conclusions under it; then what else is to be said."""
    vary = document.get("vary", [])
    if not vary:
        return
    run = next(run for run in document["runs"] if run["engine"] == "sim")
    for workload in dict.fromkeys(point["workload"] for varied in vary for point in varied["points"]):
        yield _about(vary, workload, run)
    for varied in vary:
        if varied["violations"]:
            yield Text(f"with other figures of {varied['name']}: {varied['violations']} violations or leaked frames",
                       style="bold red")
    if run["repeats"] == 1:
        yield Text("one seed: --repeats N asks N of them, and draws the conclusions in which they agree", style="dim")


def _about(vary: Sequence[Mapping[str, Any]], workload: str, run: Mapping[str, Any]) -> RenderableType:
    """One workload's table and conclusions; run: any of the machine's own."""
    mine = [(varied, [point for point in varied["points"] if point["workload"] == workload]) for varied in vary]
    first = mine[0][1][0]
    out = Table(box=None, pad_edge=False, show_header=False)
    for number in range(3 + max(len(varied["values"]) for varied in vary)):
        out.add_column(justify="left" if number in (0, 2) else "right", no_wrap=True)
    for varied, points in mine:
        marks = [f"{_number(value)}{'*' if value == varied['machine_value'] else ' '}" for value in varied["values"]]
        unit = NAMES[varied["unit"]].strip()
        out.add_row(f"{varied['name']}, {unit}" if unit else varied["name"], "CPUs", "scheme", *marks, style="bold")
        for point in points:
            out.add_row("", str(point["cpus"]), point["scheme"], *_cells(point))
    title = Text(f"{' '.join([workload, *first['workload_args']])}: ratio to {first['base']} with other figures than "
                 f"those of {run['machine']} (*)", style="bold")
    return Group(title, out, *[Text(sentence(varied, point)) for varied, points in mine for point in points])


def _cells(point: Mapping[str, Any]) -> Iterator[Text]:
    """The ratios, dim where they are no conclusion."""
    for ratio, seeds in zip(point["ratios"], point["seeds"], strict=True):
        if ratio is None:
            yield Text("")
        else:
            yield Text(f"{ratio:.2f}x", style="" if Ratio(ratio, *seeds).side else "dim")
