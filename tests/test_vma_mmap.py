"""mmap: which error comes first, where mappings go, limits; munmap and MAP_FIXED over several.

Errors, order and addresses were seen on Linux 6.18, where those tests that need no policy were run on the same calls."""

import errno

import pytest
from vmas import (
    ANON, ARENA, EXEC, FIXED, GROWSDOWN, LOCKED, NONE, NOREPLACE, NORESERVE, PAGE, POPULATE, PRIVATE, READ, RW, SHARED,
    STACK, Space,
)

from shmm import BusError, Machine
from shmm.layout import CONSTANTS

HUGE = 2 << 20
GAP = 256 * PAGE
VALIDATE, TYPE_8, BITS_32, NONBLOCK = 3, 8, 0x40, 0x10000
BASE = CONSTANTS["MMAP_BASE"]
FAR = 0x7fff_ffff_f000                  # TASK_SIZE


@pytest.fixture
def space():
    with Machine(cpus=1, memory="4MiB", paranoid=1) as machine:
        machine.file(16)
        yield Space(machine)
        assert machine.check() == []


@pytest.fixture
def machine():
    with Machine(cpus=1, memory="4MiB", paranoid=1) as made:
        made.file(16)
        yield made
        assert made.check() == []


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, addr, length, prot, flags, file, offset", [
    (errno.EINVAL, 0, PAGE, RW, PRIVATE, 99, 1),                        # offset before file
    (errno.EBADF, 0, 0, RW, 0, 99, 0),                                  # file before length and kind
    (errno.EINVAL, 0, 0, RW, PRIVATE | ANON, 0, 0),
    (errno.ENOMEM, 0, 2**64 - PAGE + 1, RW, PRIVATE | ANON, 0, 0),      # rounds up to nothing
    (errno.ENOMEM, 0, 1 << 48, RW, 0, 1, 0),                            # no room before kind
    (errno.ENOMEM, FAR - PAGE + 1, 2 * PAGE, RW, PRIVATE | ANON | FIXED, 0, 0),     # beyond before unaligned
    (errno.EINVAL, FAR - 2 * PAGE + 1, PAGE, RW, PRIVATE | ANON | FIXED, 0, 0),
    (errno.EEXIST, ARENA, PAGE, RW, VALIDATE | NOREPLACE, 1, 0),        # in the way before kind
    (errno.EOPNOTSUPP, ARENA + 8 * PAGE, PAGE, RW, VALIDATE | NOREPLACE, 1, 0),
    (errno.EINVAL, 0, PAGE, RW, 0, 1, 0),
    (errno.EINVAL, 0, PAGE, RW, TYPE_8, 1, 0),
    (errno.EINVAL, 0, PAGE, RW, VALIDATE | ANON, 0, 0),
    (errno.EINVAL, 0, PAGE, RW, PRIVATE | GROWSDOWN, 1, 0),             # only private anonymous memory grows
    (errno.EINVAL, 0, PAGE, RW, SHARED | ANON | GROWSDOWN, 0, 0),
    (errno.EOVERFLOW, 0, PAGE, RW, PRIVATE, 1, 2**64 - PAGE),
    (errno.EOVERFLOW, 0, 2 * PAGE, RW, PRIVATE, 1, 0x7fff_ffff_ffff_f000),
    (errno.EINVAL, 0, PAGE, RW, VALIDATE | GROWSDOWN, 1, 0),
])
def test_which_error_comes_first(machine, number, addr, length, prot, flags, file, offset):
    machine.mmap(ARENA, PAGE, RW, PRIVATE | ANON | FIXED)
    before = machine.maps()
    with pytest.raises(OSError) as caught:
        machine.mmap(addr, length, prot, flags, file=file, offset=offset)
    assert caught.value.errno == number
    assert machine.maps() == before


