"""Programs to compare: lists of operations that Hypothesis draws (programs.py makes records of them).

Addresses lie in a few places, so that operations meet: an arena of 32 pages across the border between two page tables
(merges, splits and holes), an arena for stacks, wide enough for guard gaps, the heap, and wherever the kernel put what
was mapped without a hint (a register).  An operation through a register stays within what was mapped there, for beyond
lies what the executor itself lives on.  Most operations are valid; some have an unaligned or absurd argument.

Operations are drawn one after the other beside a model of what they have mapped (model.py), so that most accesses meet
memory, and mixed with episodes, in which several belong together (episodes.py).

The first alternative of every choice is the simplest, as shrinking goes there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from shmm.cluster.oracle.episodes import EPISODES
from shmm.cluster.oracle.model import READABLE, WRITABLE, Model, Page, spread
from shmm.cluster.oracle.programs import (
    ARENA,
    ARENA_PAGES,
    FILES,
    HEAP,
    MAX_OPERATIONS,
    PAGE,
    SPANS,
    STACK_PAGES,
    STACKS,
    Operation,
)
from shmm.program import WRITE

NO_FILE = 250
LEAST_OPERATIONS = 24                       # drawn, nothing being one too; a shrunk program may have fewer
EPISODIC = 6                                # the weight of episodes among operations

NONE, R, W, RW, RX, RWX = 0, 1, 2, 3, 5, 7
SHARED, PRIVATE, FIXED, ANONYMOUS = 1, 2, 0x10, 0x20
GROWSDOWN, LOCKED, NORESERVE, POPULATE, STACK, NOREPLACE = 0x100, 0x2000, 0x4000, 0x8000, 0x20000, 0x100000
MAYMOVE, MREMAP_FIXED, DONTUNMAP = 1, 2, 4
ADVICE = {
    "DONTNEED": 4, "NORMAL": 0, "RANDOM": 1, "SEQUENTIAL": 2, "WILLNEED": 3, "FREE": 8, "DONTFORK": 10, "DOFORK": 11,
    "HUGEPAGE": 14, "NOHUGEPAGE": 15, "DONTDUMP": 16, "DODUMP": 17, "WIPEONFORK": 18, "KEEPONFORK": 19, "COLD": 20,
    "POPULATE_READ": 22, "POPULATE_WRITE": 23,
}
NO_ADVICE = (5, 99)
ABSURD = (0x8000_0000_0000, 0x7FFF_FFFF_F000, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_F000)


class Pen:
    """Draws from Hypothesis for one program, and knows what is mapped in it so far."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.model = draw, Model()

    def __call__(self, strategy: Any) -> Any:
        return self.draw(strategy)

    def number(self, least: int, most: int) -> int:
        """An integer."""
        return int(self.draw(st.integers(least, most)))

    def one_of(self, values: Sequence[Any]) -> Any:
        """One of these."""
        return self.draw(st.sampled_from(values))

    def flip(self) -> bool:
        """True half of the times."""
        return bool(self.draw(st.booleans()))

    def sometimes(self, one_in: int) -> bool:
        """True for one of so many."""
        return sometimes(self.draw, one_in)

    def mapped(self, how: int) -> Page | None:
        """A page that probably allows this access; None one time in many, or if there is none."""
        pages = self.model.accessible(how)
        if not pages or sometimes(self.draw, 14):
            return None
        if self.flip():                     # an edge of what is mapped, as often as any page
            first, many = self.one_of(list(spread(pages)))
            return first[0], first[1] + (many - 1 if self.flip() else 0)
        return tuple(self.one_of(pages))


def sometimes(draw: Any, one_in: int) -> bool:
    """True for one of so many."""
    return bool(draw(st.integers(0, one_in - 1)) == one_in - 1)


