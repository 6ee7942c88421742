"""What a program came to, in one form for every executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shmm.maps import format_line

ZERO: Final = "/dev/zero (deleted)"         # how maps names shared anonymous memory
FILE: Final = "/file"                       # any file of the program; which one, the object tells


@dataclass(frozen=True)
class Area:
    """One line of maps.  offset in bytes; object: what is mapped, equal for lines of one file, 0 for none."""

    start: int
    end: int
    perms: str
    offset: int = 0
    path: str = ""
    object: int = 0
    anon: bool = False                      # it has an anon_vma; known of the areas that a program begins with

    def line(self) -> str:
        """As /proc/PID/maps prints it, the object's number as its inode."""
        return format_line(self.start, self.end, self.perms, self.offset, (0, 0), self.object, self.path).rstrip()


@dataclass(frozen=True)
class Start:
    """The address space in which every program begins.  special: starts of areas that no program may meet."""

    areas: tuple[Area, ...]
    mmap_base: int
    brk: int                                # where the heap begins: start_brk
    brk_now: int                            # and ends
    forked: bool                            # its process is a forked child, so its anon_vmas have parents


@dataclass(frozen=True)
class View:
    """An address space at the end: its mappings, its present pages (None: unreadable), what loads find in others."""

    areas: Sequence[Area]
    pages: Mapping[int, bytes | None]
    absent: Mapping[int, bytes]


@dataclass
class Outcome:
    """What a program came to.

    results: one per record; of an access the minor faults taken.  loaded: of a LOAD the byte, else -1.
    areas: the mappings at the end of the address space that runs last.  pages: what is present of them, outside of
    what the program began with: its contents, or None where they cannot be read.  absent: of readable pages
    that are not present, what a load finds.  others: the other address spaces that still exist, by slot.
    populated: faults taken inside of system calls.  broken: invariants, lost frames."""

    results: Sequence[int]
    loaded: Sequence[int]
    areas: Sequence[Area]
    pages: Mapping[int, bytes | None]
    absent: Mapping[int, bytes] = field(default_factory=dict)
    others: Mapping[int, View] = field(default_factory=dict)
    populated: int = 0
    broken: list[str] = field(default_factory=list)
