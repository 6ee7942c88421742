"""The crew: one worker process per CPU of a machine, commands to them, and what happens when one dies.

While workers live the launcher never executes anything in the segment: it sends commands to workers and
watches their sentinels, so whoever dies, and whichever lock it took with it, nobody waits.  Every process
that was started ends with the `with`, and with the launcher itself, however that ends.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import multiprocess
import posix_ipc
from multiprocess.connection import Connection, wait

from shmm import _fast
from shmm.cluster import fate, topology, worker
from shmm.cluster.config import Config, Job
from shmm.segment import Segment, object_name

POLL = 0.05                 # seconds between looks at the time and at Ctrl-C
POPULATE_SECONDS = 1.5      # for making the segment's pages present in all workers
START_SECONDS = 20.0
REAP_SECONDS = 10.0         # a killed process still has to give its memory back
INTERRUPTED_REAP_SECONDS = 0.2
SETTLE_SECONDS = 60.0       # looks at every frame


class ClusterError(RuntimeError):
    """A worker died or stopped answering: the run is void.  The message is one line."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM.  result: what was measured until then, or None."""

    def __init__(self, result: Any = None) -> None:
        super().__init__("interrupted")
        self.result = result


def never() -> bool:
    """Nobody interrupts."""
    return False


class Crew:
    """A machine's segment with its job written into it, and the processes that are its CPUs."""

    def __init__(
        self, config: Config, job: Job, interrupted: Callable[[], bool] = never,
    ) -> None:
        """interrupted: asked often; once it is true, whatever goes on ends with Interrupted."""
        self.config = config
        self.job = job
        self.cpus = len(job.programs)
        self.interrupted = interrupted
        self.pins = topology.pins(self.cpus, config.pin)
        self.shared_core = self.cpus > topology.usable_cores()
        self.workers: list[Any] = []
        self.links: list[Connection] = []
        self.gate: posix_ipc.Semaphore | None = None
        self.frames_at_rest = 0

    def __enter__(self) -> Self:
        self.segment = Segment.create(
            self.job.geometry(), **self.config.segment_policy(self.shared_core)
        )
        try:
            self.job.write(self.segment, _fast.Cpu)
            self._start()
            self.collect(range(self.cpus), START_SECONDS, "start")
            self.frames_at_rest = self.settle()
        except BaseException as error:
            self.end_workers()
            self.segment.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.end_workers()
        self.segment.__exit__(kind, error, trace)

    # ---- start and end -----------------------------------------------------------------------------------

    def _start(self) -> None:
        method = self.config.start_method
        context = multiprocess.get_context(method)
        _allow_descriptors(4 * self.cpus + 64)
        if method == "fork":
            self.gate = posix_ipc.Semaphore(object_name(), posix_ipc.O_CREX, mode=0o600)
            self.gate.unlink()
        else:
            context.set_forkserver_preload(["shmm.cluster.worker"])
        gc.collect()
        gc.freeze()
        try:
            until = time.monotonic() + POPULATE_SECONDS
            for cpu in range(self.cpus):
                if self.interrupted():
                    raise Interrupted
                self._start_worker(context, cpu, until)
        finally:
            gc.unfreeze()

    def _start_worker(self, context: Any, cpu: int, populate_until: float) -> None:
        forks = self.config.start_method == "fork"
        mine, theirs = context.Pipe()
        orders = worker.Orders(
            cpu=cpu, launcher=os.getpid(), parent=os.getpid() if forks else None,
            segment=self.segment if forks else self.segment.path, core=self.pins[cpu],
            populate_until=populate_until,
        )
        process = context.Process(target=worker.main, args=(orders, theirs, self.gate), name=f"shmm-cpu{cpu}")
        self.links.append(mine)
        # a worker must not see the signals before it has said what they mean to it
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
            self.workers.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            theirs.close()

    def end_workers(self) -> None:
        """Kills what still lives and reaps it; who pressed Ctrl-C does not wait for the last to be gone."""
        for process in self.workers:
            if process.is_alive():
                process.kill()
        until = time.monotonic() + (INTERRUPTED_REAP_SECONDS if self.interrupted() else REAP_SECONDS)
        for process in self.workers:
            process.join(max(0.0, until - time.monotonic()))
        for link in self.links:
            link.close()
        if self.gate is not None:
            self.gate.close()
            self.gate = None
        self.workers, self.links = [], []

    # ---- commands ------------------------------------------------------------------------------------------

    def call(
        self, commands: Mapping[int, tuple[Any, ...]], seconds: float, what: str,
    ) -> dict[int, Any]:
        """Sends each CPU its command and returns the replies.

        Raises ClusterError if a worker dies or does not reply in time, Interrupted on Ctrl-C."""
        for cpu, command in commands.items():
            self.send(cpu, command)
        return self.collect(commands, seconds, what)

    def everyone(self, name: str, seconds: float, what: str) -> dict[int, Any]:
        """call() with the same command for all CPUs."""
        return self.call({cpu: (name,) for cpu in range(self.cpus)}, seconds, what)

    def settle(self) -> int:
        """All CPUs at rest, nothing mapped: finishes what they deferred; how many frames are in use then."""
        return int(self.call({0: ("settle",)}, SETTLE_SECONDS, "settle")[0])

    def send(self, cpu: int, command: tuple[Any, ...]) -> None:
        """One command to one worker; its reply is for collect()."""
        try:
            self.links[cpu].send(command)
        except OSError:
            self._raise_death(cpu)

    def collect(
        self, cpus: Iterable[int], seconds: float, what: str, *, interruptible: bool = True,
    ) -> dict[int, Any]:
        """One reply of each of these CPUs; raises as call() does."""
        replies: dict[int, Any] = {}
        waiting = set(cpus)
        until = time.monotonic() + seconds
        while waiting:
            self.receive(waiting, replies, POLL)
            if interruptible and self.interrupted():
                raise Interrupted
            if waiting and time.monotonic() > until:
                raise ClusterError(self._silence(waiting, seconds, what))
        return replies

    def _silence(self, waiting: set[int], seconds: float, what: str) -> str:
        pids = {cpu: self.workers[cpu].pid for cpu in waiting}
        cpu = fate.suspect(self.segment, pids)
        others = f"; {len(waiting) - 1} others did not either" if len(waiting) > 1 else ""
        return fate.silence(self.segment, cpu, pids[cpu], seconds, what) + others

    def receive(self, waiting: set[int], replies: dict[int, Any], seconds: float) -> None:
        """Takes the replies that arrive within so many seconds; raises ClusterError if a worker is dead."""
        links = {self.links[cpu]: cpu for cpu in waiting}
        sentinels = {process.sentinel: cpu for cpu, process in enumerate(self.workers)}
        ready = wait([*links, *sentinels], seconds)
        for item in ready:
            if item in sentinels:
                self._raise_death(sentinels[item])
        for item in ready:
            cpu = links[item]
            try:
                replies[cpu] = item.recv()
            except (EOFError, OSError):
                self._raise_death(cpu)
            waiting.discard(cpu)

    def _raise_death(self, cpu: int) -> None:
        """Stops the others, so that what they hold matters to nobody, and says who died."""
        self.segment.view("seg")["stop"] = 1
        if self.interrupted():              # a signal to the whole process group
            raise Interrupted
        process = self.workers[cpu]
        process.join(1)
        message = fate.death(self.segment, cpu, process.pid, process.exitcode)
        for other in self.workers:
            if other.is_alive():
                other.kill()
        raise ClusterError(message)

    def open_gate(self) -> None:
        """Lets all CPUs that said "ready" run."""
        for cpu in range(self.cpus):
            if self.gate is not None:
                self.gate.release()
            else:
                self.send(cpu, ("go",))


def _allow_descriptors(need: int) -> None:
    """Raises the soft limit of open files if so many would not fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < need:
        limit = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
