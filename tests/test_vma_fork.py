"""fork: who shares, who copies, who keeps the page, and the children as machines of their own.

Who copies and who keeps the page (by its frame's number), and with how many faults, was seen on Linux 6.18."""

import errno

import pytest
from vmas import ANON, ARENA, FIXED, GROWSDOWN, PAGE, POPULATE, PRIVATE, READ, RW, SHARED, Space

from shmm import Machine, SegmentationFault


@pytest.fixture(params=["spf", "mmap_lock"])
def machine(request):
    with Machine(cpus=2, scheme=request.param, memory="4MiB", paranoid=1) as made:
        made.file(16)
        yield made
        assert made.check() == []


def copies(machine: Machine) -> tuple[int, int]:
    """(faults that copied a page, faults that kept it) so far."""
    counters = machine.counters()
    return counters["pgcopy"], counters["pgreuse"]


# ---- copy-on-write: exactly who ------------------------------------------------------------------------------


def test_the_first_to_write_copies_and_the_second_keeps_the_page(machine):
    parent = Space(machine)
    parent.map(0, 1)
    parent.store(0, 5)
    child = parent.fork()
    assert child.store(0, 6) == 1
    assert copies(machine) == (1, 0)
    assert parent.store(0, 7) == 1, "write-protected, but nobody else has it"
    assert copies(machine) == (1, 1)
    assert (parent.load(0), child.load(0)) == (7, 6)
    assert parent.store(0, 8) == child.store(0, 9) == 0


def test_the_parent_that_writes_first_copies(machine):
    parent = Space(machine)
    parent.map(0, 1)
    parent.store(0, 5)
    child = parent.fork()
    assert parent.store(0, 6) == 1 and child.load(0) == 5
    assert child.store(0, 7) == 1
    assert copies(machine) == (1, 1)
    assert (parent.load(0), child.load(0)) == (6, 7)


def test_after_the_child_has_gone_the_parent_keeps_the_page(machine):
    parent = Space(machine)
    parent.map(0, 2)
    parent.store(0, 5)
    parent.store(1, 5)
    child = parent.fork()
    child.machine.close()
    assert parent.store(0, 6) == 1
    assert copies(machine) == (0, 1)


def test_of_three_the_last_keeps_it(machine):
    one = Space(machine)
    one.map(0, 1)
    one.store(0, 5)
    two = one.fork()
    three = two.fork()
    for space, seen in ((two, (1, 0)), (one, (2, 0)), (three, (2, 1))):
        assert space.load(0) == 5
        space.store(0, 6)
        assert copies(machine) == seen


def test_the_page_of_zeros_is_always_copied(machine):
    parent = Space(machine)
    parent.map(0, 2)
    parent.store(1)
    assert parent.load(0) == 0
    child = parent.fork()
    assert child.store(0, 6) == parent.store(0, 7) == 1
    assert copies(machine) == (2, 0)
    assert (child.load(0), parent.load(0)) == (6, 7)


def test_a_page_that_was_unmapped_by_one_is_the_others(machine):
    parent = Space(machine)
    parent.map(0, 1)
    parent.store(0, 5)
    child = parent.fork()
    child.unmap(0, 1)
    assert parent.store(0, 6) == 1
    assert copies(machine) == (0, 1)


def test_shared_memory_stays_shared(machine):
    parent = Space(machine)
    parent.map(0, 2, RW, SHARED | ANON | FIXED)
    parent.map(2, 1, RW, SHARED | FIXED, file=1)
    parent.store(0, 5)
    child = parent.fork()
    child.store(0, 6)
    child.store(1, 7)
    child.store(2, 8)
    assert [parent.load(page) for page in range(3)] == [6, 7, 8]
    assert copies(machine)[0] == 0


def test_a_private_file_page_is_faulted_in_again(machine):
    """Nothing of it is copied unless something in the mapping was written."""
    parent = Space(machine)
    parent.map(0, 1, READ, PRIVATE | FIXED, file=1)
    parent.map(2, 2, RW, PRIVATE | FIXED, file=1)
    parent.load(0)
    parent.load(2)
    parent.store(3, 5)
    child = parent.fork()
    assert child.resident(0, 1) == "0" and child.resident(2, 2) == "11"
    assert child.load(3) == 5


def test_what_is_counted_in_the_child(machine):
    parent = Space(machine)
    parent.map(0, 6)
    parent.map(6, 2, RW, PRIVATE | ANON | FIXED | POPULATE)
    parent.store(1)
    parent.advise(3, 2, 10)                 # MADV_DONTFORK
    child = parent.fork().machine
    child.read(ARENA, 1)
    mms = machine.segment.view("mm")
    assert [int(mms[mm]["total_vm"]) for mm in (machine.mm, child.mm)] == [8, 6]
    assert int(mms[child.mm]["map_count"]) == 2
    child.write(ARENA, b"x")
    child.close()
    assert machine.read(ARENA, 1) == b"\0"


