"""perf's two halves: recording the program, and printing what was recorded."""

from __future__ import annotations

import contextlib
import ctypes
import lzma
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Any

from shmm.cluster.record import obstacles

REQUIRED = ("exceptions:page_fault_user", "syscalls:sys_enter_mmap", "syscalls:sys_exit_mmap")
CALLS = ("mmap", "munmap", "mprotect", "mremap", "brk", "madvise", "mlock", "mlock2", "shmdt", "clone", "clone3",
         "fork", "vfork")
#: What else is recorded where the kernel has it: faults in the kernel on user pages (copy_to_user), which bring pages
#: in, too; flushes; and the flags of every clone.
WANTED = ("exceptions:page_fault_kernel", "tlb:tlb_flush", "task:task_newtask",
          *(f"syscalls:sys_{way}_{call}" for call in CALLS for way in ("enter", "exit")))
FIELDS = "comm,pid,tid,cpu,time,event,trace"
BUFFER = "8M"                               # per CPU: perf must keep up with a program that only faults
PR_SET_PDEATHSIG = 1
UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

#: Lines of perf's about itself: the kernel's own mappings, the process before the program is started.
NOISE = re.compile(r"\s*\S.*?\s+(?:0|-1)/\s*(?:0|-1)\s|\s*perf-exec\s")
LOST = re.compile(r"PERF_RECORD_LOST(?:_SAMPLES)?:? .*?(\d+)\s*$")
FILE_NAME = re.compile(r"(PERF_RECORD_MMAP2 .*\]: [r-][w-][x-][ps]) /.*")
THREAD = re.compile(r"\s*\S.*?\s+(\d+/\s*\d+)\s+\[")


@dataclass
class Outcome:
    """What came of a recording.  failure: why there is none."""

    status: int = 0
    interrupted: bool = False
    failure: str | None = None
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def events() -> list[str]:
    """The events to record, of those that this kernel has."""
    folder = obstacles.tracefs() or obstacles.USUAL
    return [*REQUIRED, *(event for event in WANTED if event not in REQUIRED and obstacles.has_event(folder, event))]


class Recorder:
    """One run of a program."""

    def __init__(self, command: list[str], seconds: float | None, max_size: str) -> None:
        self.command = command
        self.seconds = seconds
        self.max_size = max_size
        self.asked: list[int] = []

    def run(self, output: str) -> Outcome:
        """Runs the program and writes the recording."""
        outcome = Outcome()
        # a file without a name: whoever is killed, nothing is left of it
        with tempfile.TemporaryFile() as data, self._signals():
            path = f"/proc/{os.getpid()}/fd/{data.fileno()}"
            timed_out = self._record(path, outcome)
            outcome.interrupted = bool(self.asked)
            recorded = os.fstat(data.fileno()).st_size
            if recorded:
                self._print(path, output, outcome)
            if outcome.failure is None and not outcome.counts.get("events"):
                outcome.failure = ("perf has recorded nothing" + (" before it was interrupted" if self.asked else
                                   f" and ended with status {outcome.status}; what it said is above"))
            if recorded >= int(self.max_size[:-1]) * UNITS[self.max_size[-1]]:
                outcome.warnings.append(f"perf's data reached {self.max_size}, which ended the program: see --max-size")
        if timed_out:
            outcome.status = 0
            outcome.warnings.append(f"the program was ended after {self.seconds:g} s (--seconds)")
        return outcome

    # ---- perf record ---------------------------------------------------------------------------------------

    def _record(self, path: str, outcome: Outcome) -> bool:
        """Runs perf and the program; whether its time was over before it had ended."""
        words = ["perf", "record", "-q", "-d", "-N", "-B", "-k", "mono", "-m", BUFFER, "--max-size", self.max_size,
                 "-e", ",".join(events()), "-o", path, "--", *self.command]
        process = subprocess.Popen(words, preexec_fn=_die_with_parent)
        deadline = None if self.seconds is None else time.monotonic() + self.seconds
        timed_out = False
        told = 0
        while process.poll() is None:
            if deadline is not None and time.monotonic() > deadline and not timed_out:
                timed_out = True
                process.send_signal(signal.SIGINT)
            if len(self.asked) > told:              # perf ends the program and what it has recorded stays
                told = len(self.asked)
                process.send_signal(signal.SIGINT if told == 1 else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        outcome.status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return timed_out

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the program, not us."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked.append(number)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---- perf script ---------------------------------------------------------------------------------------

    def _print(self, path: str, output: str, outcome: Outcome) -> None:
        """Writes what was recorded as text."""
        words = ["perf", "script", "--ns", "-F", FIELDS, "--show-mmap-events", "--show-task-events",
                 "--show-lost-events", "-i", path]
        with tempfile.TemporaryFile("w+") as said:
            script = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True,
                                      errors="replace", preexec_fn=_die_with_parent, start_new_session=True)
            assert script.stdout is not None
            try:
                with opened(output) as out:
                    write(script.stdout, out, outcome, self.command)
            except OSError as error:
                script.kill()
                outcome.failure = f"{output}: {error.strerror}"
            script.stdout.close()
            if script.wait() and outcome.failure is None:
                said.seek(0)
                last = (said.read().strip().splitlines() or ["it says nothing"])[-1]
                outcome.failure = f"perf script failed: {last}"


def opened(output: str) -> IO[Any]:
    """The recording, to be written."""
    return lzma.open(output, "wt", preset=6) if output.endswith(".xz") else open(output, "w")


def write(lines: Iterable[str], out: IO[Any], outcome: Outcome, command: list[str]) -> None:
    """Copies the events, counts them, and notes what was lost.  Names of files stay out: their inodes tell enough."""
    name = os.path.basename(command[0]).encode("ascii", "replace").decode()
    out.write(f"# recorded by shmm record: {name}\n")
    threads: set[str] = set()
    counts = {"events": 0, "user faults": 0, "calls": 0}
    lost = 0
    for line in lines:
        gone = LOST.search(line)
        lost += int(gone[1]) if gone else 0
        if NOISE.match(line):
            continue
        out.write(FILE_NAME.sub(r"\1 (a file)", line))
        counts["events"] += ": PERF_RECORD_" not in line
        counts["user faults"] += "page_fault_user:" in line
        counts["calls"] += ":sys_enter_" in line
        thread = THREAD.match(line)
        if thread:
            threads.add(thread[1])
    outcome.counts = counts | {"threads": len(threads)}
    if lost:
        outcome.warnings.append(f"perf lost {lost} events, it could not keep up: pages and mappings are missing from "
                                "the recording; record on an idle machine, or a shorter run")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
