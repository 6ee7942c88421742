"""brk: what it keeps free, what it merges with, what it takes along.

As Linux 6.18 does it (mm/mmap.c); random sequences of these calls were compared with it, heap and all."""

import pytest

from shmm import Machine
from shmm.maps import areas

PAGE = 4096
RW, NONE, READ, FIXED_ANON, STACK = 3, 0, 1, 0x32, 0x132


@pytest.fixture
def machine():
    with Machine(cpus=1, memory="4MiB", paranoid=1) as made:
        yield made
        assert made.check() == []


def heap(machine: Machine, n: int = 64) -> list[tuple[int, int, str]]:
    """The VMAs from the heap's start on: first page, behind the last, name or permissions."""
    start = int(machine.segment.view("mm")[machine.mm]["start_brk"])
    return [((a.start - start) // PAGE, (a.end - start) // PAGE, a.path or a.perms)
            for a in areas(machine.segment, machine.mm) if 0 <= a.start - start < n * PAGE]


def refused(machine: Machine, end: int) -> bool:
    before = machine.brk(), machine.maps()
    with pytest.raises(OSError, match="Cannot allocate"):
        machine.brk(end)
    return (machine.brk(), machine.maps()) == before


def test_it_grows_and_shrinks_by_pages(machine):
    start = machine.brk()
    assert machine.brk(start + 1) == start + 1
    assert heap(machine) == [(0, 1, "[heap]")]
    assert machine.brk(start + PAGE) == start + PAGE            # the same page
    assert heap(machine) == [(0, 1, "[heap]")]
    assert machine.brk(start + 5 * PAGE - 7) == start + 5 * PAGE - 7
    machine.write(start + 4 * PAGE, b"x")
    machine.brk(start + 4 * PAGE)
    machine.brk(start + 5 * PAGE)
    assert machine.read(start + 4 * PAGE, 1) == b"\0"
    machine.brk(start)
    assert heap(machine) == []


def test_below_its_start_and_beyond_the_address_space(machine):
    start = machine.brk()
    machine.brk(start + 3 * PAGE)
    assert refused(machine, start - 1)
    assert refused(machine, 1 << 47)
    assert refused(machine, 2**64 - 1)


def test_a_page_stays_free_before_the_next_mapping(machine):
    start = machine.brk()
    machine.mmap(start + 8 * PAGE, PAGE, RW, FIXED_ANON)
    assert refused(machine, start + 8 * PAGE)
    machine.brk(start + 7 * PAGE)
    assert heap(machine) == [(0, 7, "[heap]"), (8, 9, "rw-p")]


def test_a_guard_gap_stays_free_below_a_stack(machine):
    start = machine.brk()
    machine.mmap(start + 300 * PAGE, PAGE, RW, STACK)
    assert refused(machine, start + 44 * PAGE)
    machine.brk(start + 43 * PAGE)
    assert heap(machine)[0] == (0, 43, "[heap]")


def test_it_does_not_merge_with_what_lies_below_its_start(machine):
    """A program's data ends where the heap begins; they look alike and stay two."""
    start = machine.brk()
    machine.mmap(start - 2 * PAGE, 2 * PAGE, RW, FIXED_ANON)
    machine.brk(start + 2 * PAGE)
    assert [line.split()[0] for line in machine.maps().splitlines()] == [
        f"{start - 2 * PAGE:x}-{start:x}", f"{start:x}-{start + 2 * PAGE:x}"]


def test_it_merges_with_a_mapping_in_its_place(machine):
    start = machine.brk()
    machine.brk(start + 4 * PAGE)
    machine.munmap(start + 3 * PAGE, PAGE)
    machine.mmap(start + 3 * PAGE, PAGE, RW, FIXED_ANON)
    machine.brk(start + 6 * PAGE)
    assert heap(machine) == [(0, 6, "[heap]")]
    machine.mprotect(start + 5 * PAGE, PAGE, READ)
    machine.brk(start + 7 * PAGE)
    assert heap(machine) == [(0, 5, "[heap]"), (5, 6, "[heap]"), (6, 7, "[heap]")]


def test_shrinking_takes_along_what_is_in_the_way(machine):
    start = machine.brk()
    machine.brk(start + 6 * PAGE)
    machine.mmap(start + 3 * PAGE, 2 * PAGE, READ, FIXED_ANON)
    machine.brk(start + 2 * PAGE)
    assert heap(machine) == [(0, 2, "[heap]")]


def test_shrinking_over_nothing_fails(machine):
    """Somebody has unmapped it: the end stays where it was."""
    start = machine.brk()
    machine.brk(start + 4 * PAGE)
    machine.munmap(start, 4 * PAGE)
    assert refused(machine, start + 2 * PAGE)
    machine.brk(start + 6 * PAGE)
    assert heap(machine) == [(4, 6, "[heap]")]


def test_a_child_goes_on_where_its_parent_was(machine):
    start = machine.brk()
    machine.brk(start + 2 * PAGE)
    machine.write(start, b"parent")
    child = machine.fork()
    assert child.brk() == start + 2 * PAGE
    child.brk(start + 4 * PAGE)
    assert heap(child) == [(0, 2, "[heap]"), (2, 4, "[heap]")]         # its first part has an anon_vma by fork
    assert child.read(start, 6) == b"parent"
    child.close()
    assert machine.brk() == start + 2 * PAGE
