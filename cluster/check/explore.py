"""Exploring one scenario: a Task says how, run() does it and returns what "runs" of shmm.check/1 holds.

The engine works in slices, so that Ctrl-C and the time limit are noticed and somebody can be told how far it is.  A
violation is made as small as possible before it is reported (shrink.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shmm.cluster.check import schedule
from shmm.cluster.check.scenario import Scenario, Stage, load
from shmm.cluster.check.schedule import MUTANTS, NO_MUTANT, Deviation, Schedule

SLICE = 200_000                 # schedules between two looks around
SLOW_SLICE = 2_000              # of strategies that run every schedule from its beginning
SAMPLES = 20_000                # schedules of random and pct
STRATEGIES = ("dfs", "random", "pct")

Progress = Callable[[int], None]            # told how many schedules have been run so far


@dataclass(frozen=True)
class Task:
    """One exploration."""

    scenario: str
    scheme: str = "spf"
    variant: str = "base"
    memory: str = "sc"
    strategy: str = "dfs"
    bound: int = 2                  # dfs
    depth: int = 3                  # pct
    seed: int = 1                   # random, pct
    mutant: str = NO_MUTANT
    schedules: int | None = None    # at most; None: all of dfs, SAMPLES of the others
    seconds: float | None = None    # at most
    shrink: bool = True             # a violation
    script: tuple[Deviation, ...] = ()      # strategy "directed": the one schedule to run

    @property
    def limit(self) -> int | None:
        """Schedules at most."""
        return SAMPLES if self.schedules is None and self.strategy != "dfs" else self.schedules

    def schedule_of(self, deviations: tuple[Deviation, ...]) -> Schedule:
        """A schedule of this task's scenario."""
        return Schedule(self.scenario, self.scheme, self.variant, self.memory, self.mutant, deviations)


class Stopped(Exception):
    """Somebody asked to stop: nothing is the matter with the scenario."""


def never() -> bool:
    """Nobody interrupts."""
    return False


def stage_of(task: Task | Schedule, scenario: Scenario | None = None) -> Stage:
    """The stage on which a task or schedule is run."""
    return Stage(scenario or load(task.scenario), task.scheme, task.variant, task.memory)


def run(task: Task, interrupted: Callable[[], bool] = never, progress: Progress | None = None) -> dict[str, Any]:
    """Explores, and returns the result.  Raises Stopped when interrupted before there is one."""
    with stage_of(task) as stage:
        orders = stage.explorer.sequential()
        started = time.monotonic()
        found = stage.explorer.violation()
        out: dict[str, Any] = {
            "scenario": task.scenario, "scheme": task.scheme, "variant": task.variant,
            "mutant": None if task.mutant == NO_MUTANT else task.mutant, "strategy": task.strategy,
            "bound": task.bound if task.strategy == "dfs" else None,
            "depth": task.depth if task.strategy == "pct" else None, "seed": task.seed, "memory": task.memory,
            "cpus": stage.scene.cpus,
        }
        if found is None:
            counts = search(stage, task, interrupted, progress, started)
            found = stage.explorer.violation()
        else:                           # one operation at a time breaks something already
            counts = {"schedules": 0, "steps": 0, "exhausted": False}
        seconds = time.monotonic() - started
        out |= counts | {"seconds": seconds, "sequential_orders": orders, "states": stage.explorer.states()[0]}
        out["violation"] = None if found is None else violation(stage, task, found, interrupted)
        return out


def search(
    stage: Stage, task: Task, interrupted: Callable[[], bool], progress: Progress | None, started: float,
) -> dict[str, Any]:
    """Runs schedules until all have been run, one of them broke something, or a limit is reached."""
    explorer = stage.explorer
    if task.strategy == "directed":
        explorer.replay(task.script, MUTANTS.index(task.mutant))
        return {"schedules": 1, "steps": explorer.steps(), "exhausted": False}
    explorer.begin(task.strategy, task.bound, task.seed, MUTANTS.index(task.mutant), task.depth)
    size = SLICE if task.strategy == "dfs" else SLOW_SLICE
    done, steps, exhausted = 0, 0, False
    while not exhausted and explorer.violation() is None:
        left = size if task.limit is None else min(size, task.limit - done)
        if left <= 0 or (task.seconds is not None and time.monotonic() - started >= task.seconds):
            break
        done, steps, exhausted = explorer.run(left)
        if progress is not None:
            progress(done)
        if interrupted():
            raise Stopped
    return {"schedules": done, "steps": steps, "exhausted": exhausted}


def violation(
    stage: Stage, task: Task, found: dict[str, Any], interrupted: Callable[[], bool] = never,
) -> dict[str, Any]:
    """What the last schedule broke, as it is reported, with the smallest schedule that does."""
    from shmm.cluster.check import draw, shrink

    deviations = tuple(stage.explorer.schedule())
    proved = False
    if task.shrink:
        found, deviations, proved = shrink.smallest(stage, MUTANTS.index(task.mutant), found, deviations, interrupted)
    stage.explorer.replay(deviations, MUTANTS.index(task.mutant), True)
    again = stage.explorer.violation() or found
    return {
        "invariant": again["invariant"], "what": again["what"],
        "schedule": schedule.format(task.schedule_of(deviations)),
        "preemptions": again["preemptions"], "fewest": proved, "steps": again["steps"],
        "source": None if draw.at_rest(again["invariant"]) else again["source"],
        "other_source": draw.other_source(stage, again),
    }
