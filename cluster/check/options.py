"""The options of `check`, and the explorations they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from shmm.cluster import topology
from shmm.cluster.check.explore import STRATEGIES, Task
from shmm.cluster.check.scenario import MEMORIES, VARIANTS, Scenario, available, load
from shmm.cluster.check.schedule import MUTANTS, NO_MUTANT
from shmm.cluster.config import SCHEMES
from shmm.cluster.options import names, one_of, positive

MAX_BOUND, MAX_DEPTH = 8, 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="what to explore (see --list)")
    parser.add_argument("--all", action="store_true", help="explore all scenarios")
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    parser.add_argument("--questions", action="store_true", help="list the questions and exit")
    parser.add_argument("--question", metavar="NAME", help="answer a question by exploring")
    parser.add_argument("--mutants", action="store_true",
                        help="take each protection away and see what notices (also --mutants with --mutant NAME,...)")
    parser.add_argument("--replay", metavar="SCHEDULE|FILE", help="run a schedule again and draw it")
    parser.add_argument("--without-mutant", action="store_true", help="with --replay: on the protocol as it is")
    parser.add_argument("--scheme", type=names, default=SCHEMES, metavar="A[,B...]",
                        help=f"concurrency designs (default: {','.join(SCHEMES)})")
    parser.add_argument("--variant", type=names, metavar="A[,B...]",
                        help=f"policies: {', '.join(VARIANTS)} (default: those the scenario is about)")
    parser.add_argument("--memory", type=names, default=("sc",), metavar="A[,B...]",
                        help=f"memory models: {', '.join(MEMORIES)} (default: sc)")
    parser.add_argument("--strategy", type=one_of("strategy", STRATEGIES), default="dfs", metavar="STRATEGY",
                        help=f"{', '.join(STRATEGIES)} (default: dfs)")
    parser.add_argument("--bound", type=whole(MAX_BOUND), default=2, metavar="N",
                        help="dfs: preemptions (default: 2); with --all one less, but 2 at least, for three CPUs")
    parser.add_argument("--depth", type=whole(MAX_DEPTH), default=3, metavar="N",
                        help="pct: ordered events (default: 3)")
    parser.add_argument("--schedules", type=positive(int), metavar="N",
                        help="at most so many of each exploration (default: all of dfs, 20,000 of the others)")
    parser.add_argument("--seconds", type=positive(float), metavar="S", help="at most so long for each exploration")
    parser.add_argument("--seed", type=whole(2**63 - 1), default=1, metavar="N", help="of random and pct (default: 1)")
    parser.add_argument("--mutant", type=names, default=(), metavar="NAME", help="explore without this protection")
    parser.add_argument("--timeline", metavar="FILE", help="write a schedule there, for Perfetto or chrome://tracing")
    parser.add_argument("--keep", metavar="DIR", help="write the schedules that break something there")
    parser.add_argument("--jobs", type=positive(int), default=topology.usable_cores(), metavar="N",
                        help="processes (default: the cores of this machine)")
    parser.add_argument("--json", metavar="FILE|-", help="write the results there as one JSON document")


def whole(most: int) -> Callable[[str], int]:
    """A number from 0 to most."""
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) > most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most}")
        return int(text)
    return convert


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends with a usage error for what each option alone cannot see."""
    for option, what, chosen, there in (
        ("scheme", "scheme", args.scheme, SCHEMES), ("variant", "variant", args.variant or (), tuple(VARIANTS)),
        ("memory", "memory model", args.memory, MEMORIES), ("mutant", "mutant", args.mutant, MUTANTS[1:]),
    ):
        for word in chosen:
            if word not in there:
                parser.error(f"argument --{option}: there is no {what} {word!r}; there are {', '.join(there)}")
    wanted = [args.list, args.questions, args.question is not None, args.mutants, args.replay is not None,
              bool(args.scenarios or args.all)]
    if sum(wanted) != 1:
        parser.error("say what to check: SCENARIO ..., --all, --mutants, --question NAME, --replay SCHEDULE, "
                     "--list or --questions" + (", one of them" if sum(wanted) else ""))
    if args.without_mutant and args.replay is None:
        parser.error("--without-mutant goes with --replay")
    if len(args.mutant) > 1 and not args.mutants:
        parser.error("argument --mutant: one at a time, or with --mutants")
    for option, path in (("json", args.json), ("timeline", args.timeline), ("keep", args.keep)):
        if path is not None and (option, path) != ("json", "-"):
            check_path(option, Path(path), option == "keep", parser)


def check_path(option: str, path: Path, folder: bool, parser: argparse.ArgumentParser) -> None:
    """Ends with a usage error if nothing could be written there."""
    if folder and path.exists() and not path.is_dir():
        parser.error(f"argument --{option}: {path} is not a directory")
    if not folder and path.is_dir():
        parser.error(f"argument --{option}: cannot write {path}: it is a directory")
    if not path.resolve().parent.is_dir():
        parser.error(f"argument --{option}: cannot write {path}: {path.resolve().parent} is no directory")


def scenarios(args: argparse.Namespace) -> list[Scenario]:
    """The scenarios that were asked for, each once.  Raises ScenarioError."""
    return [load(name) for name in (available() if args.all else dict.fromkeys(args.scenarios))]


def bound_for(args: argparse.Namespace, scenario: Scenario) -> int:
    """With --all, three CPUs are explored one deviation less deep: it would take days."""
    bound: int = args.bound
    return min(bound, max(2, bound - 1)) if args.all and scenario.scene().cpus > 2 else bound


def tasks(args: argparse.Namespace) -> list[Task]:
    """Every combination that was asked for.  Raises ScenarioError."""
    mutant = args.mutant[0] if args.mutant else NO_MUTANT
    return [
        Task(scenario.name, scheme, variant, memory, strategy=args.strategy, bound=bound_for(args, scenario),
             depth=args.depth, seed=args.seed, mutant=mutant, schedules=args.schedules, seconds=args.seconds)
        for scenario in scenarios(args) for scheme in args.scheme
        for variant in (args.variant or scenario.variants) for memory in args.memory
    ]
