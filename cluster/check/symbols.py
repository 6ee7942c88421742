"""Names for what a trace touches: which field of what, which page-table entry of which address, and what a value means.

Page tables come and go while a schedule runs, so the names follow the trace: note() each access in order.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from shmm.cluster.check.scenario import ARENA
from shmm.layout import CONSTANTS, COUNTERS
from shmm.segment import HEADER, VIEWS, Segment

PAGE: Final = CONSTANTS["PAGE_SIZE"]
ENTRY_NAMES: Final = {1: "pte", 2: "pmd", 3: "pud", 4: "pgd"}
PFN_MASK: Final = (1 << 40) - 1
WRITE, DIRTY, SPECIAL = 2, 0x40, 0x200
KINDS: Final = ("FREE", "ANON", "FILE", "TABLE", "ZERO")
FLAGS: Final = (("IRQ_OFF", CONSTANTS["IRQ_OFF"]), ("KERNEL", CONSTANTS["KERNEL"]), ("ASLEEP", CONSTANTS["ASLEEP"]))
SMALL: Final = 1 << 16


class Symbols:
    """The names of a segment's words."""

    def __init__(self, segment: Segment) -> None:
        head = segment.view("seg")
        self.regions = [(0, HEADER.itemsize, 1, "seg", HEADER)]
        for name, (dtype, offset, count) in VIEWS.items():
            self.regions.append((int(head[offset]), dtype.itemsize, int(head[count]), name, dtype))
        self.memory = int(head["memory_off"])
        self.tables: dict[int, tuple[int, int, int]] = {}   # frame -> level, first address, mm
        self.pages: dict[int, int] = {}                     # frame -> the address where it is mapped, the last known
        self.several = int(segment.view("mm")["in_use"].sum()) > 1
        for mm in np.flatnonzero(segment.view("mm")["in_use"]):
            self._walk(segment, int(segment.view("mm")["pgd"][mm]), 4, 0, int(mm))

    def _walk(self, segment: Segment, table: int, level: int, base: int, mm: int) -> None:
        self.tables[table] = (level, base, mm)
        entries = segment.view("memory")[table].view("u8")
        for index in np.flatnonzero(entries):
            self._entry(table, int(index), int(entries[index]))
            if level > 1:
                address = base + (int(index) << (12 + 9 * (level - 1)))
                self._walk(segment, pfn_of(int(entries[index])), level - 1, address, mm)

    def _entry(self, table: int, index: int, value: int) -> None:
        """An entry of a known table has this value now."""
        level, base, mm = self.tables[table]
        address = base + (index << (12 + 9 * (level - 1)))
        if value and level > 1:
            self.tables[pfn_of(value)] = (level - 1, address, mm)
        elif value and not value & SPECIAL:
            self.tables.pop(pfn_of(value), None)
            self.pages[pfn_of(value)] = address

    def note(self, offset: int, size: int, value: int) -> None:
        """A store happened."""
        if offset >= self.memory and size == 8:
            table, index = divmod(offset - self.memory, PAGE)
            if table in self.tables:
                self._entry(table, index // 8, value)

    def name(self, offset: int, size: int) -> str:
        """The name of the word at the offset; size 0: all that begins there."""
        if offset >= self.memory:
            return self._content(*divmod(offset - self.memory, PAGE), size)
        for start, itemsize, count, name, dtype in self.regions:
            if start <= offset < start + itemsize * count:
                index, rest = divmod(offset - start, itemsize)
                where = name if name == "seg" else f"{name}[{index}]"
                return where if size == 0 and rest == 0 else where + field(dtype, rest)
        return f"offset {offset:#x}"

    def _content(self, frame: int, at: int, size: int) -> str:
        """A word of a frame's contents."""
        if size == 0:
            return f"page of frame[{frame}]"
        if size == 8 and frame in self.tables:
            level, base, mm = self.tables[frame]
            where = address(base + (at // 8 << (12 + 9 * (level - 1))))
            return f"{ENTRY_NAMES[level]} of {where}" + (f", mm[{mm}]" if self.several else "")
        if frame in self.pages:
            return f"byte at {address(self.pages[frame] + at)}" + (f", frame[{frame}]" if size == 1 else "")
        return f"byte {at:#x} of frame[{frame}]"


def pfn_of(entry: int) -> int:
    """The frame that a page-table entry names."""
    return entry >> 12 & PFN_MASK


def address(value: int) -> str:
    """An address, from the arena's beginning if it is near."""
    if value == ARENA:
        return "ARENA"
    return f"ARENA+{value - ARENA:#x}" if ARENA < value < ARENA + (1 << 39) else f"{value:#x}"


def field(dtype: np.dtype[Any], offset: int) -> str:
    """The path of the field at the offset: .mmap_lock.count, .tlb_l1[3].tag."""
    for name, found in (dtype.fields or {}).items():
        inner, start = found[0], found[1]
        if not start <= offset < start + inner.itemsize:
            continue
        rest, index = offset - start, ""
        if inner.subdtype is not None:
            inner = inner.subdtype[0]
            number, rest = divmod(rest, inner.itemsize)
            index = f".{COUNTERS[number]}" if name == "counter" else f"[{number}]"
        return f".{name}{index}{field(inner, rest)}"
    return ""


def entry(value: int) -> str:
    """What a page-table entry says."""
    if value == 0:
        return "0"
    if value & SPECIAL:
        return "the zero page"
    letters = "".join(letter for letter, bit in (("w", WRITE), ("d", DIRTY)) if value & bit)
    return f"frame {pfn_of(value)}" + (f" ({letters})" if letters else "")


def lock(value: int) -> str:
    """What a rwsem's count says."""
    words = [word for bit, word in ((1, "writer"), (2, "waiters"), (4, "handoff")) if value & bit]
    readers = value >> 8
    return "+".join(words + ([f"{readers} reader{'s' if readers > 1 else ''}"] if readers else [])) or "free"


def request(value: int) -> str:
    """What a mailbox asks for."""
    pages, page = value >> 2 & 0x3FF, value >> 12 & (1 << 36) - 1
    if value == (1 << 64) - 1 or not pages:
        return "flush all"
    return f"flush {address(page << 12)}" + (f", {pages} pages" if pages > 1 else "")


def meaning(name: str, value: int) -> str:
    """A value as its name's readers want it."""
    last = name.rpartition(".")[2]
    if name[:6] in ("pte of", "pmd of", "pud of", "pgd of"):
        return entry(value)
    if name.endswith("mmap_lock.count"):
        return lock(value)
    if last == "state":
        return "|".join(flag for flag, bit in FLAGS if value & bit) or "user"
    if last == "mmap_seq" or last == "rcu_seq":
        return f"{value}{' (odd)' if value & 1 else ''}"
    if last == "kind" and value < len(KINDS):
        return KINDS[value]
    if last == "ipi_req" and value:
        return request(value)
    if last in ("start", "end") and value:
        return "poison" if value == CONSTANTS["VMA_POISON"] else address(value)
    return number(value)


def number(value: int) -> str:
    """A number: negative ones as such, large ones in hexadecimal."""
    if value >= 1 << 63:
        value -= 1 << 64
    return str(value) if -SMALL < value < SMALL else f"{value:#x}"