def test_total_and_places_are_inherited(machine):
    """mmap_base, the heap: the child's next mapping goes where the parent's would have."""
    at = machine.mmap(None, 3 * PAGE, RW, PRIVATE | ANON)
    end = machine.brk(machine.brk() + 100)
    child = machine.fork()
    assert child.mmap(None, PAGE, READ, PRIVATE | ANON) == at - PAGE
    assert child.brk() == end
    assert machine.mmap(None, PAGE, READ, PRIVATE | ANON) == at - PAGE


# ---- children as machines ------------------------------------------------------------------------------------


def test_a_child_is_a_machine(machine):
    a = machine.mmap(None, 2 * PAGE, RW, PRIVATE | ANON)
    machine.write(a, b"parent", cpu=1)
    child = machine.fork()
    assert isinstance(child, Machine) and child.segment is machine.segment
    assert (machine.mm, child.mm) == (1, 2)
    child.write(a, b"child!", cpu=1)
    child.munmap(a + PAGE, PAGE)
    assert (machine.read(a, 6), child.read(a, 6, cpu=1)) == (b"parent", b"child!")
    assert machine.maps(child) == child.maps() != machine.maps()
    machine.read(a + PAGE, 1, cpu=1)
    with pytest.raises(SegmentationFault):
        child.read(a + PAGE, 1, cpu=1)
    assert child.counters() == machine.counters() and child.check() == []


def test_a_child_has_one_thread_and_its_parent_as_many_as_cpus(machine):
    child = machine.fork()
    child.brk()
    child.brk(cpu=1)
    users = machine.segment.view("mm")["users"]
    assert [int(users[mm]) for mm in (1, 2)] == [2, 1]
    machine.brk()
    assert [int(users[mm]) for mm in (1, 2)] == [2, 1]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_they_may_be_closed_in_any_order(first):
    parent = Machine(cpus=2, memory="1MiB")
    space = Space(parent)
    space.map(0, 3)
    space.store(0)
    child = space.fork()
    child.store(1)
    grandchild = child.fork()
    grandchild.store(2)
    family = [parent, child.machine, grandchild.machine]
    family[first].close()
    if first:
        assert parent.check() == [] and parent.read(ARENA, 1) == b"\1"
        with pytest.raises(ValueError, match="the machine is closed"):
            family[first].brk()
    for machine in family:
        machine.close()
        with pytest.raises(ValueError, match="the machine is closed"):
            machine.maps()


def test_a_child_in_a_with_block_gives_everything_back(machine):
    space = Space(machine)
    space.map(0, 4)
    for page in range(4):
        space.store(page)
    free = machine.counters()["pgfree"]
    with machine.fork() as child:
        child.touch(ARENA, 4 * PAGE)
    assert machine.counters()["pgfree"] > free + 4
    with machine.fork() as child:           # the slot is free again
        assert child.mm == 2


def test_a_cpus_thread_may_join_a_child(machine):
    a = machine.mmap(None, PAGE, RW, PRIVATE | ANON)
    child = machine.fork()
    machine.attach(child, cpu=1)
    machine.write(a, b"in the child", cpu=1)
    assert child.read(a, 12) == b"in the child" and machine.read(a, 1) == b"\0"
    with pytest.raises(ValueError, match="on the machine that has the CPUs"):
        child.attach(1)
    machine.attach(1, cpu=1)
    assert machine.read(a, 1, cpu=1) == b"\0"


def test_a_child_whose_memory_is_gone_says_so(machine):
    child = machine.fork()
    machine.attach(child, cpu=1)
    machine.attach(1, cpu=1)                # its only thread leaves: the address space ends
    with pytest.raises(OSError) as caught:
        child.brk()
    assert caught.value.errno == errno.EINVAL
    again = machine.fork()
    assert again.mm == child.mm
    with pytest.raises(ValueError, match="the machine is closed"):
        child.brk()


def test_a_fork_without_memory_leaves_nothing(machine):
    """The child's tables do not fit: an error, and all that was made is given back."""
    space = Space(machine)
    space.map(0, 1, RW, PRIVATE | ANON | FIXED | GROWSDOWN)
    space.store(0, 5)
    pages = 4 << 20 >> 12
    with pytest.raises(OSError):
        space.machine.touch(space.machine.mmap(None, 4 * pages * PAGE, RW, PRIVATE | ANON), 4 * pages * PAGE)
    with pytest.raises(OSError) as caught:
        for _ in range(6):
            machine.fork()
    assert caught.value.errno == errno.ENOMEM
    assert machine.check() == [] and space.load(0) == 5
