"""Page tables: allocated by faults, gone with the last mapping near them; and gathered frames."""

import random

import pytest
from rooms.crew import counter, machine

pytest_plugins = ("engines",)

PAGE, RW, ANON_FIXED = 4096, 3, 0x32
SHIFT = {3: 39, 2: 30, 1: 21}           # a table of level 1 (ptes) covers 2 MiB, of 3 (pud entries) 512 GiB
TOP = 1 << 48


@pytest.fixture(params=["ipi", "rcu"])
def segment(request):
    with machine(table_free=request.param) as made:
        yield made


class Space:
    """Address space 1, and which tables it must have: (level, number) of each."""

    def __init__(self, rooms, segment) -> None:
        self.cpu, self.segment = rooms.Cpu(segment.address, 0), segment
        self.other = rooms.Cpu(segment.address, 1)
        assert self.cpu.exec(1) == 0 and self.other.attach(1) == 0
        self.areas: set[tuple[int, int]] = set()
        self.tables: set[tuple[int, int]] = set()

    def map(self, start: int, pages: int) -> None:
        assert self.cpu.mmap(start, pages * PAGE, RW, ANON_FIXED) == start
        self.areas.add((start, start + pages * PAGE))

    def touch(self, addr: int, write: bool = True) -> None:
        self.cpu.touch(addr, 1, write)
        self.tables |= {(level, addr >> shift) for level, shift in SHIFT.items()}

    def unmap(self, start: int, end: int) -> None:
        """Takes away a whole area, and the tables that lie in the hole it leaves."""
        assert self.cpu.munmap(start, end - start) == 0
        self.areas.remove((start, end))
        floor = max((high for _, high in self.areas if high <= start), default=0)
        ceiling = min((low for low, _ in self.areas if low >= end), default=TOP)
        for level, number in list(self.tables):
            low = number << SHIFT[level]
            high = low + (1 << SHIFT[level])
            if low < end and high > start and low >= floor and high <= ceiling:
                self.tables.remove((level, number))

    def agrees(self) -> None:
        self.cpu.rcu_drain()
        assert counter(self.segment, "nr_page_table_pages") == len(self.tables) + 1     # and the pgd
        assert self.segment.view("mm")["pgtables"][1] == len(self.tables) + 1


def test_a_table_lives_as_long_as_a_mapping_may_need_it(rooms, segment):
    space = Space(rooms, segment)
    low, near, far = 1 << 40, (1 << 40) + (2 << 20), (1 << 40) + (600 << 30)
    for start in (low, near, far):
        space.map(start, 4)
        space.touch(start)
    space.agrees()
    assert len(space.tables) == 4 + 3
    for start in (near, far, low):
        space.unmap(start, start + 4 * PAGE)
        space.agrees()
    assert not space.tables


@pytest.mark.parametrize("seed", range(4))
def test_no_table_is_lost_and_none_kept_too_long(rooms, segment, seed):
    dice, space = random.Random(seed), Space(rooms, segment)
    places = [dice.choice((1 << 21, 1 << 30, 1 << 39)) * dice.randrange(1, 6) + dice.randrange(3) * (1 << 20)
              for _ in range(12)]
    for _ in range(150):
        start, pages = dice.choice(places), dice.choice((1, 16, 200))
        inside = [area for area in space.areas if area[0] < start + pages * PAGE and area[1] > start]
        if not inside:
            space.map(start, pages)
            space.touch(start + dice.randrange(pages) * PAGE, dice.random() < 0.7)
        elif dice.random() < 0.6:
            space.unmap(*inside[0])
        else:
            space.touch(dice.randrange(inside[0][0], inside[0][1]))
        space.agrees()
    for area in list(space.areas):
        space.unmap(*area)
    space.agrees()
    assert not space.tables


def test_more_frames_than_one_gather_holds(rooms):
    with machine() as segment:
        cpu = rooms.Cpu(segment.address, 0)
        cpu.exec(1)
        pages, start = 4000, 1 << 40
        assert cpu.mmap(start, 9000 * PAGE, RW, ANON_FIXED) == start
        assert cpu.touch(start, pages * PAGE) == pages
        cpu.munmap(start, 9000 * PAGE)
        cpu.exit()
        rooms.settle(segment.address)
        assert rooms.frames_in_use(segment.address) == 0
