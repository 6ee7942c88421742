"""Differences between two outcomes, in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from shmm.cluster.oracle.outcome import FILE, ZERO, Area, Outcome, View
from shmm.layout import CONSTANTS, OPS
from shmm.program import OP, Program

SIGBUS = CONSTANTS["SIGBUS"]
ADDRESSES = frozenset(OP[name] for name in ("MMAP", "BRK", "MREMAP"))
ACCESSES = frozenset(OP[name] for name in ("LOAD", "STORE", "FETCH", "TOUCH"))
SHOWN = 6                               # differences of one kind that are shown


@dataclass(frozen=True)
class Difference:
    """One difference.  kind: result, byte, populate, spaces, maps, residency,
    contents or invariant; where: the record or address."""

    kind: str
    where: int
    host: str
    native: str
    record: str = ""

    def __str__(self) -> str:
        place = f"record {self.where} ({self.record})" if self.record else f"{self.where:#x}" if self.where else ""
        return f"{self.kind} {place}: host {self.host}, native {self.native}".replace("  ", " ")


def compare(program: NDArray[Any], host: Outcome, native: Outcome) -> list[Difference]:
    """What differs: the first record that does, or else what is left at the end."""
    broken = [Difference("invariant", 0, "-", line) for line in native.broken]
    early = first_difference(program, host, native)
    if early is not None:
        return [early, *broken]
    return [*broken, *populated(host, native), *maps(host.areas, native.areas), *residency(host, native),
            *contents(host, native), *others(host, native)]


def populated(host: Outcome, native: Outcome) -> Iterator[Difference]:
    """Faults taken inside of system calls, all together: the native engine has one counter for them."""
    if host.populated != native.populated:
        yield Difference("populate", 0, f"{host.populated} faults", f"{native.populated} faults")


def others(host: Outcome, native: Outcome) -> Iterator[Difference]:
    """The other address spaces that still exist."""
    if host.others.keys() != native.others.keys():
        yield Difference("spaces", 0, str(sorted(host.others)), str(sorted(native.others)))
    for slot in sorted(host.others.keys() & native.others.keys()):
        mine, other = host.others[slot], native.others[slot]
        yield from (*maps(mine.areas, other.areas), *residency(mine, other), *contents(mine, other))


def first_difference(program: NDArray[Any], host: Outcome, native: Outcome) -> Difference | None:
    """The first record whose results differ."""
    for at, (mine, other) in enumerate(zip(host.results, native.results, strict=False)):
        op = int(program[at]["op"])
        if mine != other:
            return Difference("result", at, result(op, mine), result(op, other), text(program, at))
        if at < len(native.loaded) and host.loaded[at] != native.loaded[at]:
            return Difference("byte", at, str(host.loaded[at]), str(native.loaded[at]), text(program, at))
    if len(host.results) != len(native.results):
        return Difference("result", min(len(host.results), len(native.results)), f"{len(host.results)} records ran",
                          f"{len(native.results)} records ran")
    return None


def text(program: NDArray[Any], at: int) -> str:
    """A record in words."""
    return Program.from_array(program[at : at + 1]).text().splitlines()[0]


def result(op: int, value: int) -> str:
    """A result in words."""
    if value == -SIGBUS:
        return "SIGBUS"
    if value < 0:
        if op in ACCESSES and value == -errno.EFAULT:
            return "SIGSEGV"
        return errno.errorcode.get(-value, str(value))
    if op in ACCESSES:
        return f"{value} fault{'s' if value != 1 else ''}"
    return f"{value:#x}" if op in ADDRESSES else str(value)


def normal(areas: Sequence[Area]) -> list[str]:
    """Lines of maps; files and shared anonymous memory are numbered in order of appearance."""
    seen: dict[int, int] = {}
    lines = []
    for area in areas:
        number = seen.setdefault(area.object, len(seen) + 1) if area.path in (ZERO, FILE) else 0
        lines.append(Area(area.start, area.end, area.perms, area.offset, area.path, number).line())
    return lines


def maps(host: Sequence[Area], native: Sequence[Area]) -> Iterator[Difference]:
    """Lines that only one side has, in address order."""
    mine, other = normal(host), normal(native)
    if mine != other:
        only, alone = [x for x in mine if x not in other], [x for x in other if x not in mine]
        at = min(int(line.split("-")[0], 16) for line in only + alone)
        yield Difference("maps", at, "; ".join(only) or "(no such line)", "; ".join(alone) or "(no such line)")


def residency(host: Outcome | View, native: Outcome | View) -> Iterator[Difference]:
    """Pages that are present on one side only."""
    for address in sorted(host.pages.keys() ^ native.pages.keys())[:SHOWN]:
        here = address in host.pages
        yield Difference("residency", address, "present" if here else "absent", "absent" if here else "present")


def contents(host: Outcome | View, native: Outcome | View) -> Iterator[Difference]:
    """Pages whose bytes differ, present or loaded afterwards; and those that only one side could load."""
    mine, other = {**host.absent, **host.pages}, {**native.absent, **native.pages}
    shown = 0
    for address in sorted(mine.keys() | other.keys()):
        left, right = mine.get(address, b""), other.get(address, b"")
        if left == right or left is None or right is None or shown == SHOWN:
            continue
        shown += 1
        if not left or not right:
            yield Difference("contents", address, "readable" if left else "not", "readable" if right else "not")
            continue
        at = next(i for i in range(len(left)) if left[i] != right[i])
        yield Difference("contents", address + at, str(left[at]), str(right[at]))


def op_name(record: Any) -> str:
    """The operation's name."""
    return OPS[int(record["op"])]