def test_low_addresses_are_for_the_privileged(machine):
    """vm.mmap_min_addr; a hint is raised to it."""
    with pytest.raises(PermissionError):
        machine.mmap(0xf000, PAGE, RW, PRIVATE | ANON | FIXED)
    assert machine.mmap(0xffff, PAGE, RW, PRIVATE | ANON) == 0x10000
    assert machine.mmap(0xfff, PAGE, RW, PRIVATE | ANON) > 1 << 40      # less than a page is no hint


# ---- where -------------------------------------------------------------------------------------------------


def test_from_the_top_downwards(machine):
    first = machine.mmap(None, 3 * PAGE, RW, PRIVATE | ANON)
    assert first == BASE - 3 * PAGE
    assert machine.mmap(None, PAGE, READ, PRIVATE | ANON) == first - PAGE
    machine.munmap(first + PAGE, PAGE)
    assert machine.mmap(None, PAGE, READ, PRIVATE | ANON) == first + PAGE      # the highest hole that is large enough
    assert machine.mmap(None, 2 * PAGE, READ, PRIVATE | ANON) == first - 3 * PAGE


def test_hints(machine):
    assert machine.mmap(ARENA + 5, PAGE, RW, PRIVATE | ANON) == ARENA           # rounded down
    assert machine.mmap(ARENA, PAGE, READ, PRIVATE | ANON) == BASE - PAGE       # taken
    assert machine.mmap(ARENA - PAGE, 2 * PAGE, READ, PRIVATE | ANON) < BASE    # in part
    assert machine.mmap(FAR, PAGE, READ, PRIVATE | ANON) < BASE                 # no such place


def test_a_hint_keeps_off_a_stack_and_fixed_does_not(machine):
    stack = ARENA + 1024 * PAGE
    machine.mmap(stack, PAGE, RW, PRIVATE | ANON | FIXED | GROWSDOWN)
    assert machine.mmap(stack - GAP, PAGE, RW, PRIVATE | ANON) == BASE - PAGE
    assert machine.mmap(stack - GAP - PAGE, PAGE, RW, PRIVATE | ANON) == stack - GAP - PAGE
    assert machine.mmap(stack - PAGE, PAGE, RW, PRIVATE | ANON | FIXED) == stack - PAGE


def test_a_search_keeps_off_a_stack(machine):
    stack = machine.mmap(None, PAGE, RW, PRIVATE | ANON | GROWSDOWN)
    assert machine.mmap(None, PAGE, RW, PRIVATE | ANON) == stack - GAP - PAGE
    # 256 pages are free between the two; none of them is for a mapping that anybody chose a place for
    assert machine.mmap(None, PAGE, READ, PRIVATE | ANON) == stack - GAP - 2 * PAGE


@pytest.mark.parametrize("length, flags, aligned", [
    (HUGE, PRIVATE | ANON, True), (2 * HUGE, PRIVATE | ANON, True), (HUGE, PRIVATE | ANON | NORESERVE, True),
    (HUGE + PAGE, PRIVATE | ANON, False), (HUGE, SHARED | ANON, False), (HUGE, PRIVATE, True), (HUGE + PAGE, SHARED, True),
])
def test_whole_huge_pages_begin_at_a_boundary(machine, length, flags, aligned):
    """Since 6.7, of anonymous memory only for multiples of 2 MiB since 6.12; of files wherever one fits."""
    machine.mmap(None, PAGE, NONE, PRIVATE | ANON)
    at = machine.mmap(None, length, READ, flags, file=0 if flags & ANON else 1)
    assert at == ((BASE - PAGE - length) & -HUGE if aligned else BASE - PAGE - length)


def test_an_offset_within_a_huge_page_counts(machine):
    """The file's offset and the address agree in their last 21 bits, or no place is looked for."""
    machine.mmap(None, PAGE, NONE, PRIVATE | ANON)
    assert machine.mmap(None, HUGE, READ, PRIVATE, file=1, offset=PAGE) == BASE - PAGE - HUGE
    at = machine.mmap(None, 2 * HUGE, READ, PRIVATE, file=1, offset=PAGE)
    assert at % HUGE == PAGE


