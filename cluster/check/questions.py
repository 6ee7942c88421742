"""What reviewers asked, answered by exploring.

A question names the scenarios that show its matter, and the protections it is about: first the protocol as it is is
explored, then each protection is taken away and the counterexample is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shmm.cluster.check.explore import Task
from shmm.cluster.check.mutants import SURVIVORS
from shmm.cluster.check.schedule import NO_MUTANT, Schedule
from shmm.cluster.config import SCHEMES


class QuestionError(ValueError):
    """There is no such question."""


@dataclass(frozen=True)
class Question:
    """One question and how exploring answers it."""

    name: str
    asked: str
    by: str
    source: str
    scenarios: tuple[str, ...]
    mutants: tuple[str, ...]            # what to take away, one after the other
    answer: str
    scheme: str = "spf"                 # in which it is taken away
    variants: tuple[str, ...] = ("base",)
    memory: tuple[str, ...] = ("sc",)
    bound: int = 2


QUESTIONS: dict[str, Question] = {question.name: question for question in (
    Question(
        name="rbtree-descent",
        asked="How do you know that each pointer is the right one, descending the tree without a lock?",
        by="review of the series", source="speculative page faults v2, 13/35",
        scenarios=("fault_munmap", "reader_across_grace", "split_merge"),
        mutants=("VMA_FREE_NOW", "SEQ_BOTH"),
        answer="It need not be the right one: the slot stays readable for a grace period, and a descent that met a "
               "writer is thrown away when mmap_seq is looked at again.",
    ),
    Question(
        name="irq-off",
        asked="Why are interrupts off during the speculative page-table walk?",
        by="review of the series", source="speculative page faults v2, 14/35",
        scenarios=("table_free_walk",), mutants=("WALK_UNPROTECTED", "TABLE_FREE_NOW"),
        answer="A table is freed only after a shootdown, and that waits for every CPU with interrupts off: so the "
               "memory of the tables stays as long as the walk lasts.  With an RCU section instead, tables must be "
               "freed by RCU.",
    ),
)}


def find(name: str) -> Question:
    """The question of this name.  Raises QuestionError."""
    if name not in QUESTIONS:
        raise QuestionError(f"there is no question {name!r}; there are {', '.join(QUESTIONS)}")
    return QUESTIONS[name]


def introduction(question: Question) -> list[str]:
    """What is asked, and by whom."""
    return [question.asked, f"    {question.by}, {question.source}", ""]


def tasks(question: Question) -> list[Task]:
    """The protocol as it is under both schemes, then without each protection."""
    def points(scheme: str, mutant: str) -> list[Task]:
        return [Task(scenario, scheme, variant, memory, bound=question.bound, mutant=mutant)
                for scenario in question.scenarios for variant in question.variants for memory in question.memory]

    whole = [task for scheme in SCHEMES for task in points(scheme, NO_MUTANT)]
    return whole + [task for mutant in question.mutants for task in points(question.scheme, mutant)]


def first_of_each_mutant(schedules: Sequence[Schedule]) -> list[Schedule]:
    """Of the schedules that break something, the first without each protection."""
    out: dict[str, Schedule] = {}
    for one in schedules:
        out.setdefault(one.mutant, one)
    return list(out.values())


def as_expected(question: Question, runs: Sequence[dict[str, Any]]) -> bool:
    """Whether nothing breaks as it is, and something does without each protection that anything notices."""
    broken = {run["mutant"] for run in runs if run["violation"] is not None}
    return None not in broken and set(question.mutants) - set(SURVIVORS) <= broken
