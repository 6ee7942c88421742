"""Prints an address space exactly as /proc/PID/maps does.

    555555559000-55555557a000 rw-p 00000000 00:00 0                          [heap]
    |            |            |    |        |     |                          |
    start        end          |    offset   dev   inode                      what is mapped
                              permissions, and p(rivate) or s(hared)

Only meaningful while no CPU is changing the address space.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shmm.layout import CONSTANTS
from shmm.segment import Segment

PATH_COLUMN: Final = 72
SHMEM_DEV: Final = (0, 1)           # the kernel's own mount, which backs shared anonymous memory
FILE_DEV: Final = (0xfe, 0)


class Area(NamedTuple):
    """One line: addresses and offset in bytes, perms as in rw-p, dev as (major, minor)."""

    start: int
    end: int
    perms: str
    offset: int = 0
    dev: tuple[int, int] = (0, 0)
    inode: int = 0
    path: str = ""


def format_line(
    start: int, end: int, perms: str, offset: int = 0, dev: tuple[int, int] = (0, 0), inode: int = 0,
    path: str = "",
) -> str:
    """One line of maps, without its newline; a line without a path ends in a space, as the kernel's does."""
    head = f"{start:08x}-{end:08x} {perms} {offset:08x} {dev[0]:02x}:{dev[1]:02x} {inode} "
    if not path:
        return head
    escaped = path.replace("\n", "\\012")
    return f"{head:<{PATH_COLUMN}} {escaped}"


def areas(segment: Segment, mm: int = 1) -> list[Area]:
    """The mappings of address space mm, in address order.  Raises ValueError if there is no such slot."""
    spaces, vmas, files = segment.view("mm"), segment.view("vma"), segment.view("file")
    if not 1 <= mm < len(spaces):
        raise ValueError(f"there is no address space {mm}: the segment has 1..{len(spaces) - 1}")
    heap = int(spaces[mm]["start_brk"]), int(spaces[mm]["brk"])
    stack = int(spaces[mm]["start_stack"])
    found: list[Area] = []
    at = int(spaces[mm]["vma_first"])
    while at:
        if len(found) == len(vmas):
            raise RuntimeError(f"address space {mm}: the list of VMAs has a cycle")
        vma = vmas[at]
        start, end, file = int(vma["start"]), int(vma["end"]), int(vma["file"])
        area = Area(start, end, _perms(int(vma["flags"])))
        if file:
            shmem = bool(files[file]["shmem"])
            area = area._replace(
                offset=int(vma["pgoff"]) * CONSTANTS["PAGE_SIZE"], inode=file,
                dev=SHMEM_DEV if shmem else FILE_DEV,
                path="/dev/zero (deleted)" if shmem else f"/file/{file}",
            )
        elif start < heap[1] and end > heap[0]:
            area = area._replace(path="[heap]")
        elif start <= stack <= end and stack:
            area = area._replace(path="[stack]")
        found.append(area)
        at = int(vma["next"])
    return found


def format_maps(segment: Segment, mm: int = 1) -> str:
    """The text of /proc/PID/maps for address space mm.

    A file of the segment appears as /file/<index> on device fe:00 with its index as inode, shared anonymous
    memory as the kernel shows it."""
    return "".join(format_line(*area) + "\n" for area in areas(segment, mm))


def _perms(flags: int) -> str:
    letters = ((CONSTANTS["VM_READ"], "r"), (CONSTANTS["VM_WRITE"], "w"), (CONSTANTS["VM_EXEC"], "x"))
    shared = flags & CONSTANTS["VM_MAYSHARE"]
    return "".join(letter if flags & bit else "-" for bit, letter in letters) + ("s" if shared else "p")
