"""What the programs of a campaign did, counted, so that a reader sees what was compared and what was not.

    results   each operation with each of its results: MMAP ok, MMAP EEXIST, STORE SIGSEGV, ...
    flags     of the mmap and mremap calls that succeeded, each flag; of madvise, each advice
    merges    of mappings made and of ranges changed, how they met their neighbours (of every 15th program, which the
              native engine executes record by record)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from shmm.cluster.oracle.compare import ACCESSES, op_name, result
from shmm.cluster.oracle.judge import Judge, Verdict
from shmm.cluster.oracle.outcome import Area
from shmm.cluster.oracle.programs import FILES, PAGE
from shmm.program import OP

EVERY: Final = 15
SECTIONS: Final = ("results", "flags", "merges")
MMAP_FLAGS: Final = {
    "SHARED": 1, "PRIVATE": 2, "FIXED": 0x10, "ANONYMOUS": 0x20, "GROWSDOWN": 0x100, "LOCKED": 0x2000,
    "NORESERVE": 0x4000, "POPULATE": 0x8000, "STACK": 0x20000, "FIXED_NOREPLACE": 0x100000,
}
MREMAP_FLAGS: Final = {"MAYMOVE": 1, "FIXED": 2, "DONTUNMAP": 4}
CHANGES: Final = (OP["MPROTECT"], OP["MADVISE"])


def count(verdict: Verdict, judge: Judge | None) -> Counter[str]:
    """Of one program.  judge: whose native engine executes it once more, record by record; None: not this time."""
    seen = Counter[str]()
    for record, value in zip(verdict.program, verdict.host.results, strict=False):
        name = op_name(record)
        if name in ("END", "NOP", "LEA"):
            continue
        op = int(record["op"])
        word = result(op, value) if value < 0 else "faults" if op in ACCESSES and value else "ok"
        seen[f"results/{name} {word}"] += 1
        if value >= 0 and name in ("MMAP", "MREMAP"):
            flags = MMAP_FLAGS if name == "MMAP" else MREMAP_FLAGS
            seen.update(f"flags/{name} {flag}" for flag, bit in flags.items() if int(record["flags"]) & bit)
        if value >= 0 and name == "MADVISE":
            seen[f"flags/MADVISE {int(record['value'])}"] += 1
    if judge is not None and not verdict.differences:
        seen.update(merges(verdict, judge))
    return seen


def merges(verdict: Verdict, judge: Judge) -> Counter[str]:
    """How mappings met their neighbours, seen from the maps before and after each record.  (A mapping that replaces a
    part of its like meets both.)"""
    seen = Counter[str]()
    engine = next(iter(judge.engines.values()))
    before: Sequence[Area] = ()
    for at, record in enumerate(verdict.program[:-1]):
        after = engine.execute(verdict.program[: at + 1], FILES, look=False).areas
        value = verdict.host.results[at]
        if value >= 0 and int(record["op"]) in (OP["MMAP"], OP["MPROTECT"]):
            seen.update(met(record, value, before, after))
        before = after
    return seen


def met(record: Any, value: int, before: Sequence[Area], after: Sequence[Area]) -> Counter[str]:
    """What one record did."""
    new = int(record["op"]) == OP["MMAP"]
    start = value if new else int(record["addr"]) if not record["base"] else None
    if start is None:
        return Counter()
    end = start + (int(record["len"]) + PAGE - 1) // PAGE * PAGE
    now = next((area for area in after if area.start <= start < area.end), None)
    if now is None or (not new and now in before):
        return Counter()
    left, right = now.start < start, now.end > end
    how = "both" if left and right else "previous" if left else "next" if right else "none"
    if new:
        return Counter([f"merges/new: {how}"])
    old = next((area for area in before if area.start <= start < area.end), now)
    part = ("whole" if old.start == start and old.end <= end else "left part" if old.start == start else
            "right part" if old.end <= end else "middle")
    return Counter([f"merges/existing, {part}: {how}"])


def sections(seen: Counter[str]) -> dict[str, dict[str, int]]:
    """By section, in the order of names."""
    return {section: {name.partition("/")[2]: seen[name] for name in sorted(seen) if name.startswith(section + "/")}
            for section in SECTIONS}
