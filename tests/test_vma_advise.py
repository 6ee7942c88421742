"""madvise: what it does to pages and to VMAs, and which error comes first.

Every expectation was seen on Linux 6.18, where the same calls were made."""

import errno

import pytest
from vmas import ANON, FIXED, LOCKED, NONE, POPULATE, PRIVATE, READ, RW, SHARED, WRITE, Space

from shmm import Machine
from shmm.layout import CONSTANTS

NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE = 0, 1, 2, 3, 4, 8
DONTFORK, DOFORK, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK = 10, 11, 16, 17, 18, 19
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED = 20, 21, 22, 23, 24


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


@pytest.mark.parametrize("advice", [5, 6, 7, 103 + 900, 12345, 2**31 - 1])
def test_no_such_advice(space, advice):
    space.map(0, 1)
    fails(errno.EINVAL, lambda: space.advise(0, 1, advice))
    fails(errno.EINVAL, lambda: space.advise(0, 0, advice))


@pytest.mark.parametrize("advice", [
    NORMAL, WILLNEED, DONTNEED, FREE, DONTFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, WIPEONFORK,
])
def test_holes_are_reported(space, advice):
    """At the end, or by the populating ones where they come to it."""
    fails(errno.ENOMEM, lambda: space.advise(0, 1, advice))
    space.advise(0, 0, advice)
    space.map(1, 2)
    fails(errno.ENOMEM, lambda: space.advise(0, 3, advice))
    fails(errno.ENOMEM, lambda: space.advise(1, 3, advice))


def test_dontneed_goes_on_behind_a_hole(space):
    space.map(0, 1)
    space.map(2, 1)
    space.store(0)
    space.store(2)
    fails(errno.ENOMEM, lambda: space.advise(0, 3, DONTNEED))
    assert space.resident(0, 3) == "000"


def test_a_locked_mapping_refuses_and_ends_the_call(space):
    space.map(0, 1)
    space.store(0, 1)
    space.map(1, 1, RW, PRIVATE | ANON | FIXED | LOCKED)
    space.map(2, 1)
    space.store(2, 3)
    for advice in (DONTNEED, FREE, COLD, PAGEOUT):
        fails(errno.EINVAL, lambda: space.advise(0, 3, advice))
    assert space.resident(0, 3) == "011"
    space.advise(1, 1, DONTNEED_LOCKED)
    assert space.resident(0, 3) == "001" and space.load(2) == 3


def test_free_keeps_the_pages_until_memory_is_short(space):
    space.map(0, 2)
    space.store(0, 7)
    space.advise(0, 2, FREE)
    assert space.resident(0, 2) == "10" and space.load(0) == 7
    assert space.store(0, 8) == 0
    assert space.load(0) == 8


def test_free_is_for_private_memory_without_a_file(space):
    space.map(0, 1, RW, SHARED | ANON | FIXED)
    space.map(1, 1, RW, PRIVATE | FIXED, file=1)
    for page in (0, 1):
        fails(errno.EINVAL, lambda: space.advise(page, 1, FREE))
    fails(errno.EINVAL, lambda: space.advise(0, 2, WIPEONFORK))


def test_dontneed_of_a_private_file_page_brings_the_file_back(space):
    space.map(0, 1, RW, PRIVATE | FIXED, file=1)
    space.store(0, 7)
    space.advise(0, 1, DONTNEED)
    assert space.load(0) == 0


def test_dontneed_of_shared_memory_loses_nothing(space):
    space.map(0, 1, RW, SHARED | ANON | FIXED)
    space.store(0, 7)
    space.advise(0, 1, DONTNEED)
    assert space.resident(0, 1) == "0" and space.load(0) == 7


# ---- populating ----------------------------------------------------------------------------------------------


def test_populating(space):
    space.map(0, 4)
    assert space.faults(lambda: space.advise(0, 2, POPULATE_READ)) == 2
    assert space.load_faults(0) == 0 and space.store(0) == 1
    assert space.faults(lambda: space.advise(0, 4, POPULATE_WRITE)) == 3      # page 0 is there
    assert space.resident(0, 4) == "1111" and space.store(3) == 0


@pytest.mark.parametrize("prot, reads, writes", [
    (NONE, errno.EINVAL, errno.EINVAL), (READ, 0, errno.EINVAL), (WRITE, errno.EINVAL, 0), (RW, 0, 0),
])
def test_populating_needs_the_permission(space, prot, reads, writes):
    space.map(0, 1, prot)
    for advice, number in ((POPULATE_READ, reads), (POPULATE_WRITE, writes)):
        if number:
            fails(number, lambda: space.advise(0, 1, advice))
        else:
            space.advise(0, 1, advice)


def test_populating_stops_where_it_cannot_go_on(space):
    space.map(0, 2)
    space.map(2, 2, READ)
    space.map(4, 2)
    fails(errno.EINVAL, lambda: space.advise(0, 6, POPULATE_WRITE))
    assert space.resident(0, 6) == "110000"
    space.map(8, 2, READ, SHARED | FIXED, file=1, offset=15)
    fails(errno.EFAULT, lambda: space.advise(8, 2, POPULATE_READ))
    assert space.resident(8, 2) == "10"


# ---- what lives in the VMA -----------------------------------------------------------------------------------


@pytest.mark.parametrize("there, back", [
    (RANDOM, NORMAL), (SEQUENTIAL, NORMAL), (DONTFORK, DOFORK), (DONTDUMP, DODUMP), (WIPEONFORK, KEEPONFORK),
])
def test_a_hint_splits_and_its_opposite_joins(space, there, back):
    space.map(0, 5)
    space.advise(1, 2, there)
    assert space.picture() == "w|ww|ww"
    space.advise(0, 5, back)
    assert space.picture() == "wwwww"


def test_what_a_child_gets(space):
    """DONTFORK: nothing; WIPEONFORK: zeros; KEEPONFORK: what there is."""
    space.map(0, 5)
    for page in range(5):
        space.store(page, 7)
    space.advise(1, 1, DONTFORK)
    space.advise(2, 2, WIPEONFORK)
    space.advise(3, 1, KEEPONFORK)
    child = space.fork()
    assert child.picture() == "w|.|w|ww"
    assert [child.load(page) for page in (0, 2, 3, 4)] == [7, 0, 7, 7]


def test_what_a_wiped_mapping_leaves_its_own_child(space):
    """The flag is inherited."""
    space.map(0, 1, RW, PRIVATE | ANON | FIXED | POPULATE)
    space.advise(0, 1, WIPEONFORK)
    child = space.fork()
    assert child.resident(0, 1) == "0"
    child.store(0, 5)
    grandchild = child.fork()
    assert grandchild.load(0) == 0


def test_a_special_mapping_keeps_out_of_dumps():
    """VM_SPECIAL: DODUMP is refused; and what is not memory at all refuses DOFORK, DONTNEED and the rest."""
    with Machine(cpus=1, memory="1MiB") as machine:
        space, flags = Space(machine), CONSTANTS["VM_READ"] | CONSTANTS["VM_MAYREAD"]
        first = 0x2000_0000_0000
        odd = CONSTANTS["VM_IO"] | CONSTANTS["VM_PFNMAP"] | CONSTANTS["VM_DONTDUMP"]
        assert machine._cpu(0).map_special(first, first + 4096, flags | odd) == 0
        for advice in (DODUMP, DOFORK, DONTNEED, FREE, COLD, PAGEOUT, POPULATE_READ):
            fails(errno.EINVAL, lambda: space.advise(0, 1, advice))
        assert machine.check() == []
