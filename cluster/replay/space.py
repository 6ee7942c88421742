"""One address space as far as a trace shows it, up to the event that is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from shmm.cluster.replay.image import PAGE_SHIFT, WINDOW, Image
from shmm.cluster.replay.intervals import Intervals
from shmm.cluster.replay.trace import Event

PAGE = 1 << PAGE_SHIFT
REGION_SHIFT = 21
READ_WRITE = 3
NO_FILE = -1
JUDGED = -1


def page_up(address: int) -> int:
    """The address, rounded up to whole pages."""
    return (address + PAGE - 1) & -PAGE


@dataclass(eq=False, slots=True)
class Space:
    """What is mapped by recorded calls, which pages are known to have been present, and where the program ran.

    regions: stretches of 2 MiB that were touched or run in.  touched: pages that faulted here and that no recorded call
    has taken away since.  windows: for each fault-around window (its number and its mapping's start) the pages that
    were read while absent.  advised, blocks: see hugepages.py."""

    image: Image
    mapped: Intervals[tuple[int, int]] = field(default_factory=Intervals)   # (event of the file's mmap, prot)
    regions: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)
    windows: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    brk: int | None = None
    advised: Intervals[bool] = field(default_factory=Intervals)
    blocks: dict[int, int] = field(default_factory=dict)        # 2 MiB with pages -> the fault that brought the first

    def fork(self) -> Space:
        """The child's copy.  Pages of files are not copied, so nothing counts as touched in it."""
        return Space(self.image, self.mapped.copy(), set(self.regions), brk=self.brk, advised=self.advised.copy(),
                     blocks=dict.fromkeys(self.blocks, JUDGED))

    def forget(self, start: int, end: int) -> None:
        """The pages of [start, end) are not present any more."""
        first, last = start >> PAGE_SHIFT, page_up(end) >> PAGE_SHIFT
        if last - first < len(self.touched):
            self.touched.difference_update(range(first, last))
        else:
            self.touched = {page for page in self.touched if not first <= page < last}
        for block in list(self.blocks):
            low, high = block << REGION_SHIFT, block + 1 << REGION_SHIFT
            if start <= low and high <= end:
                del self.blocks[block]
            elif low < end and start < high:
                self.blocks[block] = JUDGED
        stale = [key for key in self.windows if first // WINDOW <= key[0] <= last // WINDOW]
        for key in stale:
            self.windows[key] = {page for page in self.windows[key] if not first <= page < last}

    def map(self, start: int, end: int, prot: int, mmap: int = NO_FILE) -> None:
        """mmap: the event that mapped a file there."""
        self.forget(start, end)
        self.advised.clear(start, end)
        self.mapped.set(start, end, (mmap, prot))

    def unmap(self, start: int, end: int) -> None:
        """Nothing is mapped in [start, end) any more."""
        self.forget(start, end)
        self.advised.clear(start, end)
        self.mapped.clear(start, end)

    def explains(self, address: int) -> bool:
        """Whether this space is known to have something there."""
        return address in self.mapped or address >> REGION_SHIFT in self.regions

    def set_brk(self, end: int) -> None:
        """A brk call returned this end of the heap; the first one says where the heap begins."""
        if self.brk is None:
            if self.image.heap is None:
                self.image.heap = end
            self.brk = self.image.heap
        low, high = page_up(self.brk), page_up(end)
        if low < high:
            self.map(low, high, READ_WRITE)
        else:
            self.unmap(high, low)
        self.brk = end


def arrival(event: Event, result: int) -> tuple[int, int]:
    """The stretch that an mremap newly maps: all of the new place, or what it grew by in place."""
    old, old_len, new_len = event.args[0], page_up(event.args[1]), page_up(event.args[2])
    return (result + min(old_len, new_len) if result == old else result), result + new_len


def departure(event: Event, result: int) -> tuple[int, int]:
    """The stretch that an mremap gives up: all of the old place, or what it shrank by in place."""
    old, old_len, new_len = event.args[0], page_up(event.args[1]), page_up(event.args[2])
    return (old + new_len if result == old else old), old + old_len
