"""The smallest schedule that breaks something: searched again with as few deviations as possible.

Whatever found the violation, depth-first search tries all schedules with no deviation, then with one, and so on; the
first one that breaks anything has the fewest.  (It may break another invariant than the one that was found first: then
that is the simpler story.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shmm.cluster.check.scenario import Stage
from shmm.cluster.check.schedule import Deviation

CAP = 3_000_000             # schedules of one bound
SLICE = 200_000


def smallest(
    stage: Stage, mutant: int, found: dict[str, Any], deviations: tuple[Deviation, ...],
    interrupted: Callable[[], bool], cap: int = CAP,
) -> tuple[dict[str, Any], tuple[Deviation, ...], bool]:
    """The violation, its schedule, and whether it is certain that none has fewer preemptions."""
    proved = True
    for bound in range(found["preemptions"]):
        if interrupted():
            return found, deviations, False
        better, exhausted = search(stage, mutant, bound, interrupted, cap)
        if better is not None:
            return better, tuple(stage.explorer.schedule()), proved
        proved = proved and exhausted
        if not exhausted:
            break                       # the next bound would not come to an end either
    return found, deviations, proved


def search(
    stage: Stage, mutant: int, bound: int, interrupted: Callable[[], bool], cap: int,
) -> tuple[dict[str, Any] | None, bool]:
    """The first violation within the bound, and whether the search came to its end."""
    stage.explorer.begin("dfs", bound, mutant=mutant)
    done, exhausted = 0, False
    while done < cap and not exhausted and not interrupted():
        done, _, exhausted = stage.explorer.run(SLICE)
        found = stage.explorer.violation()
        if found is not None:
            return found, False
    return None, exhausted
