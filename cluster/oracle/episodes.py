"""Short plays in which several operations depend on each other, as single ones that are drawn rarely do.

Each yields operations that the kernel's rules of merging, copying and growing decide: whether two VMAs that were
written apart become one when what lies between them is filled; what a copy and its original see of each other's
stores; what comes of a range that changes and changes back.  Their figures are drawn, so that neighbours of the
expected case are met as well, and other operations come between and behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from shmm.cluster.oracle.programs import ARENA, ARENA_PAGES, PAGE, STACKS, Operation
from shmm.program import WRITE

NONE, READ, RW, RX = 0, 1, 3, 5
ANON = 0x32                                 # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
GROWSDOWN, NORESERVE, NOREPLACE = 0x100, 0x4000, 0x100000
DONTNEED, FREE, DONTFORK, WIPEONFORK = 4, 8, 10, 18
MAYMOVE, MREMAP_FIXED, DONTUNMAP = 1, 2, 4
OFFSETS = (0, 1, 8, 2048, 4095)
GAP = 256                                   # pages that a stack keeps free below itself


def at(page: int) -> int:
    """The address of one of the arena's pages."""
    return ARENA + page * PAGE


def anonymous(page: int, pages: int, prot: int = RW, more: int = 0) -> Operation:
    """A private anonymous mapping in the arena."""
    return "MMAP", {"addr": at(page), "len": pages * PAGE, "prot": prot, "flags": ANON | more}


def store(draw: Any, page: int) -> Operation:
    """A byte written somewhere in a page of the arena."""
    return "STORE", {"addr": at(page) + draw.one_of(OFFSETS), "value": draw.number(1, 255)}


def loads(page: int) -> Iterator[Operation]:
    """All the bytes that store() may have written."""
    for offset in OFFSETS:
        yield "LOAD", {"addr": at(page) + offset}


def protect(page: int, pages: int, prot: int) -> Operation:
    """mprotect in the arena."""
    return "MPROTECT", {"addr": at(page), "len": pages * PAGE, "prot": prot}


def advise(page: int, pages: int, advice: int) -> Operation:
    """madvise in the arena."""
    return "MADVISE", {"addr": at(page), "len": pages * PAGE, "value": advice}


def islands(draw: Any) -> Iterator[Operation]:
    """Two mappings with a hole between, each written or not; then the hole is filled, in one of the ways there are."""
    left, hole, right = draw.number(1, 3), draw.number(1, 3), draw.number(1, 3)
    first = draw.number(0, ARENA_PAGES - 9)
    middle, last = first + left, first + left + hole
    how = draw.one_of(("mmap", "mmap", "mprotect", "mprotect", "mremap", "replaced", "grown", "grown"))
    more = NORESERVE if draw.sometimes(8) else 0
    if how == "mprotect":
        yield anonymous(first, left + hole + right, RW, more)
        yield protect(middle, hole, draw.one_of((NONE, READ)))
    else:
        yield anonymous(first, left, RW, more)
        yield anonymous(last, right, RW, more)
        if not draw.sometimes(3):
            yield "MUNMAP", {"addr": at(middle), "len": hole * PAGE}
    if how == "replaced":
        yield anonymous(middle, hole, draw.one_of((READ, NONE)))
    stored = draw.number(0, 7)                              # of three: left, right, both; mostly both
    if stored != 1:
        yield store(draw, first + draw.number(0, left - 1))
    if stored != 2:
        yield store(draw, last + draw.number(0, right - 1))
    if how in ("mmap", "replaced"):
        yield anonymous(middle, hole, RW, more)
    elif how == "mprotect":
        yield protect(middle, hole, RW)
    elif how == "mremap":
        away = (last + right + 1) % (ARENA_PAGES - 3)
        yield anonymous(away, hole)
        if draw.flip():
            yield store(draw, away)
        yield "MREMAP", {"addr": at(away), "len": hole * PAGE, "count": hole * PAGE, "flags": MAYMOVE | MREMAP_FIXED,
                         "aux": at(middle)}
    else:
        yield "MREMAP", {"addr": at(first), "len": left * PAGE, "count": (left + hole) * PAGE, "flags": 0}
    yield "TOUCH", {"addr": at(first), "len": PAGE, "count": left + hole + right, "value": 9, "opf": WRITE}