def test_without_the_policy_nothing_is_aligned():
    with Machine(cpus=1, memory="1MiB", thp_align=0) as machine:
        machine.mmap(None, PAGE, NONE, PRIVATE | ANON)
        assert machine.mmap(None, HUGE, NONE, PRIVATE | ANON) == BASE - PAGE - HUGE


def test_when_all_below_is_full_the_search_goes_upwards(machine):
    """Below mmap_base nothing is left, so that a place is found above it, or else nowhere."""
    machine.segment.view("mm")[1]["mmap_base"] = 0x10000 + 4 * PAGE
    assert machine.mmap(None, 4 * PAGE, NONE, PRIVATE | ANON) == 0x10000
    above = CONSTANTS["TASK_SIZE"] // 3 & -PAGE
    at = machine.mmap(None, PAGE, NONE, PRIVATE | ANON)
    assert at in (above, above + PAGE)
    assert machine.mmap(None, PAGE, READ, PRIVATE | ANON) == at + PAGE


def test_low_two_gigabytes_on_request(machine):
    assert machine.mmap(None, PAGE, RW, PRIVATE | ANON | BITS_32) == 0x4000_0000
    assert machine.mmap(None, PAGE, READ, PRIVATE | ANON | BITS_32) == 0x4000_1000
    assert machine.mmap(0x7fff_f000, PAGE, READ, PRIVATE | ANON | BITS_32) == 0x7fff_f000
    assert machine.mmap(0x8000_0000, PAGE, READ, PRIVATE | ANON | BITS_32) == 0x4000_2000


# ---- MAP_FIXED and munmap ------------------------------------------------------------------------------------


def test_fixed_replaces_what_is_there(space):
    space.map(0, 2)
    space.map(3, 2, READ)
    space.map(6, 2, EXEC)
    space.store(1, 5)
    space.map(1, 6)
    assert space.picture() == "wwwwwww|x"
    assert space.load(1) == 0


def test_noreplace_replaces_nothing(space):
    space.map(2, 2, READ)
    for first, n in ((0, 3), (3, 1), (2, 2), (3, 4)):
        with pytest.raises(FileExistsError):
            space.map(first, n, RW, PRIVATE | ANON | NOREPLACE)
    space.map(0, 2, RW, PRIVATE | ANON | NOREPLACE)
    assert space.picture() == "ww|rr"


def test_munmap_over_several_and_holes(space):
    space.map(0, 3)
    space.map(4, 2, READ)
    space.map(8, 4, EXEC)
    space.unmap(2, 8)
    assert space.picture() == "ww|........|xx"
    space.unmap(2, 8)                       # nothing there: fine
    with pytest.raises(OSError, match="Invalid"):
        space.unmap(0, 0)
    assert space.picture() == "ww|........|xx"


def test_a_mapping_of_a_file_past_its_end(space):
    space.map(0, 2, READ, PRIVATE | FIXED, file=1, offset=15)
    space.load(0)
    with pytest.raises(BusError):
        space.load(1)


# ---- populating ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prot, flags, faults, there", [
    (RW, PRIVATE | ANON | POPULATE, 0, "111"), (READ, PRIVATE | ANON | POPULATE, 0, "111"),
    (NONE, PRIVATE | ANON | POPULATE, None, "000"), (RW, SHARED | ANON | POPULATE, 0, "111"),
    (RW, PRIVATE | ANON | LOCKED, 0, "111"), (RW, PRIVATE | ANON | POPULATE | NONBLOCK, 1, "000"),
    (EXEC & ~READ, PRIVATE | ANON | POPULATE, 0, "111"),
])
def test_populate(space, prot, flags, faults, there):
    """What is there at once, and what the first access then costs."""
    space.map(0, 3, prot, flags | FIXED)
    assert space.resident(0, 3) == there
    if faults is not None:
        assert (space.store(0) if prot & 2 else space.load_faults(0)) == faults


