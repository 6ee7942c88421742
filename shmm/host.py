"""Runs programs on this machine's own Linux: real mappings, real page faults, real forks.

    with Host() as host:
        outcome = host.execute(program, files=[(16, False)])
        outcome.results         # a word per record, as an emulated machine has them
        outcome.spaces[1].maps  # what is mapped at the end, as /proc/PID/maps says

A Host is a process, the zygote, in which no Python runs any more; each execute() takes place in a fresh fork of it,
so programs do not see each other.  All that such a fork has mapped is the executor's image, the area that it shares
with us and a stack: `host.start`.  Transparent huge pages are off for it, and its addresses are the same each time
where the system allows that.

What the records mean here (program.h has the rest):

    LOAD, STORE, FETCH, TOUCH   the result is the number of page faults that the kernel counted for this thread, in
                                exact runs; otherwise 0, because to ask costs more than a fault (of a STORE, FETCH or
                                TOUCH with an expectation it is always counted).  SIGSEGV is -EFAULT, SIGBUS is
                                -SHMM_SIGBUS.  A FETCH executes the one instruction that lies there
    PROBE                       mincore(): it looks up the VMA, under the mmap lock
    files                       memfds, each page of which has been written: cached and up to date.  To the kernel they
                                are shared memory whether shmem is said or not, so a shared mapping needs no second
                                fault to be written to, as it would on a file system that keeps track of dirty pages
    FORK, MM, EXEC, EXIT        address spaces are processes, and the CPU goes from one to the other; the one that it
                                leaves is gone before the next record runs.  EXEC begins with host.start; the addresses
                                in its record are the emulated machine's and mean nothing here
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from shmm import _host
from shmm.hostmaps import Space, Start, look_at, start_of
from shmm.layout import OPS
from shmm.program import OP, Program

PAGE: Final = 4096
SPACES: Final = 8               # address spaces that a program may have at once, numbered from 1
FIRST: Final = 1                # the one that it begins in
PATIENCE: Final = 10.0          # seconds for what the zygote does by itself
LOADED_SHIFT: Final = 48
_PLACES = ("MM", "EXEC", "FORK", "EXIT")

ZYGOTE = """
import importlib.util, os, resource, sys
path, link, memory, size, limit, again = sys.argv[1], *map(int, sys.argv[2:])
spec = importlib.util.spec_from_file_location("_host", path)
host = importlib.util.module_from_spec(spec)
spec.loader.exec_module(host)
if not again:
    host.fix_addresses()
    limit = min(8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1] % 2**64)
    resource.setrlimit(resource.RLIMIT_STACK, (limit, limit))       # without one, mappings grow upwards
    os.execv(sys.executable, sys.orig_argv[:-1] + ["1"])
try:
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
except OSError:
    pass
with open("/proc/self/stat") as stat:
    start_brk = int(stat.read().rpartition(")")[2].split()[44])
host.zygote(link, memory, size, start_brk, limit)
"""


class HostError(RuntimeError):
    """This machine's kernel does not execute it.  One line."""


@dataclass(frozen=True)
class Outcome:
    """What one execute() came to."""

    status: str                         # done, stopped, failed (a result was not as expected), destroyed, deadline
    message: str                        # one line that says why it is not done; else empty
    results: NDArray[np.int64]          # of CPU 0: one per record
    faults: NDArray[np.int64]           # page faults that each record took, inside of system calls too
    loaded: NDArray[np.uint8]           # what each LOAD found
    registers: tuple[int, ...]
    running: int                        # the address space that the CPU was in at the end, 0: none
    spaces: Mapping[int, Space] = field(default_factory=dict)
    cpus: Sequence[_host.CpuState] = ()
    all_results: Sequence[NDArray[np.int64]] = ()       # of each CPU

    @property
    def maps(self) -> list[Any]:
        """What the address space that the CPU was in had mapped at the end."""
        return list(self.spaces[self.running].maps) if self.running in self.spaces else []


