"""`check`: every schedule of a few operations on two to four CPUs, up to a number of preemptions.

    scenario.py   what the CPUs do: build(s) of a scenario, and the machine for it
    explore.py    one exploration from beginning to end          shrink.py    the fewest preemptions
    schedule.py   schedules as text, and files of them
    symbols.py    names for offsets     draw.py  the race as columns     timeline.py  the same for Perfetto
    mutants.py    takes protections away, and sees who notices
    questions.py  what reviewers asked, answered by exploring

The engine below is shmm/_check.pyx; scenarios lie in tests/scenarios.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shmm.cluster import pool, session, topology
from shmm.cluster.check import draw, explore, mutants, options, questions, schedule, timeline
from shmm.cluster.check import table as check_table
from shmm.cluster.check.explore import Task
from shmm.cluster.check.scenario import ScenarioError, available, load
from shmm.cluster.check.schedule import NO_MUTANT, Schedule, ScheduleError
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.progress import Tasks
from shmm.cluster.table import console
from shmm.segment import SegmentError

SCHEMA = "shmm.check/1"
DRAWN = 3               # counterexamples of one call that are drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The check command's options."""
    options.add_options(parser)
    parser.set_defaults(parser=parser)


def main(args: argparse.Namespace) -> int:
    """Does what was asked for and returns the exit status."""
    options.check(args, args.parser)
    try:
        return chosen(args)(args)
    except (ScenarioError, ScheduleError, questions.QuestionError) as error:
        print(f"shmm: {error}", file=sys.stderr)
        return session.USAGE
    except ClusterError as error:
        print(f"shmm: {error}", file=sys.stderr)
        return session.VIOLATION
    except (SegmentError, MemoryError) as error:
        print(f"shmm: {error}", file=sys.stderr)
        return session.ENVIRONMENT


