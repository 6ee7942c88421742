"""What a CPU was doing when it died or stopped answering, read from what it left in the segment.

Only looks: a dead CPU may hold any lock, so nothing here waits for one."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.layout import CONSTANTS, DTYPES, OPS
from shmm.segment import Segment

WRITER = 1                      # bit 0 of an rwsem's count: held by a writer; readers count from bit 8
READERS_SHIFT = 8


def death(segment: Segment, cpu: int, pid: int, exit_code: int | None) -> str:
    """One line: which CPU died, of what, and where."""
    return f"CPU {cpu} (process {pid}) {cause(exit_code)} while {doing(segment, cpu)}"


def silence(segment: Segment, cpu: int, pid: int, seconds: float, what: str) -> str:
    """One line: which CPU did not answer in time, and where it is."""
    return (f"CPU {cpu} (process {pid}, {process_state(pid)}) did not {what} within {seconds:.0f} s: "
            f"it is {doing(segment, cpu)}")


def suspect(segment: Segment, pids: Mapping[int, int]) -> int:
    """Of CPUs (with their processes) that do not answer, the one that the others probably wait for."""
    states = segment.view("cpu")["state"]

    def innocence(cpu: int) -> tuple[bool, bool, int]:
        asleep = bool(int(states[cpu]) & CONSTANTS["ASLEEP"])
        return process_state(pids[cpu]) != "stopped", asleep and not owned(segment, cpu), cpu

    return min(pids, key=innocence)


def cause(exit_code: int | None) -> str:
    """How the process ended, in words."""
    if exit_code is None:
        return "vanished"
    if exit_code >= 0:
        return f"exited with status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = " (by hand, or by the kernel for want of memory)" if exit_code == -signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def failure(segment: Segment, cpu: int) -> str:
    """What a CPU's program expected and did not get."""
    record = segment.view("cpu")[cpu]
    pc = int(record["failed_pc"]) - 1
    text = f"CPU {cpu}: its program failed"
    if 0 <= pc < int(record["program_len"]):
        insn = segment.view("insn")[int(record["program_first"]) + pc]
        text += f" at record {pc} ({OPS[int(insn['op'])]})"
    result, expected = np.array([record["failed_result"], record["failed_expect"]]).astype(np.int64)
    return f"{text}: the result was {result}, expected {expected}"


def doing(segment: Segment, cpu: int) -> str:
    """The operation in progress, the state word and the locks that are known to be held."""
    record = segment.view("cpu")[cpu]
    opcode, state = int(record["doing"]), int(record["state"])
    if opcode == 0:
        return f"between operations, {mode(state)}"
    name = OPS[opcode] if opcode < len(OPS) else f"operation {opcode}"
    text = f"in {name} at {int(record['doing_addr']):#x}, {mode(state)}"
    held = owned(segment, cpu)
    return text + (f", owner of {held}" if held else "")


def mode(state: int) -> str:
    """A CPU's state word in words."""
    words = ["in the kernel" if state & CONSTANTS["KERNEL"] else "in user mode"]
    if state & CONSTANTS["IRQ_OFF"]:
        words.append("interrupts off")
    if state & CONSTANTS["ASLEEP"]:
        words.append("asleep")
    return ", ".join(words)


def owned(segment: Segment, cpu: int) -> str:
    """The mmap_locks that the CPU holds for writing, and the spinlocks that it holds, or an empty string."""
    mms = segment.view("mm")
    held = [f"the mmap_lock of address space {slot}, for writing"
            for slot in range(1, len(mms)) if _owner(mms[slot]["mmap_lock"]) == cpu]
    for array in ("seg", "mm", "frame"):
        for lock, owners in _spinlocks(np.atleast_1d(segment.view(array)), ""):
            held += [f"the spinlock {array}{'' if array == 'seg' else f'[{index}]'}{lock}"
                     for index in np.flatnonzero(owners == cpu + 1)]
    return ", ".join(held)


def _spinlocks(records: NDArray[Any], path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each spinlock in the records: where in one of them it is, and its owner (cpu + 1) in all of them."""
    for name in records.dtype.names or ():
        inner = records[name]
        if inner.dtype == DTYPES["spinlock_t"]:
            yield f"{path}.{name}", inner["owner"]
        elif inner.ndim == records.ndim:
            yield from _spinlocks(inner, f"{path}.{name}")
        elif inner.dtype.names:
            for number in range(inner.shape[-1]):
                yield from _spinlocks(inner[..., number], f"{path}.{name}[{number}]")


def lock_state(segment: Segment, slot: int) -> str:
    """Who holds an address space's mmap_lock."""
    lock = segment.view("mm")[slot]["mmap_lock"]
    count = int(lock["count"])
    if count & WRITER:
        return f"mmap_lock {slot}: held for writing by CPU {_owner(lock)}"
    readers = count >> READERS_SHIFT
    return f"mmap_lock {slot}: {f'{readers} readers' if readers else 'free'}"


def _owner(lock: Any) -> int:
    return int(lock["owner"]) - 1 if int(lock["count"]) & WRITER else -1


def process_state(pid: int) -> str:
    """The host's view of a process: running, sleeping, stopped or gone."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return {"R": "running", "S": "sleeping", "D": "in an uninterruptible wait", "T": "stopped", "Z": "dead",
            "t": "traced"}.get(letter, letter)
