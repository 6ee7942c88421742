"""Two CPUs of one address space on the counting engine, both executed by the calling process."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from rooms.crew import counter

from shmm.segment import Geometry, Segment, SegmentError

PAGE, RW, READ, NONE, ANON_FIXED, DONTNEED = 4096, 3, 1, 0, 0x32, 4
ARENA = 0x2000_0000_0000
PAGES = 6                               # of the arena; from page 9 on there is another mapping
SMALL = Geometry(ncpu=2, nmm=4, nvma=200, nanon=200, nfile=2, ncache=2, nframe=250, ninsn=2)
POLICIES = {"mmap_lock": {"scheme": "mmap_lock"}, "spf irq": {}, "spf rcu": {"walk": "rcu", "table_free": "rcu"}}
IRQ_OFF, WRITER = 1, 1

# Kinds of access, for traps.
LOADS, STORES, RMW = 1 << 0 | 1 << 2 | 1 << 3, 1 << 1 | 1 << 4 | 1 << 5, 1 << 6
EVERYTHING = LOADS | STORES | RMW


class World:
    """Two CPUs of one address space: some pages, the first one written by both; a child, if pages are to be shared."""

    def __init__(self, count, policy: str, pages: str = "fresh") -> None:
        self.count = count
        self.segment = Segment.create(SMALL, **{"scheme": "spf", "paranoid": 1, **POLICIES[policy]})
        self.a, self.b = (count.Cpu(self.segment.address, n) for n in (0, 1))
        assert self.a.exec(1) == self.b.attach(1) == 0
        for start in (ARENA, ARENA + 9 * PAGE):         # the second keeps the page table alive
            self.a.mmap(start, PAGES * PAGE, RW, ANON_FIXED)
            for cpu in (self.a, self.b):
                assert cpu.write(start, b"warm") is None
        if pages == "zero":
            assert self.a.touch(ARENA, PAGES * PAGE, False) > 0
        elif pages == "shared":
            self.a.touch(ARENA, PAGES * PAGE)
            assert self.a.fork(2) == 0
            assert self.a.touch(ARENA, PAGES * PAGE, False) == self.b.touch(ARENA, PAGES * PAGE, False) == 0
        # all state is in the segment
        whole = (ctypes.c_ubyte * self.segment.size).from_address(self.segment.address)
        self.bytes = np.frombuffer(whole, np.uint8)
        self.image = self.bytes.copy()

    def begin_again(self) -> None:
        """All of the machine as it was when it was made."""
        self.bytes[:] = self.image

    def address(self, array: str, index: int, name: str) -> int:
        """Where a field lies in this process."""
        view = self.segment.view(array)
        return int(view.ctypes.data) + index * view.dtype.itemsize + view.dtype.fields[name][1]

    def entry(self, level: int, page: int = 0) -> tuple[int, int]:
        """Where the entry of that level for a page of the arena lies: its table's frame, its index."""
        pfn, addr = int(self.segment.view("mm")["pgd"][1]), ARENA + page * PAGE
        for upper in range(4, level, -1):
            pfn = self.entries[pfn, addr >> 3 + 9 * upper & 511] >> 12 & 0xFFFFFFFFFF
        return int(pfn), addr >> 3 + 9 * level & 511

    @property
    def entries(self) -> np.ndarray:
        """The frames as page tables."""
        return self.segment.view("memory").view("i8")

    def nobody_must_wait(self, writes: bool) -> bool:
        """Whether the second CPU could now run: no lock held that it needs, and no interrupts off at the first."""
        head, mm = self.segment.view("seg"), self.segment.view("mm")[1]
        locks = [head["vma_pool"]["lock"], head["anon_pool"]["lock"], head["node"]["zone"]["lock"],
                 head["node"]["lru_lock"], head["cache_lock"], mm["page_table_lock"], self.segment.view("frame")["ptl"]]
        held = [lock["owner"].any() for lock in locks]
        held.append(mm["mmap_lock"]["count"] if writes else mm["mmap_lock"]["count"] & WRITER)
        return not any(held) and not self.segment.view("cpu")["state"][0] & IRQ_OFF

    def seen(self) -> list:
        """What both CPUs see of the pages, and the child of its own."""
        views = []
        for mm in (1, 2, 3):
            if self.segment.view("mm")["in_use"][mm]:
                for cpu in (self.a, self.b):
                    assert cpu.attach(mm) == 0
                both = [[cpu.read(ARENA + n * PAGE, 8) for n in range(PAGES)] for cpu in (self.a, self.b)]
                assert both[0] == both[1]
                views.append(both[0])
                for cpu in (self.a, self.b) if mm > 1 else ():
                    cpu.exit()
        return views

    def finish(self) -> list:
        """What is seen; then the end: nothing broken, nothing lost."""
        for cpu in (self.a, self.b):
            cpu.rcu_drain()
        assert self.count.check(self.segment.address) == []
        self.a.mmap(ARENA + 100 * PAGE, PAGE, RW, ANON_FIXED)       # keeps mm 1 while children are looked at
        views = self.seen()
        for cpu in (self.a, self.b):
            cpu.attach(1)
        for cpu in (self.a, self.b):
            cpu.exit()
        self.count.settle(self.segment.address)
        assert counter(self.segment, "violations") == 0
        assert self.count.frames_in_use(self.segment.address) == 0
        assert self.segment.view("seg")["vma_pool"]["free"] == SMALL.nvma - 1
        return views


@contextmanager
def world_of(count, policy: str, pages: str = "fresh") -> Iterator[World]:
    world = World(count, policy, pages)
    try:
        yield world
    finally:
        with suppress(SegmentError):    # the traceback of a failed test holds views of it
            world.segment.close()