def shared_by_fork(draw: Any) -> Iterator[Operation]:
    """Pages are written, copied by fork, and written again on either side; all bytes are read."""
    first, pages = draw.number(0, ARENA_PAGES - 4), draw.number(1, 3)
    slot = draw.number(2, 4)
    yield anonymous(first, pages)
    for page in range(pages):
        yield store(draw, first + page)
        yield store(draw, first + page)
    if draw.sometimes(3):
        yield advise(first, draw.number(1, pages), draw.one_of((WIPEONFORK, DONTFORK, FREE, DONTNEED)))
    yield "FORK", {"value": slot}
    before, after = draw.flip(), draw.flip()
    if before:
        yield store(draw, first)
        yield from loads(first)
    yield "MM", {"value": slot}
    if not after:
        yield from loads(first)
    yield store(draw, first)
    yield from loads(first)
    if draw.flip():                         # written in place now, or not: only then is it writable without a fault
        yield protect(first, pages, READ)
        yield protect(first, pages, RW)
        yield store(draw, first)
    yield "TOUCH", {"addr": at(first), "len": PAGE, "count": pages}


def there_and_back(draw: Any) -> Iterator[Operation]:
    """A part of a mapping changes and changes back: what was cut is joined again, unless something forbids it."""
    first, pages = draw.number(0, ARENA_PAGES - 6), draw.number(3, 6)
    start, part = draw.number(0, 2), draw.number(1, 3)
    prot, other = draw.one_of(((RW, READ), (RW, READ), (READ, RW), (READ, RW), (RW, NONE), (RW, RX)))
    more = NORESERVE if draw.sometimes(4) else 0
    yield anonymous(first, pages, prot, more)
    if prot == RW and not draw.sometimes(3):
        yield store(draw, first + start)
    part = min(part, pages - start)
    if draw.sometimes(5):
        there, back = draw.one_of(((WIPEONFORK, 19), (DONTFORK, 11), (16, 17), (1, 0)))
        yield advise(first + start, part, there)
        yield advise(first + start, part, back)
    else:
        yield protect(first + start, part, other)
        if other != RW and draw.flip():
            yield "LOAD", {"addr": at(first + start)}
        if other == RW and draw.flip():
            yield store(draw, first + start)
        yield protect(first + start, part, prot)
    if prot == RW:
        yield store(draw, first + start)


def moved(draw: Any) -> Iterator[Operation]:
    """A part, written or not, moves away; its new neighbours, or its old ones when it comes back, merge or do not."""
    pages, away = draw.number(1, 3), 16 + draw.number(0, 8)
    first = draw.number(0, 8)
    yield anonymous(first, pages + 2)
    if draw.flip():
        yield anonymous(away - 1, pages + 2)
        yield "MUNMAP", {"addr": at(away), "len": pages * PAGE}
    else:
        yield "MUNMAP", {"addr": at(away - 1), "len": (pages + 2) * PAGE}
    if draw.flip():
        yield store(draw, first + 1)
    if draw.flip():
        yield store(draw, away - 1)
    keep = DONTUNMAP if draw.sometimes(5) else 0
    yield "MREMAP", {"addr": at(first + 1), "len": pages * PAGE, "count": pages * PAGE,
                     "flags": MAYMOVE | MREMAP_FIXED | keep, "aux": at(away)}
    what = draw.number(0, 3)
    if what == 1:
        yield "MREMAP", {"addr": at(away), "len": pages * PAGE, "count": pages * PAGE,
                         "flags": MAYMOVE | MREMAP_FIXED, "aux": at(first + 1)}
    elif what == 2:
        yield anonymous(away + pages, 1)
    elif what == 3:
        yield anonymous(away - 1, 1)
    yield from loads(away if what != 1 else first + 1)


def stacks(draw: Any) -> Iterator[Operation]:
    """A stack, a mapping below it at about the guard gap's distance, and accesses between them."""
    top, pages = 300 + draw.number(0, 3), draw.number(1, 4)
    distance = draw.one_of((GAP, GAP + 1, GAP + 2, GAP - 1, 1, 2, 10))
    yield "MMAP", {"addr": STACKS + top * PAGE, "len": pages * PAGE, "prot": RW, "flags": ANON | GROWSDOWN}
    if not draw.sometimes(4):
        yield "MMAP", {"addr": STACKS + (top - distance - 1) * PAGE, "len": PAGE,
                       "prot": draw.one_of((RW, READ, NONE)), "flags": ANON}
    for _ in range(draw.number(1, 3)):
        below = draw.one_of((1, 1, 2, 3, distance))
        yield "STORE", {"addr": STACKS + (top - below) * PAGE + draw.one_of(OFFSETS), "value": draw.number(1, 255)}
    if draw.flip():                         # a hint into the gap is not taken
        hint = top - draw.one_of((1, 2, 10, GAP - 1, GAP, GAP + 1, GAP + 2))
        yield "MMAP", {"addr": STACKS + hint * PAGE, "len": PAGE, "prot": RW, "flags": ANON & ~0x10}


EPISODES: dict[Callable[[Any], Iterator[Operation]], int] = {
    islands: 4, shared_by_fork: 4, there_and_back: 3, moved: 3, stacks: 2,
}