def chosen(args: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Which of the command's modes was asked for."""
    if args.list or args.questions:
        return list_all
    if args.replay is not None:
        return replay
    return check_mutants if args.mutants else answer if args.question is not None else check_scenarios


def list_all(args: argparse.Namespace) -> int:
    """Prints the scenarios or the questions there are."""
    if args.list:
        for name in available():
            print(f"{name:24} {load(name).description}")
    else:
        for question in questions.QUESTIONS.values():
            print(f"{question.name:24} {question.asked}")
    return session.OK


def document(runs: Sequence[Any], seed: int, **more: Any) -> dict[str, Any]:
    """The whole document."""
    return {"schema": SCHEMA, "seed": seed, "host": topology.host(), "warnings": warnings(runs),
            "runs": list(runs)} | more


def warnings(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know about these results."""
    cut = [run for run in runs if run["strategy"] == "dfs" and not run["exhausted"] and run["violation"] is None]
    text = f"{len(cut)} of the explorations were cut short: they say nothing about the schedules that were left out"
    return [text] if cut else []


def explore_one(task: Task, tell: Callable[[int], None]) -> dict[str, Any]:
    """A worker's work."""
    return explore.run(task, progress=tell)


def title(task: Task) -> str:
    """A task's name for people."""
    without = "" if task.mutant == NO_MUTANT else f" without {task.mutant}"
    return f"{task.scenario}, {task.scheme}, {task.variant}, {task.memory}{without}"


def explore_all(tasks: Sequence[Task], jobs: int) -> tuple[list[dict[str, Any]], bool]:
    """The results there are, in order, and whether somebody interrupted."""
    with session.interruptible() as interrupted, Tasks([title(task) for task in tasks], "schedules") as view:
        try:
            runs = pool.run_all(tasks, explore_one, jobs, interrupted=interrupted, notice=view.notice, name=title,
                                passed=(ScenarioError,))
            return runs, False
        except Interrupted as stopped:
            return [run for run in stopped.result if run is not None], True


def check_scenarios(args: argparse.Namespace) -> int:
    """Explores what was asked for, prints and draws."""
    runs, interrupted = explore_all(options.tasks(args), args.jobs)
    more = {"interrupted": True} if interrupted else {}
    session.report(document(runs, args.seed, **more), check_table.show, args.json)
    found = [run for run in runs if run["violation"] is not None]
    schedules = [schedule.parse(run["violation"]["schedule"]) for run in found]
    draw_all(schedules[:DRAWN], args)
    if len(schedules) > DRAWN:
        left = " ".join(schedule.format(one) for one in schedules[DRAWN:])
        console(stderr=args.json == "-").print(f"\nnot drawn: {left}", markup=False, soft_wrap=True)
    if args.keep is not None:
        keep(Path(args.keep), found, schedules)
    return session.INTERRUPTED if interrupted else session.VIOLATION if found else session.OK


def keep(folder: Path, runs: Sequence[dict[str, Any]], schedules: Sequence[Schedule]) -> None:
    """Writes each schedule to a file of its own."""
    folder.mkdir(exist_ok=True)
    for run, one in zip(runs, schedules, strict=True):
        name = "-".join((one.scenario, one.scheme, one.variant, one.memory, one.mutant))
        found = run["violation"]
        schedule.write(folder / f"{name}.txt", [f"{found['invariant']}: {found['what']}"], [one])


def draw_all(schedules: Sequence[Schedule], args: argparse.Namespace) -> bool:
    """Draws schedules, the first one also as a timeline if that was asked for; whether any breaks something."""
    broken = False
    out = console(stderr=args.json == "-")
    for number, one in enumerate(schedules):
        with explore.stage_of(one) as stage:
            violation, accesses, other = draw.replay(stage, one)
            lines = draw.drawing(stage, accesses, out.width, violation["offset"] if violation else None)
            lines = ["", *lines, "", *draw.verdict(one, violation, other)]
            if number == 0 and args.timeline is not None:
                timeline.write(Path(args.timeline), stage, accesses)
        for line in lines:
            out.print(line, markup=False, soft_wrap=True)
        broken = broken or violation is not None
    return broken


def replay(args: argparse.Namespace) -> int:
    """Runs schedules again."""
    path = Path(args.replay)
    wanted = schedule.read(path) if ":" not in args.replay or path.exists() else [schedule.parse(args.replay)]
    if args.without_mutant:
        wanted = [replace(one, mutant=NO_MUTANT) for one in wanted]
    return session.VIOLATION if draw_all(wanted, args) else session.OK


def check_mutants(args: argparse.Namespace) -> int:
    """Takes each protection away, and prints what notices."""
    tasks = mutants.tasks(args.mutant, args.seed)
    with session.interruptible() as interrupted, Tasks([task.mutant for task in tasks], "schedules") as view:
        try:
            results = pool.run_all(tasks, mutants.kill, args.jobs, interrupted=interrupted, notice=view.notice,
                                   name=lambda task: task.mutant, passed=(ScenarioError,))
            stopped = False
        except Interrupted as error:
            results, stopped = [result for result in error.result if result is not None], True
    runs = [run for result in results for run in result.pop("runs")]
    more = {"interrupted": True} if stopped else {}
    missed = [result for result in results if result["group"] != mutants.SPARE]
    spare = [result for result in results if result["group"] == mutants.SPARE]
    session.report(document(runs, args.seed, mutants=missed, spare=spare, **more), check_table.show, args.json)
    if args.keep is not None:
        mutants.keep(Path(args.keep), results)
    fine = all(mutants.as_expected(result) for result in results)
    return session.INTERRUPTED if stopped else session.OK if fine else session.VIOLATION


def answer(args: argparse.Namespace) -> int:
    """Answers a question: the protocol as it is holds, and this is what happens without each protection."""
    question = questions.find(args.question)
    out = console(stderr=args.json == "-")
    for line in questions.introduction(question, min(out.width, 118)):
        out.print(line, markup=False)
    runs, interrupted = explore_all(questions.tasks(question, args.seed), args.jobs)
    more = {"interrupted": True} if interrupted else {}
    session.report(document(runs, args.seed, **more), check_table.show, args.json)
    schedules = [schedule.parse(run["violation"]["schedule"]) for run in runs if run["violation"] is not None]
    draw_all(questions.first_of_each_mutant(schedules), args)
    for line in ("", questions.explored(question, runs), "", *textwrap.wrap(question.answer, min(out.width, 118))):
        out.print(line, markup=False)
    if interrupted:
        return session.INTERRUPTED
    return session.OK if questions.as_expected(question, runs) else session.VIOLATION
