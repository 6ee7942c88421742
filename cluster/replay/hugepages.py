"""Which faults mapped a huge page.

No event says so.  But where a program has asked for huge pages (MADV_HUGEPAGE), the first write to an aligned 2 MiB of
anonymous memory gets one if there is one, and then none of its other pages is ever found absent, until something takes
them away.  So the first write counts as such a fault, unless a later one contradicts it.

Not seen: huge pages where all memory is eligible (transparent_hugepage/enabled is always), what khugepaged collapses,
and read faults, which map a huge page of zeros."""

from __future__ import annotations

from shmm.cluster.replay.image import PAGE_SHIFT
from shmm.cluster.replay.space import JUDGED, NO_FILE, Space
from shmm.cluster.replay.trace import Event

HUGE_SHIFT = 21
PAGES = 1 << HUGE_SHIFT - PAGE_SHIFT
ADVISED, REFUSED = 14, 15                   # MADV_HUGEPAGE, MADV_NOHUGEPAGE
AT_ONCE = 0.001                             # seconds: a fault of another thread so close knew nothing of the first
PRESENT, WRITE = 1, 2


class HugePages:
    """The faults (events) that mapped one."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.faults: set[int] = set()

    def __contains__(self, i: int) -> bool:
        return i in self.faults

    def advise(self, space: Space, start: int, end: int, advice: int) -> None:
        """A madvise."""
        if advice == ADVISED:
            space.advised.set(start, end, True)
        elif advice == REFUSED:
            space.advised.clear(start, end)

    def fault(self, space: Space, i: int) -> None:
        """A fault, before it counts as touched."""
        address, _, error = self.events[i].args
        if error & PRESENT or address not in space.advised:
            return
        block = address >> HUGE_SHIFT
        first = space.blocks.get(block)
        if first is None:
            eligible = error & WRITE and self._whole(space, block)
            space.blocks[block] = i if eligible else JUDGED
            if eligible:
                self.faults.add(i)
        elif first != JUDGED and not self._at_once(first, i):
            self.faults.discard(first)
            space.blocks[block] = JUDGED

    def _whole(self, space: Space, block: int) -> bool:
        """Whether the block is advised, anonymous memory, and has no page yet."""
        start, end = block << HUGE_SHIFT, block + 1 << HUGE_SHIFT
        mapped = space.mapped.overlapping(start, end)
        if len(mapped) != 1 or mapped[0][:2] != (start, end) or mapped[0][2][0] != NO_FILE:
            return False
        if space.advised.gaps(start, end):
            return False
        first = start >> PAGE_SHIFT
        return not any(page in space.touched for page in range(first, first + PAGES))

    def _at_once(self, first: int, i: int) -> bool:
        one, two = self.events[first], self.events[i]
        return one.tid != two.tid and two.time - one.time < AT_ONCE
