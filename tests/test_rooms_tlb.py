"""The software TLB of one CPU against a dictionary: it may forget what it likes, but never what it must keep not."""

import random

import pytest
from rooms.crew import counter, machine

pytest_plugins = ("engines",)

L1_SETS, L1_WAYS, L2_SETS, ASIDS = 16, 4, 128, 6
WRAP = 1 << 28                          # generations


@pytest.fixture
def segment():
    with machine() as made:
        yield made


class Tlb:
    """A TLB and what may be in it: by mm, page -> PTE."""

    def __init__(self, rooms, segment, generation: int = 0) -> None:
        self.cpu, self.do = rooms.Cpu(segment.address, 0), rooms.tlb
        self.filled: dict[int, dict[int, int]] = {}
        segment.view("cpu")["tlb_gen"][0] = generation
        self.switch(1)

    def switch(self, mm: int) -> None:
        self.do(self.cpu, "switch", mm)
        self.mm = mm
        self.filled.setdefault(mm, {})

    def fill(self, vpn: int, pte: int) -> None:
        """As after a miss: the TLB holds no entry of the page."""
        if self.lookup(vpn) == 0:
            self.do(self.cpu, "fill", vpn, pte)
            self.filled[self.mm][vpn] = pte

    def lookup(self, vpn: int) -> int:
        pte = self.do(self.cpu, "lookup", vpn)
        assert pte in (0, self.filled[self.mm].get(vpn, 0))
        return pte

    def flush_one(self, mm: int, vpn: int) -> None:
        self.do(self.cpu, "one", mm, vpn)
        self.filled.get(mm, {}).pop(vpn, None)

    def flush_mm(self, mm: int) -> None:
        self.do(self.cpu, "mm", mm)
        self.filled.pop(mm, None)
        self.filled.setdefault(self.mm, {})

    def flush_all(self) -> None:
        self.do(self.cpu, "all")
        self.filled = {self.mm: {}}


def test_a_set_holds_four_and_the_second_level_what_it_drops(rooms, segment):
    tlb = Tlb(rooms, segment)
    pages = [5 + L1_SETS * i for i in range(L1_WAYS + 3)]
    for i, vpn in enumerate(pages):
        tlb.fill(vpn, (i + 1) << 12 | 1)
    hits = counter(segment, "tlb_hit")
    assert [tlb.lookup(vpn) >> 12 for vpn in pages[-L1_WAYS:]] == [4, 5, 6, 7]
    assert counter(segment, "tlb_hit") == hits + L1_WAYS
    assert [tlb.lookup(vpn) >> 12 for vpn in pages[:3]] == [1, 2, 3]
    assert counter(segment, "tlb_hit_l2") == 3
    assert [tlb.lookup(vpn) >> 12 for vpn in pages] == [1, 2, 3, 4, 5, 6, 7]        # each came up, none was lost


def test_a_flush_reaches_both_levels(rooms, segment):
    tlb = Tlb(rooms, segment)
    pages = [7 + L1_SETS * i for i in range(L1_WAYS + 1)]
    for vpn in pages:
        tlb.fill(vpn, vpn << 12 | 1)
    for vpn in pages:
        tlb.flush_one(1, vpn)
        assert tlb.lookup(vpn) == 0


def test_address_spaces_do_not_see_each_other(rooms, segment):
    tlb = Tlb(rooms, segment)
    for mm in (1, 2):
        tlb.switch(mm)
        tlb.fill(9, mm << 12 | 1)
    for mm in (1, 2):
        tlb.switch(mm)
        assert tlb.lookup(9) == mm << 12 | 1            # warm, and its own
    tlb.flush_one(1, 9)                                 # of an mm that is not loaded
    assert tlb.lookup(9) == 2 << 12 | 1
    tlb.switch(1)
    assert tlb.lookup(9) == 0


@pytest.mark.parametrize("others, warm", [(ASIDS - 1, True), (ASIDS, False)])
def test_six_address_spaces_are_remembered(rooms, segment, others, warm):
    tlb = Tlb(rooms, segment)
    tlb.fill(9, 1 << 12 | 1)
    for mm in range(2, 2 + others):
        tlb.switch(mm)
    tlb.switch(1)
    assert (tlb.lookup(9) != 0) == warm


@pytest.mark.parametrize("flush", ["mm", "other mm", "all", "switch"])
@pytest.mark.parametrize("left", [1, 2, 3])
def test_after_the_last_generation_nothing_old_is_found_and_flushes_work(rooms, segment, flush, left):
    tlb = Tlb(rooms, segment, WRAP - 1 - left - 2)
    tlb.switch(2)
    tlb.switch(1)
    tlb.fill(9, 1 << 12 | 1)
    for _ in range(left + 1):                           # across the end of the numbers
        if flush == "mm":
            tlb.flush_mm(1)
        elif flush == "all":
            tlb.flush_all()
        elif flush == "other mm":
            tlb.flush_mm(2)
        else:
            tlb.flush_mm(2)
            tlb.switch(3)
            tlb.switch(1)
    for value in (2, 3):
        tlb.fill(9, value << 12 | 1)
        tlb.flush_one(1, 9)
        assert tlb.lookup(9) == 0
    tlb.fill(9, 4 << 12 | 1)
    tlb.flush_mm(1)
    assert tlb.lookup(9) == 0


@pytest.mark.parametrize("generation", [0, WRAP], ids=["young", "wrapping"])
@pytest.mark.parametrize("seed", range(8))
def test_random_use_agrees_with_a_dictionary(rooms, segment, seed, generation):
    dice = random.Random(seed)
    tlb = Tlb(rooms, segment, max(0, generation - dice.randrange(5, 60)))
    found = 0
    for step in range(2000):
        vpn = dice.randrange(3) * L2_SETS + dice.randrange(8)
        what = dice.random()
        if what < 0.45:
            tlb.fill(vpn, (step + 1) << 12 | 1)
        elif what < 0.9:
            found += tlb.lookup(vpn) != 0
        elif what < 0.96:
            tlb.flush_one(dice.randrange(1, 9), vpn)
        elif what < 0.985:
            tlb.switch(dice.randrange(1, 9))
        elif what < 0.997:
            tlb.flush_mm(dice.randrange(1, 9))
        else:
            tlb.flush_all()
    assert found > 200
