"""Schedules as text: one word that a shell takes as it is, and files of them.

    fault_munmap/spf/base/sc/SEQ2:0.119s1,1.20S0
    scenario/scheme/variant/memory/mutant:deviations

A schedule is its deviations from going on with the same CPU.  Each is CPU.access, a letter and a number: CPU 0, before
its 119th access, gave way to (s) CPU 1.

    s   switches to that CPU                    t   lets that CPU's timer expire
    d   drains a store of that CPU's buffer     o   its load returns what was stored that many stores ago
    i   interrupts that CPU

An upper-case letter: the CPU had given way by itself (it waited, or its program was over), and this names who is next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shmm import _check
from shmm.cluster.check.scenario import MAX_CPUS, MEMORIES, VARIANTS, available
from shmm.cluster.config import SCHEMES

Deviation = tuple[int, int, int, int]       # CPU, its access, entity, argument: Explorer.schedule()

LETTERS = "sdit"                            # of entities, MAX_CPUS numbers each
OLD_VALUE = len(LETTERS) * MAX_CPUS
NO_MUTANT = "NONE"
MUTANTS = tuple(name for name, _, _ in _check.mutants())
_DEVIATION = re.compile(r"([0-3])\.(\d{1,9})([sditSDITo])(\d{1,3})")


class ScheduleError(ValueError):
    """Text that is no schedule; one line."""


@dataclass(frozen=True)
class Schedule:
    """A schedule and all that one needs to know to run it."""

    scenario: str
    scheme: str
    variant: str
    memory: str
    mutant: str = NO_MUTANT
    deviations: tuple[Deviation, ...] = ()


def format(schedule: Schedule) -> str:
    """The text of a schedule."""
    where = "/".join((schedule.scenario, schedule.scheme, schedule.variant, schedule.memory, schedule.mutant))
    return f"{where}:{','.join(map(format_deviation, schedule.deviations))}"


def format_deviation(deviation: Deviation) -> str:
    """The text of one deviation."""
    cpu, step, entity, argument = deviation
    if entity == OLD_VALUE:
        return f"{cpu}.{step}o{argument}"
    letter = LETTERS[entity // MAX_CPUS]
    return f"{cpu}.{step}{letter.upper() if argument else letter}{entity % MAX_CPUS}"


def parse(text: str) -> Schedule:
    """The schedule of a text.  Raises ScheduleError."""
    where, colon, deviations = text.partition(":")
    words = where.split("/")
    if not colon or len(words) != 5:
        raise ScheduleError(f"{shorten(text)!r} is not a schedule: scenario/scheme/variant/memory/mutant:deviations")
    known = (("scenario", available()), ("scheme", SCHEMES), ("variant", VARIANTS), ("memory model", MEMORIES),
             ("mutant", MUTANTS))
    for word, (what, names) in zip(words, known, strict=True):
        if word not in names:
            there = f"there is no {what} {word!r}; there are {', '.join(names)}"
            raise ScheduleError(f"schedule {shorten(text)!r}: {there}")
    parts = deviations.split(",") if deviations else []
    scenario, scheme, variant, memory, mutant = words
    return Schedule(scenario, scheme, variant, memory, mutant, tuple(parse_deviation(part, text) for part in parts))


def parse_deviation(part: str, text: str) -> Deviation:
    """One deviation of the text."""
    match = _DEVIATION.fullmatch(part)
    if match is None or not part.isascii():
        raise ScheduleError(f"schedule {shorten(text)!r}: {part!r} is not a deviation such as 0.119s1")
    cpu, step, letter, number = int(match[1]), int(match[2]), match[3], int(match[4])
    if letter == "o":
        if number > 30:
            raise ScheduleError(f"schedule {shorten(text)!r}: {part!r} goes {number} stores back, not 0 to 30")
        return cpu, step, OLD_VALUE, number
    if number >= MAX_CPUS:
        raise ScheduleError(f"schedule {shorten(text)!r}: {part!r} names CPU {number}, of 0 to {MAX_CPUS - 1}")
    return cpu, step, LETTERS.index(letter.lower()) * MAX_CPUS + number, int(letter.isupper())


def shorten(text: str) -> str:
    """So much of the text that a message stays one line."""
    return text if len(text) <= 60 else text[:57] + "..."


def read(path: Path) -> list[Schedule]:
    """The schedules of a file, one a line; what follows a # is a comment.  Raises ScheduleError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"cannot read {path}: {error}") from None
    out = []
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip()
        if word:
            try:
                out.append(parse(word))
            except ScheduleError as error:
                raise ScheduleError(f"{path}, line {number}: {error}") from None
    if not out:
        raise ScheduleError(f"{path} holds no schedule")
    return out


def write(path: Path, comments: Sequence[str], schedules: Sequence[Schedule]) -> None:
    """Keeps schedules in a file."""
    path.write_text("".join(f"# {line}\n" for line in comments) + "".join(f"{format(one)}\n" for one in schedules))
