"""A worker: the process that is one CPU.

It begins by tying its life to the launcher's, then obeys commands from its link, one reply each, so that the
launcher never executes code that could wait for another CPU.  A command is the name of a method of Worker
without its leading do_."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import time
from dataclasses import dataclass

import posix_ipc
from multiprocess.connection import Connection

from shmm import _fast
from shmm.segment import Segment

PR_SET_PDEATHSIG = 1
MADV_POPULATE_READ = 22     # Linux 5.14; on shared memory it maps for writing too, and 16 pages at a time
POPULATE_STEP = 8 << 20
GATE_SECONDS = 60           # a launcher that lives opens the gate within milliseconds

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Orders:
    """What a worker must know when it starts."""

    cpu: int
    launcher: int                       # its process id
    parent: int | None                  # whose death must end this process; None: whoever started it
    segment: Segment | str              # the mapping inherited through fork, or the path to attach to
    core: int | None                    # pinned to this one
    populate_until: float               # monotonic seconds: when to stop making pages present


def main(orders: Orders, link: Connection, gate: posix_ipc.Semaphore | None) -> None:
    """The worker's whole life.  gate None: a message through the link is the gate."""
    die_with_parent(orders.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the launcher decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    gc.freeze()
    gc.disable()
    if orders.core is not None:
        os.sched_setaffinity(0, {orders.core})
    segment = orders.segment if isinstance(orders.segment, Segment) else Segment.attach(orders.segment)
    worker = Worker(orders.cpu, segment, link, gate)
    worker.populate(orders.populate_until)
    link.send("started")
    while True:
        name, *arguments = link.recv()
        if name == "quit":
            return
        link.send(getattr(worker, "do_" + name)(*arguments))


def die_with_parent(parent: int | None) -> None:
    """SIGKILL for this process when its parent dies, however that happens."""
    before = os.getppid()
    if _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != (before if parent is None else parent):
        os._exit(1)                                     # it died before we asked


class Worker:
    """One CPU and the commands it obeys."""

    def __init__(
        self, cpu: int, segment: Segment, link: Connection, gate: posix_ipc.Semaphore | None
    ) -> None:
        self.segment = segment
        self.link = link
        self.gate = gate
        self.number = cpu
        self.cpu = _fast.Cpu(segment.address, cpu)
        self.cpu.online(os.getpid())

    def populate(self, until: float) -> None:
        """Maps the segment's pages into this process, those used first first, until the time is over.

        Otherwise a short run would measure the host's own page faults, several times as dear as ours."""
        for offset in range(0, self.segment.size, POPULATE_STEP):
            length = min(POPULATE_STEP, self.segment.size - offset)
            address = ctypes.c_void_p(self.segment.address + offset)
            failed = _libc.madvise(address, ctypes.c_size_t(length), MADV_POPULATE_READ)
            if failed or time.monotonic() > until:
                return

    def do_exec(self) -> int:
        """Runs a fresh address space 1."""
        return self.cpu.exec(1)

    def do_attach(self) -> int:
        """Runs address space 1 beside those that do already."""
        return self.cpu.attach(1)

    def do_run(self) -> tuple[int, int, int, int]:
        """Executes the program once the gate opens.

        Replies "ready" at the gate, and then run()'s result, its start and end (monotonic ns), and how many
        page faults this process took on the host meanwhile."""
        self.link.send("ready")
        self.pass_gate()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.monotonic_ns()
        result = self.cpu.run()
        end = time.monotonic_ns()
        return result, start, end, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults

    def pass_gate(self) -> None:
        """Returns when the gate is open.  A shootdown's signal may come meanwhile: others may be through."""
        if self.gate is None:
            self.link.recv()
            return
        until = time.monotonic() + GATE_SECONDS
        while True:
            try:
                self.gate.acquire(until - time.monotonic())
                return
            except posix_ipc.SignalError:
                continue

    def do_drain(self) -> None:
        """Finishes what this CPU has deferred: until then, tables wait to be freed that nothing refers to."""
        self.cpu.rcu_drain()

    def do_check(self) -> list[str]:
        """Every invariant, all CPUs stopped: what is broken."""
        return _fast.check(self.segment.address)

    def do_exit(self) -> int:
        """Leaves the address space that this CPU runs, if any."""
        return self.cpu.exit() if int(self.segment.view("cpu")["mm"][self.number]) else 0

    def do_settle(self) -> int:
        """All CPUs at rest, nothing mapped: finishes what is deferred, empties files; frames in use then."""
        _fast.settle(self.segment.address)
        return _fast.frames_in_use(self.segment.address)
