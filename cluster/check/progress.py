"""What `check` shows while it works, on stderr: a live line on a terminal, a plain line per exploration elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from shmm.cluster.progress import Live
from shmm.cluster.table import quantity


class View(Live):
    """Progress of a list of tasks."""

    def __init__(self, titles: Sequence[str]) -> None:
        super().__init__(len(titles))
        self.titles = titles
        self.schedules = [0] * len(titles)
        self.done = 0
        self.started = time.monotonic()

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
