"""A schedule drawn as kernel developers draw races: a column for each CPU, time downwards.

Shown is what matters between CPUs: the accesses to words that more than one CPU touches and somebody changes, and where
each CPU is when it begins, stops and goes on.  Each line has the source line of its access.  Of words that a lock
protects (plain cells) only that is shown which a race is about; and of what a CPU does to a word without being
interrupted, except to locks, counts and states, only what comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shmm import _check
from shmm.cluster.check import schedule as schedules
from shmm.cluster.check import symbols
from shmm.cluster.check.scenario import Stage
from shmm.cluster.check.schedule import MUTANTS, Schedule
from shmm.layout import OPS

WIDTH = 120
GAP = 2
STORES = {number for number, kind in enumerate(_check.KINDS) if kind.startswith("ST") or kind.startswith("RMW")}
FENCES = {number for number, kind in enumerate(_check.KINDS) if kind.startswith("FENCE")}
ST_PLAIN, LD_PLAIN = _check.KINDS.index("ST_PLAIN"), _check.KINDS.index("LD_PLAIN")
STEPWISE = ("lock", ".tail", ".count", "_seq", ".state", ".ipi_req", ".owner")      # each change of these is shown
HOUSEKEEPING = (".doing", ".doing_addr", ".counter", ".failed", "result[", ".shootdown_hist", ".poll_count",
                ".irq_depth")


@dataclass(frozen=True)
class Access:
    """One line of a trace, with names."""

    step: int
    cpu: int
    kind: int
    offset: int
    name: str
    text: str           # what it does: symbol == value, symbol: old -> new
    short: str          # the same without the old value, for narrow columns
    source: str         # shmm/mm/walk.pxd:88
    function: str
    old: int
    value: int
    begins: bool        # an operation of the CPU's program
    freed: bool = False

    @property
    def stores(self) -> bool:
        """Whether it changes anything."""
        return self.kind in STORES and (self.old != self.value or self.freed)

    @property
    def housekeeping(self) -> bool:
        """Whether it says nothing about the protocol."""
        return any(word in self.name for word in HOUSEKEEPING)

    @property
    def place(self) -> str:
        """The source line without its folder."""
        return self.source.rpartition("/")[2]


def function_name(mangled: str) -> str:
    """What the source calls it: __pyx_f_4shmm_2mm_4walk_pte_map_lock is pte_map_lock."""
    rest = re.sub(r"^__pyx_f_", "", mangled)
    while match := re.match(r"(\d+)", rest):
        rest = rest[match.end() + int(match[1]):].removeprefix("_")
    return rest or mangled


def trace_of(stage: Stage, names: symbols.Symbols) -> list[Access]:
    """The trace of the stage's last replay.  names: made before it, at the schedules' common beginning."""
    out = []
    for step, cpu, kind, offset, size, old, value, source, function in stage.explorer.trace():
        freed = kind == ST_PLAIN and size == 0 and value == 1
        if kind in FENCES:
            name, text = "", _check.KINDS[kind].lower()
            short = text
        elif size == 0:
            name = names.name(offset, 0)
            text = short = f"{name} is freed" if freed else f"{name} is filled"
        else:
            name = names.name(offset, size)
            text = describe(name, kind, old, value)
            short = f"{name.removeprefix('mm[1].')} {'=' if kind in STORES else '=='} {symbols.meaning(name, value)}"
            short += " (old)" if kind not in STORES and old != value else ""
        if kind in STORES:
            names.note(offset, size, value)
        out.append(Access(step, cpu, kind, offset, name, text, short, source, function_name(function), old, value,
                          name == f"cpu[{cpu}].doing", freed))
    return out


def describe(name: str, kind: int, old: int, value: int) -> str:
    """symbol: old -> new of a store, symbol == value of a load."""
    before, after = symbols.meaning(name, old), symbols.meaning(name, value)
    if kind not in STORES:
        return f"{name} == {after}" if old == value else f"{name} == {after} (old: it is {before})"
    return f"{name}: {after} again" if old == value else f"{name}: {before} -> {after}"


# ---- what is shown -----------------------------------------------------------------------------------------


def pieces(accesses: Sequence[Access]) -> list[list[Access]]:
    """The trace cut where another CPU goes on."""
    out: list[list[Access]] = []
    for access in accesses:
        if not out or out[-1][0].cpu != access.cpu:
            out.append([])
        out[-1].append(access)
    return out


def shared_words(accesses: Iterable[Access], racing: int | None = None) -> set[int]:
    """The words that several CPUs touch and at least one changes, of plain ones only that of a race."""
    touched: dict[int, set[int]] = {}
    changed = set()
    for access in accesses:
        if access.kind in FENCES or access.housekeeping:
            continue
        if access.kind in (ST_PLAIN, LD_PLAIN) and access.offset != racing and not access.freed:
            continue
        touched.setdefault(access.offset, set()).add(access.cpu)
        if access.stores:
            changed.add(access.offset)
    return {offset for offset, cpus in touched.items() if len(cpus) > 1 and offset in changed}


def chosen(piece: Sequence[Access], shared: set[int], fences: bool) -> list[Access]:
    """What is shown of an uninterrupted piece: changes of shared words, each word's first look, the piece's ends."""
    plain = [access for access in piece if not access.housekeeping and access.kind not in FENCES]
    ends = {plain[0].step, plain[-1].step} if plain else set()
    seen: dict[int, int] = {}
    last = {access.offset: access for access in piece if access.stores}
    first = {access.offset: access for access in reversed(piece) if access.stores}
    out = []
    for access in piece:
        if access.kind in FENCES:
            keep = fences
        elif access.offset in shared:
            if not access.stores:
                keep = seen.get(access.offset) != access.value
            elif access.freed or access.name.endswith(STEPWISE):
                keep = True
            else:                       # nobody else saw what was between
                keep = access is last[access.offset] and access.value != first[access.offset].old
            seen[access.offset] = access.value
        else:
            keep = access.freed and not access.housekeeping
        if keep or access.begins or (access.step in ends and access in (plain[0], plain[-1])):
            out.append(access)
    return out


def operation(stage: Stage, cpu: int, number: int) -> str:
    """The text of a CPU's record."""
    record = stage.programs[cpu][number]
    name, where = OPS[int(record["op"])].lower(), symbols.address(int(record["addr"]))
    if name == "store":
        return f"store {int(record['value'])} at {where}"
    if name in ("load", "fetch"):
        return f"{name} from {where}"
    if name == "probe":
        return f"probe {where}"
    if name in ("mmap", "munmap", "mprotect", "madvise"):
        pages = -(-int(record["len"]) // symbols.PAGE)
        return f"{name}({where}, {pages} page{'s' if pages > 1 else ''}{arguments(name, record)})"
    return f"{name} {int(record['value'])}"


def arguments(name: str, record: Any) -> str:
    """The rest of a system call's arguments."""
    if name in ("mmap", "mprotect"):
        letters = (letter for bit, letter in ((1, "r"), (2, "w"), (4, "x")) if int(record["prot"]) & bit)
        return f", {''.join(letters) or 'none'}"
    return ", dontneed" if name == "madvise" and int(record["value"]) == 4 else ""


# ---- the drawing -------------------------------------------------------------------------------------------


def drawing(
    stage: Stage, accesses: Sequence[Access], width: int = WIDTH, racing: int | None = None,
) -> list[str]:
    """The lines of the drawing.  racing: the word that a race is about."""
    cpus = len(stage.programs)
    column = (width - GAP * (cpus - 1)) // cpus
    shared = shared_words(accesses, racing)
    lines = head(stage, column)
    numbers = [0] * cpus
    for piece in pieces(accesses):
        cpu = piece[0].cpu
        skipped = False
        for access in chosen(piece, shared, stage.memory != "sc"):
            if access.begins:
                if len(stage.programs[cpu]) > 2:
                    put(lines, cpu, column, f"{operation(stage, cpu, numbers[cpu])}:")
                numbers[cpu] += 1
                continue
            skipped = True
            long = len(access.place) + 2 + len(access.text) > column
            put(lines, cpu, column, f"{access.place}  {access.short if long else access.text}")
        if not skipped:
            put(lines, cpu, column, f"{piece[-1].place}  ...")
    return lines


def head(stage: Stage, column: int) -> list[str]:
    """Who does what."""
    titles = []
    for cpu, records in enumerate(stage.programs):
        operations = [operation(stage, cpu, number) for number in range(len(records) - 1)]
        titles.append([f"CPU {cpu}", *operations, "-" * (column - 2)])
    rows = max(map(len, titles))
    for title in titles:
        title[-1:-1] = [""] * (rows - len(title))
    return [(" " * GAP).join(f"{fit(title[row], column):{column}}" for title in titles).rstrip() for row in range(rows)]


def put(lines: list[str], cpu: int, column: int, text: str) -> None:
    """Adds a line in a CPU's column."""
    line = (" " * (cpu * (column + GAP)) + fit(text, column)).rstrip()
    if not lines or lines[-1] != line:          # repeats say nothing new
        lines.append(line)


def fit(text: str, column: int) -> str:
    """The text, cut to its column."""
    return text if len(text) <= column else text[:column - 3] + "..."


def at_rest(invariant: str) -> bool:
    """Whether it is looked at when nobody is inside an operation, so that it is broken nowhere in particular."""
    return invariant in ("not-sequential", "never") or invariant[:1] == "I"


def verdict(schedule: Schedule, violation: dict[str, Any] | None, other: str | None) -> list[str]:
    """What the schedule breaks, and how to see it again."""
    lines = []
    if violation is None:
        lines.append("nothing is broken")
    else:
        lines.append(f"{violation['invariant']}: {violation['what']}")
        if not at_rest(violation["invariant"]):
            where = f"    CPU {violation['cpu']} at {violation['source']} in {function_name(violation['function'])}()"
            lines.append(where + (f", after {other}" if other else ""))
    lines.append(f"shmm check --replay {schedules.format(schedule)}")
    return lines


def other_source(stage: Stage, violation: dict[str, Any]) -> str | None:
    """The other side of a race: where another CPU last touched the word, or freed it, in the last replay."""
    if violation["invariant"] not in ("race", "poison"):
        return None
    at, frees = violation["offset"], violation["invariant"] == "poison"
    stores_only = "read races" in violation["what"]
    for _, cpu, kind, offset, size, _, value, source, _ in reversed(stage.explorer.trace()):
        if cpu == violation["cpu"] and not frees:
            continue
        if frees:
            freed = kind == ST_PLAIN and size == 0 and value == 1
            if freed and offset <= at < offset + symbols.PAGE and offset >> 12 == at >> 12:
                return source
        elif offset == at and (kind in STORES or not stores_only):
            return source
    return None


def replay(stage: Stage, schedule: Schedule) -> tuple[dict[str, Any] | None, list[Access], str | None]:
    """Runs a schedule with a trace: what it breaks, the trace, the other side of a race."""
    stage.explorer.sequential()                 # by whose outcomes this one is judged
    stage.explorer.begin("dfs", 0)              # back to the beginning
    names = symbols.Symbols(stage.segment)
    stage.explorer.replay(list(schedule.deviations), MUTANTS.index(schedule.mutant), True)
    violation = stage.explorer.violation()
    accesses = trace_of(stage, names)
    return violation, accesses, other_source(stage, violation) if violation else None


def whole(stage: Stage, schedule: Schedule, width: int = WIDTH) -> tuple[list[str], dict[str, Any] | None]:
    """The drawing of a schedule with its verdict, and what it breaks."""
    violation, accesses, other = replay(stage, schedule)
    lines = drawing(stage, accesses, width, violation["offset"] if violation else None)
    return [*lines, "", *verdict(schedule, violation, other)], violation
