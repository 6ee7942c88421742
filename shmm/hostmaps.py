"""What a real process has mapped, by /proc: the listing, contents and residency that shmm.host reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from shmm.maps import Area

PAGE: Final = 4096
MOST_PAGES: Final = 4096        # of an area: a larger one's absent pages are not read
STEP: Final = 1 << 20           # pages whose residency is read at once
PRESENT, SHARED, EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56       # bits of /proc/PID/pagemap; shared: a file's page


@dataclass(frozen=True)
class Space:
    """One address space at the end of a program."""

    maps: tuple[Area, ...]
    residency: dict[int, int] = field(default_factory=dict)     # present pages: address -> pagemap's SHARED, EXCLUSIVE
    contents: dict[int, bytes] = field(default_factory=dict)    # readable pages that could be read

    def page(self, address: int) -> bytes | None:
        """What the page at an address holds; None if there is none, or it cannot be read."""
        return self.contents.get(address & -PAGE)


class Start(NamedTuple):
    """The address space that programs begin with: all that an emulated one must be seeded with."""

    maps: tuple[Area, ...]
    anon_vma: tuple[bool, ...]          # per area: whether it has anonymous pages, hence an anon_vma
    flags: tuple[frozenset[str], ...]   # per area: the kernel's VmFlags, such as rd wr mr mw me ac gd
    mmap_base: int                      # mappings without a hint are placed below
    start_brk: int


def parse_maps(text: str) -> Iterator[Area]:
    """The areas of a /proc/PID/maps."""
    for line in text.splitlines():
        span, perms, offset, dev, inode, *path = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in span.split("-"))
        major, minor = (int(word, 16) for word in dev.split(":"))
        yield Area(start, end, perms, int(offset, 16), (major, minor), int(inode), "".join(path))


def start_of(pid: int, mmap_base: int, start_brk: int) -> Start:
    """What the process has mapped now, as what every program begins with."""
    maps: list[Area] = []
    anonymous: list[bool] = []
    flags: list[frozenset[str]] = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Anonymous":
            anonymous.append(int(value.split()[0]) > 0)
        elif name == "VmFlags":
            flags.append(frozenset(value.split()))
        elif "-" in line.split(maxsplit=1)[0]:
            maps += parse_maps(line)
    return Start(tuple(maps), tuple(anonymous), tuple(flags), mmap_base, start_brk)


def look_at(pid: int, executor: Sequence[tuple[int, int]], closely: bool) -> Space:
    """A process that stands still.  Residency before contents: to read a page makes it present."""
    maps = tuple(area for area in parse_maps(Path(f"/proc/{pid}/maps").read_text()))
    if not closely:
        return Space(maps)
    own = [area for area in maps if not any(start < area.end and area.start < end for start, end in executor)
           and area.path != "[vsyscall]"]
    residency: dict[int, int] = {}
    with FileIO(f"/proc/{pid}/pagemap") as pagemap:
        for area in own:
            residency |= _present(pagemap, area)
    contents: dict[int, bytes] = {}
    with FileIO(f"/proc/{pid}/mem") as memory:
        for area in own:
            if area.perms[0] == "r":
                contents |= _read(memory, area, residency)
    return Space(maps, residency, contents)


def _present(pagemap: FileIO, area: Area) -> dict[int, int]:
    found: dict[int, int] = {}
    for first in range(area.start, area.end, STEP * PAGE):
        pagemap.seek(first // PAGE * 8)
        words = pagemap.read(min(STEP, (area.end - first) // PAGE) * 8)
        entries = np.frombuffer(words, np.uint64)
        for number in np.flatnonzero(entries & np.uint64(PRESENT)).tolist():
            found[first + number * PAGE] = int(entries[number]) & (SHARED | EXCLUSIVE)
    return found


def _read(memory: FileIO, area: Area, residency: dict[int, int]) -> dict[int, bytes]:
    every = range(area.start, area.end, PAGE)
    pages = every if len(every) <= MOST_PAGES else sorted(page for page in residency if page in every)
    found: dict[int, bytes] = {}
    for page in pages:
        try:
            memory.seek(page)
            found[page] = memory.read(PAGE)
        except OSError:                                     # past the end of its file
            continue
    return found