def place(draw: Any, registers: bool = True) -> tuple[dict[str, int], int, int]:
    """(fields for an address, its first page, how many pages may follow it there)."""
    where = draw(st.sampled_from((0,) * 28 + ("stack",) + (tuple(SPANS) if registers else ())))
    if where == 0:
        # often at one of a few borders, so that what was cut apart may be joined again
        first = draw(st.integers(0, ARENA_PAGES - 1)) if draw(st.booleans()) else 4 * draw(st.integers(0, 7))
        return {"addr": ARENA + first * PAGE}, first, ARENA_PAGES - first
    if where == "stack":
        first = draw(st.sampled_from((300, 299, 290, 310, 40, 43, 45, 200)))
        return {"addr": STACKS + first * PAGE}, first, STACK_PAGES - first
    first = draw(st.sampled_from((0, 1, 2, 3, SPANS[where] // 2, SPANS[where] - 1)))
    return {"addr": first * PAGE, "base": where}, first, SPANS[where] - first


def target(draw: Any, most: int = 12) -> dict[str, int]:
    """addr, base and len of an operation on a range; rarely what no call accepts."""
    fields, _, room = place(draw)
    pages = draw(st.integers(1, min(most, room)))
    if "base" not in fields and draw(st.booleans()):
        pages = min(room, (pages + 3) // 4 * 4)
    if sometimes(draw, 20):
        pages = room
    length = pages * PAGE
    if sometimes(draw, 40):
        length -= draw(st.sampled_from((1, 4095, 100)))         # rounded up, or an error
    if sometimes(draw, 60):
        fields = fields | {"addr": fields["addr"] + draw(st.sampled_from((1, 8, 2048)))}
    if sometimes(draw, 80):
        length = draw(st.sampled_from((0, 2**64 - PAGE, 2**64 - 1)))
    if sometimes(draw, 100):
        fields = {"addr": draw(st.sampled_from(ABSURD))}
    return fields | {"len": length}


def protection(draw: Any) -> int:
    """Most are what programs ask for."""
    return int(draw(st.sampled_from((RW,) * 12 + (R, R, RX, RWX, NONE, W, 4, 6))))


def backing(draw: Any) -> tuple[int, int, int]:
    """(flags, file, byte offset)."""
    what = draw(st.sampled_from(("anonymous",) * 6 + ("file",) * 3 + ("shared", "shared file", "shared file", "odd")))
    if what == "anonymous":
        return PRIVATE | ANONYMOUS, 0, 0
    if what == "shared":
        return SHARED | ANONYMOUS, 0, 0
    if what == "odd":
        return int(draw(st.sampled_from((0, 3, ANONYMOUS, PRIVATE, SHARED, 0x0F)))), 0, 0
    file = draw(st.integers(1, len(FILES)))
    offset = draw(st.integers(0, FILES[file - 1][0] - 1)) * PAGE
    if sometimes(draw, 30):
        offset = draw(st.sampled_from((40 * PAGE, 2**63, 100, 2**64 - PAGE)))
    if sometimes(draw, 30):
        file = NO_FILE
    return (SHARED if what == "shared file" else PRIVATE), file, offset


def mmap_extra(draw: Any) -> int:
    """Flags that change how a mapping is made."""
    if not sometimes(draw, 4):
        return 0
    return int(draw(st.sampled_from((NORESERVE, POPULATE, LOCKED, STACK, NORESERVE | POPULATE))))


def mmap_at(draw: Any) -> Operation:
    """A mapping at a place: fixed, or a hint."""
    fields = target(draw, most=16)
    flags, file, offset = backing(draw)
    flags |= draw(st.sampled_from((FIXED, FIXED, FIXED, FIXED, NOREPLACE, NOREPLACE, 0, FIXED | NOREPLACE)))
    if "base" not in fields and fields["addr"] >= STACKS:
        flags |= GROWSDOWN if flags & (PRIVATE | ANONYMOUS) == PRIVATE | ANONYMOUS else 0
    elif sometimes(draw, 25):
        flags |= GROWSDOWN
    prot = protection(draw)
    if file and not flags & SHARED and "base" not in fields and draw(st.booleans()):
        offset = fields["addr"] - ARENA & 7 * PAGE              # neighbours continue each other
    return "MMAP", fields | {"prot": prot, "flags": flags | mmap_extra(draw), "value": file, "aux": offset}


def mmap_anywhere(draw: Any, dst: int = 0) -> Operation:
    """A mapping where the kernel puts it, known by a register afterwards."""
    dst = dst or draw(st.sampled_from((1, 2, 1, 2, 3, 3, 6, 4, 5)))
    flags, file, offset = backing(draw)
    pages = SPANS[dst]
    prot = protection(draw)
    return "MMAP", {"len": pages * PAGE, "prot": prot, "flags": flags | mmap_extra(draw), "value": file, "aux": offset,
                    "dst": dst}


def munmap(draw: Any) -> Operation:
    """munmap; of little, so that much stays."""
    return "MUNMAP", target(draw, most=4)


def mprotect(draw: Any) -> Operation:
    """mprotect."""
    prot = protection(draw)
    if sometimes(draw, 40):
        prot = draw(st.sampled_from((8, 0x100, 0x0100_0003, 0x0200_0003, 0x0300_0003)))
    return "MPROTECT", target(draw) | {"prot": prot}


def madvise(draw: Any) -> Operation:
    """madvise."""
    advice = draw(st.sampled_from((*ADVICE.values(), ADVICE["DONTNEED"], ADVICE["DONTNEED"], ADVICE["FREE"],
                                   ADVICE["POPULATE_READ"], ADVICE["POPULATE_WRITE"], *NO_ADVICE)))
    return "MADVISE", target(draw) | {"value": advice}


def brk(draw: Any) -> Operation:
    """The heap's end moved, or asked for."""
    if sometimes(draw, 12):
        return "BRK", {"addr": draw(st.sampled_from((0, 0x1000, *ABSURD)))}
    pages = draw(st.integers(0, 40))
    return "BRK", {"addr": pages * PAGE - draw(st.sampled_from((0, 0, 0, 1, 100))) if pages else 0, "base": HEAP}


def truncate(draw: Any) -> Operation:
    """A file made shorter, or as long as it was: on the emulated side it has slots for no more."""
    file = draw(st.integers(1, len(FILES)))
    pages = draw(st.integers(0, FILES[file - 1][0]))
    return "TRUNCATE", {"value": file, "aux": max(0, pages * PAGE - draw(st.sampled_from((0, 0, 0, 1, 100))))}


def mremap(draw: Any) -> Operation:
    """mremap: grown, shrunk, moved."""
    fields = target(draw, most=8)
    new = draw(st.integers(1, 12)) * PAGE
    flags = draw(st.sampled_from((MAYMOVE, MAYMOVE, 0, MAYMOVE | MREMAP_FIXED, MAYMOVE | MREMAP_FIXED,
                                  MAYMOVE | DONTUNMAP, MAYMOVE | DONTUNMAP | MREMAP_FIXED, MREMAP_FIXED, DONTUNMAP, 8)))
    aux = 0
    if flags & MREMAP_FIXED:
        aux = ARENA + draw(st.integers(0, ARENA_PAGES - 1)) * PAGE + (8 if sometimes(draw, 20) else 0)
        new = min(new, max(PAGE, ARENA + ARENA_PAGES * PAGE - aux))
    if flags & DONTUNMAP and not sometimes(draw, 10):
        new = fields["len"] & 2**62 - PAGE or PAGE
    if sometimes(draw, 40):
        new = draw(st.sampled_from((0, new - 1, 2**63)))
    dst = 0
    if flags & MAYMOVE and not flags & MREMAP_FIXED:
        dst, new = 6, max(new, SPANS[6] * PAGE)
    if flags & DONTUNMAP and dst:
        fields["len"] = new = SPANS[6] * PAGE
    return "MREMAP", fields | {"count": new, "flags": flags, "aux": aux, "dst": dst}


def spot(draw: Pen, how: int) -> dict[str, int]:
    """addr and base of an access."""
    offset = draw.one_of((0, 0, 1, 8, 2048, 4095))
    page = draw.mapped(how)
    if page is not None:
        return ({"base": page[0]} if page[0] else {}) | {"addr": page[1] * PAGE + offset}
    if sometimes(draw, 16):
        return {"addr": draw(st.integers(0, 40)) * PAGE, "base": HEAP}
    fields, _, _ = place(draw)
    return fields | {"addr": fields["addr"] + offset}


def load(draw: Pen) -> Operation:
    """A byte read."""
    return "LOAD", spot(draw, READABLE)


def store(draw: Pen) -> Operation:
    """A byte written."""
    return "STORE", spot(draw, WRITABLE) | {"value": draw(st.integers(1, 255))}


def touch(draw: Pen) -> Operation:
    """An access to each of several pages."""
    writes = draw(st.booleans())
    page = draw.mapped(WRITABLE if writes else READABLE)
    if page is None:
        fields, _, room = place(draw)
    else:
        fields = ({"base": page[0]} if page[0] else {}) | {"addr": page[1] * PAGE}
        known = draw.model.accessible(WRITABLE if writes else READABLE)
        room = next(first[1] + many - page[1] for first, many in spread(known)
                    if first[0] == page[0] and first[1] <= page[1] < first[1] + many)
    pages = draw(st.integers(1, min(room, 16)))
    return "TOUCH", fields | {"len": PAGE, "count": pages, "value": draw(st.integers(1, 255)) if writes else 0,
                              "opf": WRITE if writes else 0}


def fork(draw: Any) -> Operation:
    """fork; the copy has a slot of its own."""
    return "FORK", {"value": draw(st.integers(2, 4))}


def move(draw: Any) -> Operation:
    """Goes on as a forked copy; what ran before ends."""
    return "MM", {"value": draw(st.integers(2, 4))}


WEIGHTS = {
    mmap_at: 9, store: 6, touch: 7, load: 4, munmap: 2, mprotect: 6, mmap_anywhere: 2, madvise: 6, mremap: 5, brk: 2,
    fork: 2, move: 1, truncate: 1,
}


def operation(draw: Pen, only: Sequence[str] | None = None) -> list[Operation]:
    """One operation, or an episode; nothing, for shrinking."""
    choices = [make for make, weight in WEIGHTS.items() for _ in range(weight)
               if only is None or make.__name__ in only]
    chosen = draw.number(0, len(choices) + (EPISODIC if only is None else 0))
    if chosen == 0:
        return []
    if chosen <= len(choices):
        return [choices[chosen - 1](draw)]
    return list(draw.one_of([play for play, weight in EPISODES.items() for _ in range(weight)])(draw))


def beginning(draw: Pen) -> list[Operation]:
    """Mappings for what follows to work on: the arena, a stack, some through registers; each may be missing."""
    out: list[Operation] = []
    if draw(st.integers(0, 3)):
        flags, file, offset = backing(draw) if sometimes(draw, 3) else (PRIVATE | ANONYMOUS, 0, 0)
        prot = RW if draw(st.integers(0, 3)) else protection(draw)
        out.append(("MMAP", {"addr": ARENA, "len": ARENA_PAGES * PAGE, "prot": prot, "flags": flags | FIXED,
                             "value": file, "aux": offset}))
    if sometimes(draw, 3):
        out.append(("MMAP", {"addr": STACKS + 300 * PAGE, "len": 12 * PAGE, "prot": RW,
                             "flags": PRIVATE | ANONYMOUS | FIXED | GROWSDOWN}))
    if sometimes(draw, 3):
        out.append(("BRK", {"addr": 30 * PAGE, "base": HEAP}))
    out += [mmap_anywhere(draw, dst) for dst in SPANS if draw(st.booleans())]
    return out


@st.composite
def programs(draw: Any, only: Sequence[str] | None = None) -> list[Operation]:
    """Lists of operations."""
    pen = Pen(draw)
    chosen: list[Operation] = []

    def then(operations: Sequence[Operation]) -> None:
        chosen.extend(operations)
        for one in operations:
            pen.model.apply(one)

    then(beginning(pen))
    for _ in range(pen.number(0, MAX_OPERATIONS - LEAST_OPERATIONS) + LEAST_OPERATIONS):
        if len(chosen) < MAX_OPERATIONS:
            then(operation(pen, only))
    return chosen
