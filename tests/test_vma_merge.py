"""Which VMAs merge: the ten outcomes of a new range and of a part that changes, and what keeps neighbours apart.

p and n are the neighbours, * the range.  Every picture was seen on Linux 6.18, where the same calls were made."""

import mmap as m
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from vmas import ANON, ARENA, EXEC, FIXED, NONE, PAGE, POPULATE, PRIVATE, READ, RW, SHARED, STACK, Space

from shmm import Machine
from shmm.layout import CONSTANTS

DONTFORK, DOFORK, DONTNEED = 10, 11, 4
NORESERVE = 0x4000


@pytest.fixture(params=["spf", "mmap_lock"])
def space(request):
    with Machine(cpus=1, scheme=request.param, memory="4MiB", paranoid=1) as machine:
        machine.file(16)
        yield Space(machine)
        assert machine.check() == []


# ---- a new range -------------------------------------------------------------------------------------------


def test_new_between_strangers(space):
    """pp|**|nn"""
    space.map(0, 2, READ)
    space.map(4, 2, EXEC)
    space.map(2, 2)
    assert space.picture() == "rr|ww|xx"


def test_new_extends_the_previous(space):
    """pp** -> PPPP"""
    space.map(0, 2)
    space.map(4, 2, READ)
    space.map(2, 2)
    assert space.picture() == "wwww|rr"


def test_new_extends_the_next_downwards(space):
    """**nn -> NNNN"""
    space.map(0, 2, READ)
    space.map(4, 2)
    space.map(2, 2)
    assert space.picture() == "rr|wwww"


def test_new_joins_both(space):
    """pp**nn -> PPPPPP"""
    space.map(0, 2)
    space.map(4, 2)
    space.map(2, 2)
    assert space.picture() == "wwwwww"


# ---- a part changes ----------------------------------------------------------------------------------------


def test_existing_middle_splits_at_both_edges(space):
    """vvvvvv -> vv|**|vv"""
    space.map(0, 6)
    space.protect(2, 2, READ)
    assert space.picture() == "ww|rr|ww"


def test_existing_right_part_goes_to_the_next(space):
    """vv**|nn -> vv|NNNN"""
    space.map(0, 4)
    space.map(4, 2, READ)
    space.protect(2, 2, READ)
    assert space.picture() == "ww|rrrr"


def test_existing_whole_goes_to_the_next(space):
    """****|nn -> NNNNNN"""
    space.map(0, 4)
    space.map(4, 2, READ)
    space.protect(0, 4, READ)
    assert space.picture() == "rrrrrr"


def test_existing_left_part_goes_to_the_previous(space):
    """pp|**vv -> PPPP|vv"""
    space.map(0, 2, READ)
    space.map(2, 4)
    space.protect(2, 2, READ)
    assert space.picture() == "rrrr|ww"


def test_existing_whole_goes_to_the_previous(space):
    """pp|**** -> PPPPPP"""
    space.map(0, 2, READ)
    space.map(2, 4)
    space.map(6, 2, EXEC)
    space.protect(2, 4, READ)
    assert space.picture() == "rrrrrr|xx"


def test_existing_whole_joins_both(space):
    """pp|**|nn -> PPPPPP"""
    space.map(0, 6, READ)
    space.protect(2, 2, RW)
    assert space.picture() == "rr|ww|rr"
    space.protect(2, 2, READ)
    assert space.picture() == "rrrrrr"


def test_what_was_split_joins_again(space):
    space.map(0, 8)
    space.store(0)
    for first in (1, 5, 3):
        space.protect(first, 1, READ)
    assert space.picture() == "w|r|w|r|w|r|ww"
    space.protect(0, 8, RW)
    assert space.picture() == "wwwwwwww"


def test_one_call_over_several(space):
    """Each VMA of the range goes to the one before it."""
    space.map(0, 2, NONE)
    space.map(2, 2, READ)
    space.map(4, 2, EXEC)
    space.map(6, 2, NONE)
    space.protect(1, 6, NONE)
    assert space.picture() == "--------"


def test_hints_split_and_merge_as_protections_do(space):
    space.map(0, 6)
    space.advise(2, 2, DONTFORK)
    assert space.picture() == "ww|ww|ww"
    space.advise(1, 4, DOFORK)
    assert space.picture() == "wwwwww"


