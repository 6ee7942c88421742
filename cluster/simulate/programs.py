"""Programs as the simulator runs them: where a round begins, and tasks that are not all in the same phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.program import OP

NO_ROUND = 2**64 - 1            # the programs end by themselves
JUMPS = (OP["JMP"], OP["DJNZ"])


def loop(program: NDArray[Any]) -> tuple[int, int] | None:
    """The first record of the loop that runs until the run is stopped, and its jump back; None: there is no loop."""
    jumps = np.flatnonzero((program["op"] == OP["JMP"]) & (program["value"] <= np.arange(len(program))))
    if len(jumps) == 0:
        return None
    last = int(jumps[-1])
    return int(program["value"][last]), last


def round_begins(program: NDArray[Any]) -> int:
    """The record with which the program's rounds begin, or NO_ROUND."""
    found = loop(program)
    return NO_ROUND if found is None else found[0]


def stagger(programs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The programs with a shorter first round, a different one for each task.

    Tasks that start at once and do equal work would go through their phases together: all would unmap at the same
    time, again and again, as no tasks do that have run for a while.  Rounds in which tasks meet at a barrier stay as
    they are: there the phases are the workload's own."""
    return [shortened(program, task / len(programs)) for task, program in enumerate(programs)]


def shortened(program: NDArray[Any], share: float) -> NDArray[Any]:
    """The program, its first round preceded by one that touches only this share of the pages (0: by none)."""
    found = loop(program)
    if found is None or share == 0:
        return program
    first, last = found
    body = program[first:last].copy()
    if (body["op"] == OP["BARRIER"]).any():
        return program
    length = last - first
    touches = body["op"] == OP["TOUCH"]
    body["count"][touches] = np.maximum(1, (body["count"][touches] * share).astype(np.uint64))
    rest = program[first:].copy()
    jumps = np.isin(rest["op"], JUMPS) & (rest["value"] >= first)
    rest["value"][jumps] += length
    return np.concatenate([program[:first], body, rest])
