"""A campaign: so many programs, in tasks of a few that processes work on side by side.

A task's programs follow from the campaign's seed and the task's number alone, so that a campaign finds the same on any
number of cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from shmm.cluster.oracle import coverage, kept
from shmm.cluster.oracle.judge import Judge, Verdict

TASK = 50                               # programs of one task


@dataclass(frozen=True)
class Task:
    """A part of a campaign."""

    seed: int
    number: int
    programs: int
    schemes: tuple[str, ...]


def tasks(programs: int, seed: int, schemes: Sequence[str]) -> list[Task]:
    """The parts of a campaign of so many programs."""
    return [Task(seed, number, min(TASK, programs - first), tuple(schemes))
            for number, first in enumerate(range(0, programs, TASK))]


@cache
def judge_of(schemes: tuple[str, ...]) -> Judge:
    """This process's judge; it ends with the process."""
    return Judge(schemes)


def work(task: Task, tell: Callable[[int], None]) -> dict[str, Any]:
    """A worker's work: what came of a task."""
    from shmm.cluster.oracle.search import Search       # and with it Hypothesis

    judge = judge_of(task.schemes)
    search = Search(judge)
    seen = Counter[str]()

    def watch(verdict: Verdict) -> None:
        seen.update(coverage.count(verdict, judge if search.programs % coverage.EVERY == 1 else None))
        tell(search.programs)

    search.run(task.seed << 20 | task.number, task.programs, watch)
    return {"programs": search.programs, "operations": search.operations, "coverage": dict(seen),
            "divergences": [entry(verdict) for verdict in search.found], "again": search.again}


def entry(verdict: Verdict, name: str = "") -> dict[str, Any]:
    """A divergence as the document has it."""
    return {
        "name": name or kept.name_of(verdict), "kind": verdict.kind, "scheme": verdict.scheme,
        "program": kept.text_of(verdict.program), "differences": [str(one) for one in verdict.differences],
        "host": side(verdict.host), "native": side(verdict.native),
    }


def side(outcome: Any) -> dict[str, Any]:
    """An outcome as the document has it."""
    return {"results": list(outcome.results), "loaded": list(outcome.loaded),
            "maps": [area.line() for area in outcome.areas], "present": sorted(outcome.pages)}


def merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The document's figures: those of all tasks together; of divergences of one kind the shortest program stands
    for all."""
    total: dict[str, Any] = {"programs": 0, "operations": 0, "divergences": [], "diverging_programs": 0}
    seen = Counter[str]()
    shortest: dict[str, dict[str, Any]] = {}
    for result in results:
        total["programs"] += result["programs"]
        total["operations"] += result["operations"]
        total["diverging_programs"] += len(result["divergences"]) + result["again"]
        seen.update(result["coverage"])
        for one in result["divergences"]:
            known = shortest.get(one["kind"])
            if known is None or len(one["program"]) < len(known["program"]):
                shortest[one["kind"]] = one
    total["divergences"] = list(shortest.values())
    return total | {"coverage": coverage.sections(seen)}