def test_populate_reads_shared_files(space):
    """A shared page is not made dirty for nothing: the first store still faults."""
    space.map(0, 3, RW, SHARED | FIXED | POPULATE, file=1)
    assert space.resident(0, 3) == "111"
    assert space.store(0) == 1


def test_locked_memory_is_counted(machine):
    machine.mmap(ARENA, 4 * PAGE, RW, PRIVATE | ANON | FIXED | LOCKED)
    assert int(machine.segment.view("mm")[1]["locked_vm"]) == 4
    machine.munmap(ARENA + PAGE, PAGE)
    assert int(machine.segment.view("mm")[1]["locked_vm"]) == 3
    child = machine.fork()
    assert int(machine.segment.view("mm")[child.mm]["locked_vm"]) == 0
    child.madvise(ARENA, PAGE, 4)           # not locked there
    with pytest.raises(OSError, match="Invalid"):
        machine.madvise(ARENA, PAGE, 4)


def test_a_threads_stack_wants_no_huge_pages(space):
    space.map(0, 2, RW, PRIVATE | ANON | FIXED | STACK)
    space.map(2, 2, RW, PRIVATE | ANON | FIXED)
    space.advise(2, 2, 15)                  # MADV_NOHUGEPAGE
    assert space.picture() == "wwww"


# ---- limits ----------------------------------------------------------------------------------------------------


@pytest.fixture
def few():
    """Four VMAs at most, after which mmap may make one more."""
    with Machine(cpus=1, memory="1MiB", max_map_count=4) as machine:
        space = Space(machine)
        for first in (0, 4, 8):
            space.map(first, 3)
        yield space
        assert machine.check() == []


def no_memory(call) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == errno.ENOMEM


def test_too_many_mappings(few):
    """mmap asks whether there are more than allowed already, a split whether there would be."""
    few.map(12, 3)
    before = few.vmas()
    no_memory(lambda: few.protect(1, 1, READ))
    no_memory(lambda: few.protect(0, 1, READ))
    no_memory(lambda: few.unmap(1, 1))
    with pytest.raises(OSError) as caught:
        few.advise(0, 1, 10)
    assert caught.value.errno == errno.EAGAIN
    assert few.vmas() == before
    few.map(16, 3, READ)                    # the fifth
    no_memory(lambda: few.map(20, 1))
    no_memory(lambda: few.map(3, 1))        # would only widen a neighbour, but is refused before
    few.unmap(0, 1)                         # an edge: no more than before
    few.unmap(1, 4)
    assert few.picture() == "ww|.|www|.|www|.|rrr"


def test_a_second_split_that_fails_leaves_the_first(few):
    """mprotect in the midst of a VMA needs two; with room for one the lower edge stays split, as in Linux."""
    no_memory(lambda: few.protect(1, 1, READ))
    assert few.picture() == "w|ww|.|www|.|www"


def test_address_space_limit():
    with Machine(cpus=1, memory="1MiB", rlimit_as=8) as machine:
        space = Space(machine)
        space.map(0, 6)
        no_memory(lambda: space.map(6, 3))
        space.map(4, 4)                     # two of them replaced
        no_memory(lambda: machine.brk(machine.brk() + PAGE))
        assert space.picture() == "wwwwwwww"
        assert machine.check() == []


def test_more_than_the_memory_is_refused_at_once():
    """OVERCOMMIT_GUESS: one accounted request of more than all memory; RLIMITs and the sum do not matter."""
    with Machine(cpus=1, memory="1MiB", totalram=16) as machine:
        space = Space(machine)
        no_memory(lambda: space.map(0, 17))
        space.map(0, 16)
        space.map(20, 17, READ)
        no_memory(lambda: space.protect(20, 17, RW))
        space.map(40, 17, RW, PRIVATE | ANON | FIXED | NORESERVE)
        space.map(0, 20)                    # sixteen of them are accounted already
        no_memory(lambda: machine.brk(machine.brk() + 17 * PAGE))
        assert machine.check() == []