# ---- what keeps them apart ---------------------------------------------------------------------------------


def test_two_anon_vmas_do_not_merge(space):
    """Written to before they were neighbours that could merge, so each has its own."""
    space.map(0, 2)
    space.store(0)
    space.map(4, 2)
    space.store(4)
    space.map(2, 2, READ)
    space.protect(2, 2, RW)
    assert space.picture() == "wwww|ww", "left only: the range fits both, they do not fit each other"


def test_new_between_two_anon_vmas_goes_left(space):
    space.map(0, 2)
    space.store(0)
    space.map(4, 2)
    space.store(4)
    space.map(2, 2)
    assert space.picture() == "wwww|ww"


def test_none_merges_with_one(space):
    """p has an anon_vma, the new range none, n none."""
    space.map(0, 2)
    space.store(0)
    space.map(4, 2)
    space.map(2, 2)
    assert space.picture() == "wwwwww"


def test_a_neighbour_adopts_the_anon_vma(space):
    """Only the permissions differ, so the second to be written takes the first one's and the two can merge later."""
    space.map(0, 2)
    space.map(2, 2, m.PROT_WRITE)
    space.store(0)
    space.store(2)
    space.protect(2, 2, RW)
    assert space.picture() == "wwww"


def test_the_grown_one_takes_over_the_anon_vma(space):
    """p has none, what it swallows has one: pages and anon_vma stay together."""
    space.map(0, 2)
    space.map(2, 2, READ | m.PROT_EXEC | m.PROT_WRITE)
    space.store(2, 7)
    space.protect(2, 2, RW)
    assert space.picture() == "wwww" and space.load(2) == 7
    space.map(6, 2)
    space.store(6)
    space.map(4, 2)
    assert space.picture() == "wwwwww|ww"


@pytest.mark.parametrize("flags", [NORESERVE, STACK])
def test_flags_keep_apart(space, flags):
    """MAP_NORESERVE is not accounted; MAP_STACK wants no huge pages (6.7)."""
    space.map(0, 2)
    space.map(2, 2, RW, PRIVATE | ANON | FIXED | flags)
    assert space.picture() == "ww|ww"


def test_what_was_writable_stays_accounted(space):
    """VM_ACCOUNT outlives the permission if something was written, and only then (6.2)."""
    space.map(0, 2, READ)
    space.map(2, 2)
    space.store(2)
    space.protect(2, 2, READ)
    assert space.picture() == "rr|rr"
    space.map(6, 2, READ)
    space.map(8, 2)
    space.protect(8, 2, READ)
    assert space.picture() == "rr|rr|..|rrrr"


def test_files_merge_where_the_offset_goes_on(space):
    space.map(0, 2, READ, PRIVATE | FIXED, file=1)
    space.map(2, 2, READ, PRIVATE | FIXED, file=1, offset=2)
    space.map(4, 2, READ, PRIVATE | FIXED, file=1, offset=5)
    space.map(6, 2, READ, SHARED | FIXED, file=1, offset=7)
    assert space.picture() == "rrrr|rr|RR"


def test_shared_memory_never_merges(space):
    """Each mapping of shared anonymous memory is a file of its own."""
    space.map(0, 2, RW, SHARED | ANON | FIXED)
    space.map(2, 2, RW, SHARED | ANON | FIXED)
    assert space.picture() == "WW|WW"


def test_a_private_mapping_moved_by_nobody_knows_its_address(space):
    """The offset of anonymous memory is its address, so that a hole that is filled again merges."""
    space.map(0, 6)
    space.unmap(2, 2)
    assert space.picture() == "ww|..|ww"
    space.map(2, 2)
    assert space.picture() == "wwwwww"


# ---- after a fork ------------------------------------------------------------------------------------------


def test_a_childs_pieces_have_an_anon_vma_each(space):
    """Split in the parent, the two get different anon_vmas in the child."""
    space.map(0, 4)
    space.store(0)
    space.store(3)
    space.protect(2, 2, READ)
    child = space.fork()
    child.protect(2, 2, RW)
    assert child.picture() == "ww|ww"


def test_a_childs_mapping_does_not_merge_with_a_new_one(space):
    """Its list of anon_vmas is not singular: the new one would have to be in all of them."""
    space.map(0, 2)
    space.store(0)
    child = space.fork()
    child.map(2, 2)
    assert child.picture() == "ww|ww"
    child.store(2)
    child.protect(0, 4, READ)
    child.protect(0, 4, RW)
    assert child.picture() == "ww|ww"


