"""What a run shows while it works, on stderr: a live line on a terminal, a plain line per point elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from shmm.cluster.config import Config
from shmm.cluster.words import quantity

SETUP_SECONDS = 1.0             # of a point, for the estimate of the remaining time


class Live:
    """A live line on stderr if that is a terminal; `live` is None elsewhere."""

    def __init__(self, total: float, *columns: ProgressColumn) -> None:
        """total: what `completed` will come to; columns: beside description, bar and rate."""
        self.console = Console(stderr=True, highlight=False)
        self.live: Progress | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            # refreshed by hand: a thread of its own could be forked in the middle of anything
            self.live = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), *columns,
                console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False,
            )
            self.task = self.live.add_task("", total=total, rate="")

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()


class Tasks(Live):
    """Progress of tasks that are worked on side by side (pool.py)."""

    def __init__(self, titles: Sequence[str], unit: str) -> None:
        """unit: of what the tasks count, such as "schedules"."""
        super().__init__(len(titles))
        self.titles, self.unit = titles, unit
        self.so_far = [0] * len(titles)
        self.done = 0
        self.started = time.monotonic()

    def notice(self, number: int, so_far: int, result: Any) -> None:
        """The task of this number has come so far, or to its end (pool.Notice)."""
        if result is not None:
            self.done += 1
        else:
            self.so_far[number] = so_far
        if self.live is not None:
            rate = sum(self.so_far) / max(time.monotonic() - self.started, 0.1)
            self.live.update(self.task, completed=self.done, description=self.titles[number],
                             rate=f"{quantity(rate)} {self.unit}/s")
            self.live.refresh()
        elif result is not None:
            self.console.print(f"[{self.done}/{len(self.titles)}] {self.titles[number]}", markup=False, soft_wrap=True)


class View(Live):
    """Progress of a list of points."""

    def __init__(self, points: list[Config]) -> None:
        super().__init__(sum(map(cost, points)), TimeRemainingColumn())
        self.points = points
        self.done = 0.0
        self.point = points[0] if points else Config()

    def begin(self, number: int) -> None:
        """The point of this number starts."""
        self.point = self.points[number]
        self.done = sum(map(cost, self.points[:number]))
        if self.live is None:
            place = f"[{number + 1}/{len(self.points)}]"
            self.console.print(f"{place} {title(self.point)} ...", markup=False, soft_wrap=True)
        else:
            self._refresh(0.0, f"{title(self.point)}, starting", "")

    def update(self, run: int, seconds: float, ops: int) -> None:
        """The point's run-th repeat has taken so many seconds (launch.Progress)."""
        if self.live is None or seconds <= 0:
            return
        repeat = f", {run} of {self.point.repeats}" if self.point.repeats > 1 else ""
        spent = SETUP_SECONDS + (run - 1) * self.point.seconds + seconds
        self._refresh(spent, title(self.point) + repeat, f"{quantity(ops / seconds)} ops/s")

    def _refresh(self, spent: float, description: str, rate: str) -> None:
        assert self.live is not None
        done = self.done + min(spent, cost(self.point))
        self.live.update(self.task, completed=done, description=description, rate=rate)
        self.live.refresh()


def title(point: Config) -> str:
    """A point's name."""
    args = "".join(f" {word}" for word in point.workload_args)
    figures = "".join(f", {name} {value:g}" for name, value in point.figures)
    return f"{point.workload}{args}, {point.scheme}, {point.cpus} CPU{'s' if point.cpus > 1 else ''}{figures}"


def cost(point: Config) -> float:
    """Seconds that a point will take, roughly."""
    return SETUP_SECONDS + point.repeats * point.seconds
