"""Swap: what goes out comes back, who refers to a slot is known, and speculation keeps away."""

import errno
import mmap as m

import pytest

from shmm import Machine, SegmentationFault
from shmm.cluster.check.scenario import geometry, load
from shmm.segment import Geometry

PAGE = 4096
ANON, SHARED, FIXED = m.MAP_PRIVATE | m.MAP_ANONYMOUS, m.MAP_SHARED | m.MAP_ANONYMOUS, 0x10
RW = m.PROT_READ | m.PROT_WRITE
ARENA, PAGEOUT, DONTNEED = 0x2000_0000_0000, 21, 4
SLOTS = 16


@pytest.fixture(params=["spf", "mmap_lock"])
def machine(request):
    with Machine(cpus=3, scheme=request.param, memory="1MiB", swap=SLOTS * PAGE, paranoid=1) as made:
        yield made
        assert made.check() == []


def filled(machine: Machine, pages: int) -> int:
    """A mapping, page n of which begins with byte n + 1."""
    a = machine.mmap(ARENA, pages * PAGE, RW, ANON | FIXED)
    for n in range(pages):
        machine.write(a + n * PAGE, bytes([n + 1]))
    return a


def free_slots(machine: Machine) -> int:
    return int(machine.segment.view("seg")["swap_pool"]["free"])


def contents(machine: Machine, pages: int, cpu: int = 0) -> list[int]:
    return [machine.read(ARENA + n * PAGE, 1, cpu=cpu)[0] for n in range(pages)]


def change(machine: Machine, before: dict[str, int]) -> dict[str, int]:
    return {name: count - before[name] for name, count in machine.counters().items() if count != before[name]}


def test_what_goes_out_comes_back(machine):
    a = filled(machine, 4)
    before, frames = machine.counters(), used_frames(machine)
    machine.madvise(a, 4 * PAGE, PAGEOUT, cpu=1)
    assert change(machine, before)["pswpout"] == 4
    assert free_slots(machine) == SLOTS - 4 and used_frames(machine) == frames - 4
    assert machine.check() == []
    assert contents(machine, 4, cpu=2) == [1, 2, 3, 4]
    now = change(machine, before)
    assert (now["pswpin"], now["pgmajfault"]) == (4, 4)
    assert free_slots(machine) == SLOTS and used_frames(machine) == frames


def used_frames(machine: Machine) -> int:
    return int((machine.segment.view("frame")["kind"] == 1).sum())


def test_a_load_brings_the_page_back_writable(machine):
    a = filled(machine, 1)
    machine.madvise(a, PAGE, PAGEOUT)
    before = machine.counters()
    assert machine.touch(a, PAGE, write=False) == 1
    assert machine.touch(a, PAGE, write=True) == 0
    assert "pgreuse" not in change(machine, before)


def test_speculation_refuses_every_swap_entry():
    with Machine(cpus=2, scheme="spf", memory="1MiB", swap="64KiB", paranoid=1) as machine:
        a = filled(machine, 3)
        machine.madvise(a, 3 * PAGE, PAGEOUT)
        before = machine.counters()
        assert machine.touch(a, 3 * PAGE) == 3
        now = change(machine, before)
        assert now["SPF_ABORT_SWAP"] == now["spf_abort"] == now["spf_attempt"] == now["faults_classic"] == 3
        assert machine.check() == []


def test_pages_that_others_hold_and_pages_of_zeros_stay(machine):
    a = filled(machine, 2)
    machine.fork()
    machine.write(a, b"x")                                  # this one is ours again
    b = machine.mmap(a + 2 * PAGE, PAGE, RW, ANON | FIXED)
    machine.read(b, 1)
    c = machine.mmap(None, PAGE, RW, SHARED)
    machine.write(c, b"y")
    machine.madvise(a, 3 * PAGE, PAGEOUT)
    machine.madvise(c, PAGE, PAGEOUT)
    assert machine.counters()["pswpout"] == 1
    assert machine.read(a, 1) == b"x" and machine.read(c, 1) == b"y"


def test_a_child_has_its_own_claim_to_a_slot(machine):
    a = filled(machine, 2)
    machine.madvise(a, 2 * PAGE, PAGEOUT)
    child = machine.fork()
    assert list(machine.segment.view("swap")["count"][1:3]) == [2, 2]
    assert machine.check() == []
    machine.write(a, b"\x63", cpu=1)                        # the parent's copy, of which the child sees nothing
    assert list(machine.segment.view("swap")["count"][1:3]) == [1, 2]
    machine.attach(child, cpu=2)
    assert contents(machine, 2, cpu=2) == [1, 2]
    assert contents(machine, 2) == [0x63, 2]
    assert free_slots(machine) == SLOTS


