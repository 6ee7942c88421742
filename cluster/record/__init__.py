"""`record`: runs a program under perf and writes what it does to its address spaces, as `replay` reads it.

    obstacles.py  what keeps this machine from recording, and what to do about it
    perf.py       which events, and the two commands: perf record, perf script

The program keeps its standard streams; what this command says goes to standard error after it has ended.  Its exit
status is passed on.  Children and threads are followed.  perf's own file has no name, so that nothing is left of it
whatever happens to anybody.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from shmm.cluster.record import obstacles, perf

OK, USAGE, ENVIRONMENT, NOT_EXECUTABLE, NOT_FOUND, INTERRUPTED = 0, 2, 3, 126, 127, 130

EPILOG = """exit status: the program's own (128 + N if signal N ended it), 2 usage, 3 this machine cannot record,
126 not executable, 127 no such program, 130 interrupted (what was recorded so far is written)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The record command's options."""
    parser.add_argument("-o", "--output", required=True, metavar="FILE",
                        help="where to write the recording; compressed if its name ends in .xz")
    parser.add_argument("--seconds", type=positive, metavar="S", help="end the program after so many seconds")
    parser.add_argument("--max-size", type=size, default="2G", metavar="SIZE",
                        help="end the program when perf has written so much, as 500M or 2G (default: 2G)")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM [ARGS...]", help="what to run")
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(parser=parser)


def positive(text: str) -> float:
    """Seconds."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time")
    return value


def size(text: str) -> str:
    """A size as perf takes it."""
    if not text[:-1].isdigit() or text[-1] not in "BKMG" or int(text[:-1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 2G")
    return text


def main(args: argparse.Namespace) -> int:
    """Records, says what came of it, and returns the exit status."""
    command = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not command:
        args.parser.error("what is to be recorded?  shmm record -o FILE -- PROGRAM [ARGS...]")
    obstacle = obstacles.find()
    if obstacle is not None:
        say(f"cannot record: {obstacle}")
        return ENVIRONMENT
    status, problem = obstacles.program_status(command[0])
    if problem:
        say(problem)
        return status
    existed = os.path.lexists(args.output)
    try:
        with open(args.output, "ab"):
            pass                                # now, not when the program has run for an hour
    except OSError as error:
        say(f"{args.output}: {error.strerror}")
        return USAGE
    done = perf.Recorder(command, args.seconds, args.max_size).run(args.output)
    if done.failure is not None:
        if not existed:
            os.unlink(args.output)
        say(done.failure)
        return ENVIRONMENT
    report(args, command[0], done)
    return INTERRUPTED if done.interrupted else done.status


def report(args: argparse.Namespace, name: str, done: perf.Outcome) -> None:
    """What was recorded, and what is to be known about it."""
    counts: dict[str, Any] = done.counts
    say(f"recorded {counts['user faults']} user page faults and {counts['calls']} calls of {counts['threads']} "
        f"threads, {os.path.getsize(args.output):,} bytes in {args.output}")
    if done.status > 128:
        say(f"{name} was ended by signal {done.status - 128}")
    elif done.status:
        say(f"{name} ended with exit status {done.status}")
    for warning in done.warnings:
        say(f"warning: {warning}")
    say(f"replay it with: shmm replay {args.output}")


def say(text: str) -> None:
    """One line on standard error."""
    print(f"shmm: {text}", file=sys.stderr)
