"""Looks for a program whose outcomes differ, and makes it as short as it can be.

Hypothesis draws the programs and shrinks the one that differs; then records are left out one by one as long as the same
thing differs, which needs no luck.  After a difference the search goes on with other programs, and programs that
differ in the same way as one that was found are counted, not reported again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from numpy.typing import NDArray

from shmm.cluster.oracle import generate
from shmm.cluster.oracle.judge import Verdict
from shmm.cluster.oracle.programs import Operation, lower, operations

FINDINGS = 8                            # of one task, then it ends
SHRINKS = 400                           # programs run at most to shorten one


Judging = Callable[[NDArray[Any]], Verdict]


@dataclass
class Search:
    """Programs that were run, and those that differ."""

    judge: Judging
    programs: int = 0
    operations: int = 0
    found: list[Verdict] = field(default_factory=list)
    again: int = 0                      # programs that differ as one of `found` does

    def run(self, number: int, most: int, watch: Callable[[Verdict], None], only: Sequence[str] | None = None) -> None:
        """Runs `most` programs of the stream that `number` names.  watch: sees each that counts."""
        turn = 0
        while self.programs < most and len(self.found) < FINDINGS:
            failing = self._search(number * FINDINGS * 2 + turn, most - self.programs, watch, only)
            turn += 1
            if failing is not None:
                self.found.append(shorten(self.judge, failing))

    def _search(
        self, number: int, most: int, watch: Callable[[Verdict], None], only: Sequence[str] | None,
    ) -> Verdict | None:
        known = {verdict.kind for verdict in self.found}
        failing: list[Verdict] = []

        @settings(max_examples=most, database=None, deadline=None, phases=(Phase.generate, Phase.shrink),
                  suppress_health_check=list(HealthCheck), print_blob=False)
        @seed(number)
        @given(generate.programs(only))
        def agree(chosen: list[Operation]) -> None:
            verdict = self.judge(lower(chosen).array())
            if not failing:
                self.programs += 1
                self.operations += operations(verdict.program)
                watch(verdict)
            if verdict.differences:
                if not failing and verdict.kind in known:
                    self.again += 1
                elif not failing or verdict.kind == failing[0].kind:
                    failing.append(verdict)
                    raise Differs

        try:
            agree()
        except Differs:
            return failing[-1]
        return None


class Differs(Exception):
    """Raised in the test that Hypothesis runs."""


def shorten(judge: Judging, verdict: Verdict) -> Verdict:
    """Leaves records out as long as the program differs in the same way."""
    best, tries = verdict, 0
    size = max(1, len(best.program) // 2)
    while size and tries < SHRINKS:
        at, shorter = 0, False
        while at < len(best.program) - 1 and tries < SHRINKS:
            rest = np.delete(best.program, slice(at, min(at + size, len(best.program) - 1)))
            tries += 1
            candidate = judge(rest)
            if candidate.differences and candidate.kind == best.kind:
                best, shorter = candidate, True
            else:
                at += size
        size = size if shorter and size == 1 else size // 2
    return best