def test_whoever_unmaps_gives_the_slots_back(machine):
    a = filled(machine, 6)
    machine.madvise(a, 6 * PAGE, PAGEOUT)
    machine.munmap(a, 2 * PAGE)
    assert free_slots(machine) == SLOTS - 4
    machine.madvise(a + 2 * PAGE, PAGE, DONTNEED)
    assert free_slots(machine) == SLOTS - 3
    machine.mmap(a + 3 * PAGE, PAGE, RW, ANON | FIXED)
    assert free_slots(machine) == SLOTS - 2
    assert machine.check() == []
    machine.mmap(a, 2 * PAGE, RW, ANON | FIXED)
    assert contents(machine, 6) == [0, 0, 0, 0, 5, 6]


def test_an_exit_gives_the_slots_back(machine):
    a = filled(machine, 3)
    child = machine.fork()
    machine.attach(child, cpu=1)
    for n in range(3):
        machine.write(a + n * PAGE, b"c", cpu=1)
    machine.madvise(a, 3 * PAGE, PAGEOUT, cpu=1)
    assert free_slots(machine) == SLOTS - 3
    machine.attach(1, cpu=1)                                # the child had no other thread
    assert free_slots(machine) == SLOTS


def test_permissions_are_those_of_the_mapping_when_the_page_returns(machine):
    a = filled(machine, 2)
    machine.madvise(a, 2 * PAGE, PAGEOUT)
    machine.mprotect(a, PAGE, m.PROT_READ)
    machine.mprotect(a + PAGE, PAGE, 0)
    assert free_slots(machine) == SLOTS - 2
    assert machine.read(a, 1) == b"\x01"
    for page in (a, a + PAGE):
        with pytest.raises(SegmentationFault):
            machine.write(page, b"z")
    assert free_slots(machine) == SLOTS - 1
    machine.mprotect(a, 2 * PAGE, RW)
    assert contents(machine, 2) == [1, 2]


def test_a_page_without_access_can_go_out(machine):
    a = filled(machine, 1)
    machine.mprotect(a, PAGE, 0)
    machine.madvise(a, PAGE, PAGEOUT)
    assert free_slots(machine) == SLOTS - 1
    machine.mprotect(a, PAGE, RW)
    assert contents(machine, 1) == [1]


def test_a_full_area_takes_no_more(machine):
    a = filled(machine, SLOTS + 3)
    machine.madvise(a, (SLOTS + 3) * PAGE, PAGEOUT)
    assert free_slots(machine) == 0 and machine.counters()["pswpout"] == SLOTS
    assert machine.check() == []
    assert contents(machine, SLOTS + 3) == list(range(1, SLOTS + 4))


def test_the_errors_are_madvise_s(machine):
    a = filled(machine, 3)
    machine.munmap(a + PAGE, PAGE)
    for start, length in ((a, 3 * PAGE), (a + 3 * PAGE, PAGE)):
        with pytest.raises(OSError) as caught:
            machine.madvise(start, length, PAGEOUT)
        assert caught.value.errno == errno.ENOMEM
    assert machine.counters()["pswpout"] == 2               # what is mapped went out all the same


def test_without_swap_nothing_goes_out():
    with Machine(cpus=1, memory="1MiB", paranoid=1) as machine:
        a = filled(machine, 2)
        machine.madvise(a, 2 * PAGE, PAGEOUT)
        assert machine.counters()["pswpout"] == 0
        assert machine.touch(a, 2 * PAGE) == 0


def test_an_invariant_misses_a_lost_slot(machine):
    a = filled(machine, 1)
    machine.madvise(a, PAGE, PAGEOUT)
    slots = machine.segment.view("swap")
    slots["count"][1] += 1
    assert "swap slot's count" in " ".join(machine.check())
    slots["count"][1] -= 1
    pool = machine.segment.view("seg")["swap_pool"]
    pool["free"] -= 1
    assert "free swap slots" in " ".join(machine.check())
    pool["free"] += 1
    assert machine.check() == []


def test_a_geometry_has_room_for_what_it_says():
    assert Geometry.for_run(1, 16).nswap == 0
    assert Geometry.for_run(1, 16, swap_pages=7).nswap == 8
    assert geometry(load("swap_fault").scene()).nswap == 3
    bare, more = (Geometry.for_run(1, 16, swap_pages=n).size for n in (0, 1600))
    assert 1600 * PAGE <= more - bare <= 1700 * PAGE
    with pytest.raises(ValueError, match="nswap"):
        Geometry.for_run(1, 16, swap_pages=-2)
