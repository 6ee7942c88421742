"""Tasks side by side: an engine has one machine per process, so each core gets a process that takes task after task.

A worker that dies (the engine is C) takes only its task with it; Ctrl-C ends all of them at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import multiprocess
from multiprocess.connection import Connection, wait

from shmm.cluster.crew import ClusterError, Interrupted
from shmm.segment import SegmentError

POLL = 0.05                     # seconds between looks at Ctrl-C

Work = Callable[[Any, Callable[[int], None]], Any]      # a task and whom to tell how far it is -> its result
Notice = Callable[[int, int, Any], None]                # task number, how far it is, the result or None


def work_on(work: Work, tasks: Sequence[Any], link: Connection, passed: tuple[type[Exception], ...]) -> None:
    """A worker: takes numbers of tasks, gives results back, and the exceptions that are passed on as they are."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # whoever started us decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            number = link.recv()
        except EOFError:
            return

        def tell(so_far: int) -> None:
            link.send(("progress", number, so_far))  # noqa: B023  number stays as long as the task runs

        try:
            link.send(("done", number, work(tasks[number], tell)))
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            if isinstance(error, (*passed, SegmentError, MemoryError)):
                link.send(("raised", number, error))
            else:
                link.send(("failed", number, f"{type(error).__name__}: {error}"))


def run_all(
    tasks: Sequence[Any], work: Work, jobs: int, *, interrupted: Callable[[], bool], notice: Notice,
    name: Callable[[Any], str], passed: tuple[type[Exception], ...] = (),
) -> list[Any]:
    """The results, in the tasks' order.  Raises Interrupted with those there are (None elsewhere), ClusterError, or
    what a worker raises: the exceptions of `passed`, SegmentError, MemoryError."""
    results: list[Any] = [None] * len(tasks)
    workers: dict[Connection, Any] = {}
    busy: dict[Connection, int] = {}
    waiting = list(range(len(tasks)))
    try:
        for _ in range(min(jobs, len(tasks))):
            link, theirs = multiprocess.Pipe()
            context = multiprocess.get_context("fork")
            process = context.Process(target=work_on, args=(work, tasks, theirs, passed), daemon=True)
            process.start()
            theirs.close()
            workers[link] = process
        while waiting or busy:
            for link in workers:
                if link not in busy and waiting:
                    busy[link] = waiting.pop(0)
                    link.send(busy[link])
            for link in wait(list(busy), POLL):
                receive(link, workers[link], busy, results, notice, lambda number: name(tasks[number]))
            if interrupted():
                raise Interrupted(results)
    finally:
        for link, process in workers.items():
            link.close()
            process.kill()
            process.join()
    return results


def receive(
    link: Connection, process: Any, busy: dict[Connection, int], results: list[Any], notice: Notice,
    name: Callable[[int], str],
) -> None:
    """Takes one message from a worker."""
    try:
        kind, number, content = link.recv()
    except (EOFError, OSError):
        process.join()
        what = f"the process that worked on {name(busy[link])} died (exit status {process.exitcode})"
        raise ClusterError(what) from None
    if kind == "progress":
        notice(number, content, None)
        return
    del busy[link]
    if kind == "raised":
        raise content
    if kind == "failed":
        raise ClusterError(f"{name(number)}: {content}")
    results[number] = content
    notice(number, 0, content)
