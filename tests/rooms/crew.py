"""Processes that each act as one CPU of a segment, for tests: forked, timed, and never left behind."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from shmm.layout import COUNTERS
from shmm.segment import Geometry, Segment, SegmentError

PATIENCE = 25.0         # seconds that a crew may take, all its exercisers' time included: then something hangs
PR_SET_PDEATHSIG = 1


@contextmanager
def machine(cpus: int = 8, huge: int = 0, **policy: Any) -> Iterator[Segment]:
    """A segment for a test of rooms."""
    geometry = Geometry.for_run(cpus=cpus, pages=4096, mms=8, vmas=8192, huge=huge)
    segment = Segment.create(geometry, **{"shared_core": 1, "paranoid": 1, **policy})
    try:
        yield segment
    finally:
        with suppress(SegmentError):    # the traceback of a failed test holds views of it
            segment.close()


def nanoseconds(seconds: float) -> int:
    """For exercisers: how long they are to go on."""
    return int(seconds * 1e9)


def counter(segment: Segment, name: str) -> int:
    """A counter, summed over the CPUs; what wrapped is negative."""
    return int(segment.view("cpu")["counter"][:, COUNTERS.index(name)].astype("i8").sum())


class Hang(AssertionError):
    """Somebody did not come to an end and was killed."""


class Member:
    """One process, and the end of the pipe through which its result comes."""

    def __init__(self, number: int, job: Callable[[], Any]) -> None:
        self.number = number
        self.end, far = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(job, far)
        os.close(far)

    def _work(self, job: Callable[[], Any], far: int) -> None:
        """The child: never returns, and dies with the test."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        status = 1
        try:
            os.write(far, json.dumps(job()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self, deadline: float) -> tuple[bool, Any]:
        """(whether it ended by itself in time, its result)."""
        parts = []
        while select.select([self.end], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(self.end, 65536)
            if not part:
                break
            parts.append(part)
        else:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.end)
        _, status = os.waitpid(self.pid, 0)
        text = b"".join(parts)
        return status == 0, json.loads(text) if text and status == 0 else status


def crew(*jobs: Callable[[], Any], patience: float = PATIENCE) -> list[Any]:
    """Runs each job in a process of its own, all at once; their results.

    Raises Hang naming those that died or had to be killed."""
    deadline = time.monotonic() + patience
    members = [Member(number, job) for number, job in enumerate(jobs)]
    ends = [member.wait(deadline) for member in members]
    lost = {member.number: status for member, (fine, status) in zip(members, ends, strict=True) if not fine}
    if lost:
        raise Hang(f"members {sorted(lost)} did not end by themselves: wait status {lost}")
    return [result for _, result in ends]