def test_a_childs_mapping_merges_with_pieces_of_itself(space):
    space.map(0, 4)
    space.store(0)
    child = space.fork()
    child.protect(1, 2, READ)
    assert child.picture() == "w|rr|w"
    child.protect(1, 2, RW)
    assert child.picture() == "wwww"


def test_a_childs_untouched_mapping_merges_with_a_new_one(space):
    space.map(0, 2)
    child = space.fork()
    child.map(2, 2)
    assert child.picture() == "wwww"


def test_the_parents_mapping_still_merges():
    """On the host the same holds: the parent's list of anon_vmas stays singular."""
    with Machine(cpus=1, memory="4MiB") as machine:
        space = Space(machine)
        space.map(0, 2)
        space.store(0)
        space.fork()
        space.map(2, 2)
        assert space.picture() == "wwww"
        assert machine.check() == []


def test_a_wiped_mapping_is_no_child(space):
    space.map(0, 2)
    space.store(0)
    space.advise(0, 2, 18)                  # MADV_WIPEONFORK
    child = space.fork()
    child.advise(0, 2, 19)
    child.map(2, 2)
    assert child.picture() == "wwww"


# ---- special mappings, memory that runs out ----------------------------------------------------------------


def test_special_mappings_never_merge():
    """What the kernel maps itself ([vvar], [vdso]); on the host they keep apart, whatever lies beside them."""
    may = CONSTANTS["VM_MAYREAD"] | CONSTANTS["VM_MAYWRITE"] | CONSTANTS["VM_MAYEXEC"]
    special = CONSTANTS["VM_READ"] | may | CONSTANTS["VM_DONTEXPAND"]
    with Machine(cpus=1, memory="4MiB") as machine:
        space, cpu = Space(machine), machine._cpu(0)
        for first in (0, 2):
            assert cpu.map_special(ARENA + first * PAGE, ARENA + (first + 2) * PAGE, special) == 0
        assert cpu.map_special(ARENA + PAGE, ARENA + 3 * PAGE, special) == -17      # EEXIST
        space.protect(1, 2, EXEC)
        assert space.picture() == "r|x|x|r"
        space.protect(0, 4, READ)
        assert space.picture() == "r|r|r|r"
        assert machine.check() == []


@contextmanager
def without_vmas(machine: Machine) -> Iterator[None]:
    """Nobody can have another VMA, until the end of the block."""
    pool, own = int(machine.segment.view("seg")["vma_pool"]["head"]), int(machine.segment.view("cpu")["vma_head"][0])
    machine.segment.view("seg")["vma_pool"]["head"] = 0
    machine.segment.view("cpu")["vma_head"] = 0
    yield
    machine.segment.view("seg")["vma_pool"]["head"] = pool
    machine.segment.view("cpu")["vma_head"] = own


@pytest.mark.parametrize("call", [
    lambda s: s.protect(2, 2, READ), lambda s: s.advise(2, 2, DONTFORK), lambda s: s.unmap(2, 2),
    lambda s: s.map(8, 1, READ), lambda s: s.protect(4, 2, READ),
])
def test_when_no_vma_is_left_nothing_changes(call):
    with Machine(cpus=1, memory="4MiB") as machine:
        space = Space(machine)
        space.map(0, 6)
        space.store(2, 5)
        before = space.vmas()
        with without_vmas(machine), pytest.raises(OSError):
            call(space)
        assert space.vmas() == before and space.load(2) == 5
        assert machine.check() == []


def test_a_part_moves_to_its_neighbour_without_a_new_vma():
    with Machine(cpus=1, memory="4MiB") as machine:
        space = Space(machine)
        space.map(0, 4)
        space.map(4, 2, READ)
        with without_vmas(machine):
            space.protect(2, 2, READ)
        assert space.picture() == "ww|rrrr"
        assert machine.check() == []


def test_populated_ranges_merge_too(space):
    space.map(0, 2, RW, PRIVATE | ANON | FIXED | POPULATE)
    assert space.resident(0, 2) == "11"
    space.map(2, 2)
    assert space.picture() == "wwww"
    space.advise(0, 4, DONTNEED)
    assert space.resident(0, 4) == "0000"