class Host:
    """The zygote and what it shares with us."""

    def __init__(self, *, cpus: int = 1, records: int = 1 << 14, limit: int = 0) -> None:
        """cpus: most that a program may have; records: most in all programs together; limit: bytes of address space
        that a process may have, 0 for as many as there are (RLIMIT_AS).

        Raises HostError if the process does not come about."""
        blocks = max(cpus, SPACES + 1)
        size = _host.area_size(blocks, records)
        memory = os.memfd_create("shmm-host", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, size)
            self.control = _host.Control(mmap.mmap(memory, size), blocks, records)
            self.link, theirs = socket.socketpair()
            with theirs:
                self.process = _spawn(theirs.fileno(), memory, size, limit)
        finally:
            os.close(memory)
        self._start: Start | None = None
        try:
            self.answer(b"i", PATIENCE, "begin")
        except HostError as error:
            self.close()
            assert self.process.stderr is not None
            said = self.process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise HostError(f"{error}: {said}" if said else str(error)) from None

    # ---- one program after the other -----------------------------------------------------------------------

    def execute(
        self, program: Any, *, files: Sequence[tuple[int, bool]] = (), registers: Mapping[int, int] | None = None,
        exact: bool = True, seconds: float = 10.0, seed: int = 1, look: bool = True,
    ) -> Outcome:
        """Executes a Program, or the array of one; or several, as threads that begin together.

        files: (pages, shared memory) each, from number 1; registers: values that CPU 0's begin with; exact: count the
        faults of every record; seconds: until it is ended; look: at contents and residency too, not only at maps.
        Raises HostError for programs that cannot be executed here, ValueError for too many records."""
        programs = [program] if isinstance(program, Program | np.ndarray) else list(program)
        executor = tuple((area.start, area.end) for area in self.start.maps)
        self.prepare(programs, files=files, exact=exact, seconds=seconds, seed=seed, threaded=len(programs) > 1)
        for number, value in (registers or {}).items():
            self.control.register(0, number, value % 2**64)
        self.order(b"r")
        if len(programs) > 1:
            self.control.go()
        try:
            self.answer(b"r", seconds + PATIENCE, "end the program")
            return self._outcome(len(programs), executor, look)
        finally:
            self.release()

    def prepare(
        self, programs: Sequence[Any], *, files: Sequence[tuple[int, bool]] = (), exact: bool, seconds: float,
        seed: int | Sequence[int], threaded: bool, cores: Sequence[int | None] = (),
    ) -> None:
        """Writes programs and run control into the area.  seed: of each CPU; cores: to which they are pinned."""
        arrays = [one.array() if isinstance(one, Program) else one for one in programs]
        for array in arrays:
            _refuse(array, threaded)
        deadline = time.monotonic_ns() + int(seconds * 1e9)
        self.control.begin(len(arrays), threaded, exact, deadline)
        for pages, _ in files:
            self.control.file(pages)
        first = 0
        for cpu, array in enumerate(arrays):
            start = seed[cpu] if isinstance(seed, Sequence) else seed
            core = cores[cpu] if cores else None
            self.control.program(cpu, array.tobytes(), first, len(arrays), start, -1 if core is None else core)
            first += len(array)

    def order(self, what: bytes) -> None:
        """Tells the zygote what to do; it answers when it has.  Raises HostError if it is gone."""
        try:
            self.link.sendall(what)
        except OSError:
            raise HostError(self._gone()) from None

    def answer(self, order: bytes, seconds: float, what: str) -> None:
        """Waits until the zygote has answered this order.  Raises HostError if that does not come in time."""
        until = time.monotonic() + seconds
        said = b""
        while said != order:                # an answer to an order before: this one has cut it short
            ready, _, _ = select.select([self.link], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise HostError(f"the process that executes programs did not {what} within {seconds:.0f} s")
            said = self.link.recv(1)
            if not said:
                raise HostError(self._gone())

    def release(self) -> None:
        """Ends every process of the last program, also in its midst."""
        self.order(b"k")
        self.answer(b"k", PATIENCE, "end its processes")

    # ---- what there is to see ------------------------------------------------------------------------------

    @property
    def start(self) -> Start:
        """The address space that every program begins with."""
        if self._start is None:
            begun = Program()
            top = begun.mmap(0, PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, dst=1)
            begun.munmap(0, PAGE, base=1)
            brk = begun.brk(0, dst=2)
            self.prepare([begun], exact=True, seconds=PATIENCE, seed=1, threaded=False)
            self.order(b"r")
            try:
                self.answer(b"r", 2 * PATIENCE, "execute three calls")
                results = self._words(0)[0]
                self._start = start_of(self.control.pid(FIRST), int(results[top]) + PAGE, int(results[brk]))
            finally:
                self.release()
        return self._start

    def maps(self) -> list[Any]:
        """The mappings that every program begins with."""
        return list(self.start.maps)

    def _words(self, cpu: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        results, beside = self.control.results(cpu)
        return np.frombuffer(results, np.int64), np.frombuffer(beside, np.int64)

    def _outcome(self, cpus: int, executor: Sequence[tuple[int, int]], look: bool) -> Outcome:
        states = [self.control.cpu(cpu) for cpu in range(cpus)]
        results, beside = self._words(0)
        status, message = self.verdict(states)
        spaces = {}
        if self.control.status == "ended":
            pids = {1: self.control.pid(0)} if cpus > 1 else {
                slot: self.control.pid(slot) for slot in range(1, self.control.blocks)}
            try:
                spaces = {slot: look_at(pid, executor, look) for slot, pid in pids.items() if pid > 0}
            except (FileNotFoundError, ProcessLookupError):
                status, message = "destroyed", "the program destroyed what executes one of its address spaces"
        return Outcome(
            status, message, results, beside & ((1 << LOADED_SHIFT) - 1), (beside >> LOADED_SHIFT).astype(np.uint8),
            states[0]["registers"], 1 if cpus > 1 else self.control.running, spaces, states,
            [self._words(cpu)[0] for cpu in range(cpus)],
        )

    def verdict(self, states: Sequence[_host.CpuState]) -> tuple[str, str]:
        """How the last program ended, and one line about it unless all is well."""
        status = self.control.status
        where = f"record {states[0]['pc']} ({OPS[states[0]['op']] if states[0]['op'] < len(OPS) else '?'})"
        if status == "destroyed":
            slot, number, code = self.control.dead
            how = _signal_name(number) if number else f"exit status {code}" if code else "gone"
            return status, f"the program destroyed its executor at {where}: {how} in address space {slot}"
        if status == "deadline":
            return status, f"the program was still at {where} when its time was over"
        if status == "refused":
            raise HostError(f"no process to execute the program in: {os.strerror(self.control.error)}")
        for cpu, state in enumerate(states):
            if state["outcome"] == "failed":
                pc = state["failed_pc"]
                wanted = state["failed_expect"]
                return "failed", (f"CPU {cpu}: its program failed at record {pc}: the result was "
                                  f"{state['failed_result']}, expected {wanted}")
        if any(state["outcome"] == "stopped" for state in states) or status != "ended":
            return "stopped", "the program was stopped"
        return "done", ""

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the zygote, and with it whatever it started."""
        self.link.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _gone(self) -> str:
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "the process that executes programs does not listen any more"
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        return f"the process that executes programs {how}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()


def _spawn(link: int, memory: int, size: int, limit: int) -> subprocess.Popen[bytes]:
    """A Python without site-packages, alone in its session: Ctrl-C at a terminal is not meant for it."""
    words = [sys.executable, "-I", "-S", "-c", ZYGOTE, _host.__file__, *map(str, (link, memory, size, limit, 0))]
    # the executor gives up the thread-local storage, where the kernel would look for a restartable sequence
    environment = dict(os.environ) | {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
    try:
        return subprocess.Popen(words, pass_fds=(link, memory), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, start_new_session=True, env=environment)
    except OSError as error:
        raise HostError(f"cannot start a process to execute programs in: {error}") from None


def _refuse(program: NDArray[Any], threaded: bool) -> None:
    """Raises HostError for what cannot be executed, before anything is."""
    def has(name: str) -> bool:
        return bool((program["op"] == OP[name]).any())

    if threaded and any(map(has, _PLACES)):
        raise HostError("the host engine runs programs of several CPUs as threads of one process: "
                        "MM, EXEC, FORK and EXIT are for a program of one CPU")
    if has("NUMA"):
        raise HostError("the host engine has no NUMA: when its kernel scans for NUMA balancing is not for a program to say")
    if has("FETCH") and os.uname().machine != "x86_64":
        raise HostError("the host engine can FETCH on x86-64 only: elsewhere a single instruction cannot be executed "
                        "without a debugger")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
