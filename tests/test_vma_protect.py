"""mprotect: several VMAs, holes, pages that stay, faults that are saved.

Every expectation was seen on Linux 6.18, where the same calls were made."""

import errno

import pytest
from vmas import ANON, EXEC, FIXED, GROWSDOWN, LOCKED, NONE, POPULATE, PRIVATE, READ, RW, SHARED, Space

from shmm import Machine, SegmentationFault

SEM, DOWN, UP = 8, 0x0100_0000, 0x0200_0000


@pytest.fixture(params=["spf", "mmap_lock"])
def space(request):
    with Machine(cpus=1, scheme=request.param, memory="4MiB", paranoid=1) as machine:
        machine.file(16)
        yield Space(machine)
        assert machine.check() == []


def fails(number: int, call) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number


def test_what_comes_before_a_hole_is_changed(space):
    space.map(0, 2)
    space.map(4, 2)
    fails(errno.ENOMEM, lambda: space.protect(0, 6, READ))
    assert space.picture() == "rr|..|ww"
    fails(errno.ENOMEM, lambda: space.protect(2, 3, READ))
    fails(errno.ENOMEM, lambda: space.protect(4, 3, READ))
    assert space.picture() == "rr|..|rr"


def test_arguments(space):
    space.map(0, 2)
    space.protect(0, 0, 0xff)                                   # nothing to do comes before what to do
    fails(errno.EINVAL, lambda: space.protect(0, 1, 0x10))
    fails(errno.EINVAL, lambda: space.protect(9, 1, 0x10))      # and that before the hole
    fails(errno.EINVAL, lambda: space.protect(0, 0, DOWN | UP))
    space.protect(0, 1, READ | SEM)
    assert space.picture() == "r|w"


def test_growing_directions(space):
    """PROT_GROWSDOWN takes the range to where its VMA begins; nothing grows upwards on x86."""
    space.map(0, 4, RW, PRIVATE | ANON | FIXED | GROWSDOWN)
    space.map(8, 4)
    space.protect(2, 1, READ | DOWN)
    assert space.picture() == "rrr|w|....|wwww"
    fails(errno.EINVAL, lambda: space.protect(9, 1, READ | DOWN))
    fails(errno.EINVAL, lambda: space.protect(9, 1, READ | UP))
    fails(errno.ENOMEM, lambda: space.protect(6, 1, READ | DOWN))
    fails(errno.ENOMEM, lambda: space.protect(6, 4, READ | UP))
    space.map(8, 4, RW, PRIVATE | ANON | FIXED | GROWSDOWN)
    space.protect(6, 3, READ | DOWN)        # the hole before it does not matter
    assert space.picture() == "rrr|w|....|r|www"


def test_pages_stay_without_access_and_come_back(space):
    space.map(0, 2)
    space.store(0, 7)
    space.protect(0, 2, NONE)
    assert space.resident(0, 2) == "10"
    with pytest.raises(SegmentationFault):
        space.load(0)
    space.protect(0, 2, RW)
    assert space.store(0, 8) == 0, "the page is exclusive, so that it becomes writable without a fault (6.1)"
    assert space.load(0) == 8


@pytest.mark.parametrize("touch, prot, faults", [
    ("store", READ, 0), ("store", NONE, 0), ("load", READ, 1), ("none", READ, 1),
])
def test_what_the_next_store_costs(space, touch, prot, faults):
    """A page of zeros, and one that is not there, still have to be made; a page that is ours does not."""
    space.map(0, 1)
    {"store": space.store, "load": space.load, "none": lambda page: None}[touch](0)
    space.protect(0, 1, prot)
    space.protect(0, 1, RW)
    assert space.store(0) == faults


def test_a_shared_page_of_memory_needs_no_fault_a_files_does(space):
    space.map(0, 1, RW, SHARED | ANON | FIXED)
    space.store(0, 1)
    space.protect(0, 1, READ)
    space.protect(0, 1, RW)
    assert space.store(0) == 0
    space.map(4, 1, READ, SHARED | ANON | FIXED | POPULATE)
    space.protect(4, 1, RW)
    assert space.store(4) == 0, "nobody need hear of the first write"
    space.map(2, 1, READ, SHARED | FIXED, file=1)
    space.load(2)
    space.protect(2, 1, RW)
    assert space.store(2) == 1, "the file system hears of the first write"


def test_a_forked_page_is_not_exclusive(space):
    space.map(0, 2)
    space.store(0, 7)
    child = space.fork()
    child.protect(0, 1, READ)
    child.protect(0, 1, RW)
    assert child.store(0, 8) == 1
    assert child.load(0) == 8


def test_locked_memory_that_becomes_writable_is_written(space):
    """Or the first store would fault."""
    space.map(0, 2, READ, PRIVATE | ANON | FIXED | LOCKED)
    assert space.resident(0, 2) == "11"
    space.protect(0, 2, RW)
    assert space.store(0) == 0


def test_x86_reads_what_it_may_write_or_execute(space):
    space.map(0, 1, 2)
    space.map(1, 1, EXEC & ~READ)
    space.store(0, 3)
    assert space.load(0) == 3 and space.load(1) == 0
