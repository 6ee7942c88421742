"""Kills workers and launchers of runs at random moments, and asserts that nothing hangs or stays behind.

    python tests/stress/kill_storm.py --rounds 20 --seed 1

The suite does a few rounds (test_cluster_kill.py).  Ends only processes of runs that it started itself."""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEADLINE = 5.0                  # seconds from a death to the end of everything
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
WORKLOADS = ("page_fault1", "mmap1", "tlb_flush2", "pft", "ebizzy", "page_fault3")
VICTIMS = ("worker", "launcher", "interrupt", "terminate")


def shared_objects() -> set[str]:
    """Names of segments and semaphores in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("shmm", "sem."))}


def children(pid: int) -> list[int]:
    """The processes that pid started and that live."""
    try:
        lines = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(word) for line in lines for word in line.split()]


def descendants(pid: int) -> list[int]:
    """Children, and their children."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def session(leader: int) -> list[int]:
    """The living processes of the session that the process began, zombies not counted."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue                # it ended meanwhile
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def wait_until(condition, seconds: float) -> bool:
    """Whether the condition came true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


class Run:
    """A run of the command line, as a process of its own session."""

    def __init__(self, *words: str) -> None:
        self.output = tempfile.TemporaryFile("w+")          # noqa: SIM115, closed in __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shmm.cluster", "run", *words], stdout=self.output, stderr=self.output,
            stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "NO_COLOR": "1"},
        )

    def workers(self) -> list[int]:
        """The processes that the run has started so far."""
        return descendants(self.process.pid)

    def wait_for_workers(self, count: int = 1) -> list[int]:
        """The workers, once there are so many."""
        assert wait_until(lambda: len(self.workers()) >= count or self.process.poll() is not None, 20)
        return self.workers()

    def end(self, seconds: float = DEADLINE) -> int:
        """The exit status, which must come in time; and all that the run started must end too."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run did not end within {seconds} s: {self.text()}") from None
        gone = wait_until(lambda: not session(self.process.pid), seconds)
        assert gone, f"processes stayed behind: {session(self.process.pid)}"
        return status

    def text(self) -> str:
        """All that the run has printed."""
        self.output.seek(0)
        return self.output.read()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.output.close()


def strike(seed: int, victim: str | None = None) -> str:
    """One run, one death at a random moment; returns what happened, or raises AssertionError."""
    dice = random.Random(seed)
    victim = victim or dice.choice(VICTIMS)
    workload, cpus = dice.choice(WORKLOADS), dice.choice((1, 2, 4, 8))
    scheme = dice.choice(("mmap_lock", "spf"))
    words = ["--workload", workload, "--cpus", str(cpus), "--scheme", scheme, "--size", "2M"]
    before = shared_objects()
    with Run(*words, "--seconds", "30", "--repeats", "1") as run:
        run.wait_for_workers(1 if dice.random() < 0.3 else cpus)
        time.sleep(dice.random() ** 2 * 1.5)
        workers = run.workers()
        if victim == "worker":
            check_worker_death(run, dice.choice(workers), dice.choice(SIGNALS))
        elif victim == "launcher":
            run.process.kill()
            assert run.end() == -signal.SIGKILL
        else:
            run.process.send_signal(signal.SIGINT if victim == "interrupt" else signal.SIGTERM)
            assert run.end() == 130, run.text()
        text = run.text().strip().splitlines()
    assert wait_until(lambda: shared_objects() <= before, 1), shared_objects() - before
    return f"seed {seed}: {workload}, {scheme}, {cpus} CPUs, {victim}: {text[-1] if text else ''}"


def check_worker_death(run: Run, worker: int, number: signal.Signals) -> None:
    """Kills the worker; the run must end with status 1 and say who died of what."""
    os.kill(worker, number)
    status, text = run.end(), run.text()
    assert status == 1, text
    found = re.search(rf"CPU \d+ \(process {worker}\) was killed by {number.name}.* while .+", text)
    assert found, text


def main() -> int:
    """Strikes as often as asked; exit status 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--victim", choices=VICTIMS)
    args = parser.parse_args()
    for seed in range(args.seed, args.seed + args.rounds):
        try:
            print(strike(seed, args.victim), flush=True)
        except AssertionError as failed:
            print(f"seed {seed}: {failed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
