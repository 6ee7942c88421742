"""The VMA tree: red-black, in order, with the right gaps; and what a search without a lock may rely on."""

import bisect
import math
import random

import pytest
from rooms.crew import crew, machine, nanoseconds

pytest_plugins = ("engines",)

PAGE, MMAP_MIN = 4096, 0x10000
BASE = 0x4000_0000                      # where the search for holes begins
PAGES = 400                             # of the arena right below it


@pytest.fixture
def segment():
    with machine() as made:
        yield made


class Arena:
    """The tree of mm 1 and a sorted list beside it."""

    def __init__(self, rooms, segment) -> None:
        self.rooms, self.cpu = rooms, rooms.Cpu(segment.address, 0)
        self.areas: list[tuple[int, int, int]] = []         # start, end, VMA
        self.do("base", BASE)

    def do(self, what: str, a: int = 0, b: int = 0) -> int:
        return self.rooms.tree(self.cpu, what, a, b)

    def insert(self, start: int, end: int) -> None:
        """Puts a VMA there, unless something is in the way."""
        at = bisect.bisect(self.areas, (start,))
        if any(low < end and high > start for low, high, _ in self.areas[max(0, at - 1) : at + 1]):
            return
        self.areas.insert(at, (start, end, self.do("insert", start, end)))
        assert self.areas[at][2]

    def erase(self, index: int) -> None:
        self.do("erase", self.areas.pop(index)[2])

    def find(self, addr: int) -> int:
        """What find_vma must answer."""
        return next((vma for _, end, vma in self.areas if end > addr), 0)

    def hole(self, length: int) -> int:
        """What unmapped_area_topdown must answer, by trying every hole."""
        edges = [0, *(edge for start, end, _ in self.areas for edge in (start, end)), BASE]
        holes = [(max(low, MMAP_MIN), min(high, BASE)) for low, high in zip(edges[::2], edges[1::2], strict=True)]
        return max((high - length for low, high in holes if high - low >= length), default=0)

    def agrees(self) -> None:
        assert self.rooms.tree_breach(self.cpu) is None
        assert self.rooms.tree_list(self.cpu) == [(vma, start, end) for start, end, vma in self.areas]


@pytest.mark.parametrize("seed", range(6))
def test_I1_random_inserts_and_erases(rooms, segment, seed):
    dice, arena = random.Random(seed), Arena(rooms, segment)
    grow = 0.9
    for _ in range(900):
        if dice.random() < 0.01:
            grow = dice.choice((0.2, 0.5, 0.9))
        if dice.random() < grow or not arena.areas:
            start = BASE - dice.randrange(1, PAGES) * PAGE
            arena.insert(start, start + dice.choice((1, 1, 2, 5)) * PAGE)
        else:
            arena.erase(dice.randrange(len(arena.areas)))
        arena.agrees()
        addr = BASE - dice.randrange(-5, PAGES * PAGE)
        assert arena.do("find", addr) == arena.find(addr)
        length = dice.choice((1, 2, 3, 10, 50, PAGES)) * PAGE
        assert arena.do("hole", length) == arena.hole(length)


@pytest.mark.parametrize("order", ["up", "down", "inwards"])
def test_I1_the_tree_stays_low(rooms, segment, order):
    arena, n = Arena(rooms, segment), 1000
    turn = {"up": lambda i: i, "down": lambda i: n - i, "inwards": lambda i: i // 2 if i % 2 else n - i // 2}[order]
    for i in range(n):
        arena.insert(MMAP_MIN + turn(i) * 3 * PAGE, MMAP_MIN + (turn(i) * 3 + 1) * PAGE)
    arena.agrees()
    assert rooms.tree_height(arena.cpu) <= 2 * math.log2(n + 1)
    while arena.areas:                  # every other one, again and again
        for index in range(len(arena.areas) - 1, -1, -2):
            arena.erase(index)
        arena.agrees()
        assert rooms.tree_height(arena.cpu) <= 2 * math.log2(len(arena.areas) + 1)


def test_no_hole_is_found_where_there_is_none(rooms, segment):
    arena = Arena(rooms, segment)
    assert arena.do("hole", BASE - MMAP_MIN) == MMAP_MIN
    assert arena.do("hole", BASE - MMAP_MIN + PAGE) == 0
    arena.insert(MMAP_MIN, BASE)
    assert arena.do("hole", PAGE) == 0
    arena.insert(BASE + 10 * PAGE, BASE + 11 * PAGE)    # a hole above the base does not count
    assert arena.do("hole", PAGE) == 0
    arena.erase(0)
    arena.insert(BASE - PAGE, BASE + PAGE)              # nor the part of one that lies above it
    assert arena.do("hole", PAGE) == BASE - 2 * PAGE


def test_T1_T2_T3_searches_without_a_lock(rooms, segment):
    """They end, and lead to a VMA that nobody reuses meanwhile; the sequence count tells the right from the wrong."""
    segment.view("mm")["users"][1] = 2                  # so that VMAs are freed by RCU
    ns = nanoseconds(1.0)
    changed, *ends = crew(
        lambda: rooms.tree_storm(rooms.Cpu(segment.address, 0), 3, ns, 1),
        *(lambda n=n: rooms.tree_descend(rooms.Cpu(segment.address, n), 3, ns, n) for n in (1, 2)),
    )
    searches, outside, reused, wrong, valid = map(sum, zip(*ends, strict=True))
    assert (outside, reused, wrong) == (0, 0, 0)
    assert 0 < valid < searches and changed > 0
    assert rooms.tree_breach(rooms.Cpu(segment.address, 0)) is None
