"""What `check` shows while it works, on stderr: a live line on a terminal, a plain line per exploration elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from shmm.cluster.table import quantity


class View:
    """Progress of a list of tasks."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = titles
        self.schedules = [0] * len(titles)
        self.done = 0
        self.started = time.monotonic()
        self.console = Console(stderr=True, highlight=False)
        self.live: Progress | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"),
                                 console=self.console, auto_refresh=False, transient=True,
                                 redirect_stdout=False, redirect_stderr=False)
            self.task = self.live.add_task("", total=len(titles), rate="")

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def notice(self, number: int, schedules: int, result: Any) -> None:
        """The task of this number has run so many schedules, or has come to its end (pool.Notice)."""
        if result is not None:
            self.done += 1
        else:
            self.schedules[number] = schedules
        if self.live is not None:
            rate = sum(self.schedules) / max(time.monotonic() - self.started, 0.1)
            self.live.update(self.task, completed=self.done, description=self.titles[number],
                             rate=f"{quantity(rate)} schedules/s")
            self.live.refresh()
        elif result is not None:
            self.console.print(f"[{self.done}/{len(self.titles)}] {self.titles[number]}", markup=False, soft_wrap=True)
