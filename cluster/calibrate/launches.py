"""Launches: fresh, pinned processes that execute one method together, and whether they can be believed.

Each process dies with whoever started it, and gives up by itself after two seconds."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import multiprocess
from multiprocess.connection import wait

from shmm import _calibrate
from shmm.cluster.crew import Interrupted, never
from shmm.cluster.worker import die_with_parent

if TYPE_CHECKING:
    from shmm._calibrate import Report

SECONDS = 5.0                   # a launch that has not ended by then is killed
POLL = 0.05                     # seconds between looks at the time and at Ctrl-C

_fork = multiprocess.get_context("fork")


class LaunchError(RuntimeError):
    """A launch that cannot be believed.  The message is its reason, one line."""


@dataclass(frozen=True)
class Launch:
    """What some processes do together."""

    method: str                         # of shmm._calibrate
    cores: tuple[int, ...]              # of each role
    buffer: int = 0                     # bytes of private memory for each process
    huge: bool = True                   # in huge pages, if the host has them
    touched_by: int | None = None       # the core that touches the memory first and so decides where it lies
    sleepers: tuple[int, ...] = ()      # roles whose method is to sleep


def run(launch: Launch, interrupted: Callable[[], bool] = never) -> list[Report]:
    """Every role's report.

    Raises LaunchError with the reason if any is missing or cannot be believed, Interrupted on Ctrl-C."""
    with mmap.mmap(-1, _calibrate.area_size()) as area:
        processes: list[Any] = []
        try:
            for role in range(len(launch.cores)):
                processes.append(_start(launch, role, area))
            _wait(processes, interrupted)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
        return believed(launch, [_calibrate.report(area, role) for role in range(len(launch.cores))],
                        [process.exitcode for process in processes])


def _start(launch: Launch, role: int, area: mmap.mmap) -> Any:
    process = _fork.Process(target=_take_part, args=(launch, role, area, os.getpid()), name=f"shmm-calibrate{role}")
    # the process must not see the signals before it has said what they mean to it
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    return process


def _take_part(launch: Launch, role: int, area: mmap.mmap, parent: int) -> None:
    """The life of a process.  An OSError becomes its exit status."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        memory = _memory(launch, role) if launch.buffer else None
        os.sched_setaffinity(0, {launch.cores[role]})
        _calibrate.measure(area, launch.method, role, len(launch.cores), memory)
    except OSError as error:
        os._exit(error.errno or 1)


def _memory(launch: Launch, role: int) -> mmap.mmap:
    """Fresh private memory, on the node of the core that touches it first."""
    os.sched_setaffinity(0, {launch.cores[role] if launch.touched_by is None else launch.touched_by})
    memory = mmap.mmap(-1, launch.buffer, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE if launch.huge else mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        if error.errno != errno.EINVAL:                 # this kernel has none, so there are none to ask for
            raise
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, launch.buffer)
    return memory


def _wait(processes: Sequence[Any], interrupted: Callable[[], bool]) -> None:
    """Until all have ended, or their time is over."""
    until = time.monotonic() + SECONDS
    waiting = {process.sentinel for process in processes}
    while waiting and time.monotonic() < until:
        waiting -= set(wait(list(waiting), POLL))
        if interrupted():
            raise Interrupted


def believed(launch: Launch, reports: Sequence[Report | None], exits: Sequence[int | None]) -> list[Report]:
    """The reports.  Raises LaunchError if one is missing, if a method failed, or if somebody was not running."""
    out = []
    for role, (report, status) in enumerate(zip(reports, exits, strict=True)):
        if report is None:
            raise LaunchError(f"the process on core {launch.cores[role]} did not report: {_ending(status)}")
        out.append(report)
    failed = [report["status"] for report in out if report["status"]]
    for number in sorted(failed, key=lambda number: number == -errno.ETIMEDOUT):    # who waited for the failed one last
        if number == -errno.ETIMEDOUT:
            raise LaunchError("gave up after 2 s: the peer was not running")
        raise LaunchError(f"{launch.method} failed: {os.strerror(-number)}")
    if len(set(launch.cores)) == len(launch.cores):     # who shares a core is switched all the time
        for role, report in enumerate(out):
            switches = report["involuntary"] + (0 if role in launch.sleepers else report["voluntary"])
            if switches:
                raise LaunchError(f"the process on core {launch.cores[role]} was switched out while it measured")
    return out


def _ending(status: int | None) -> str:
    """A process's end, in words."""
    if status is None or status == -signal.SIGKILL:
        return f"killed after {SECONDS:g} s"
    return f"killed by signal {-status}" if status < 0 else os.strerror(status) if status else "it ended early"
