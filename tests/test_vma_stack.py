"""Stacks that grow: how far, over what, and what they keep free.

Every expectation of a Space was seen on Linux 6.18, where the same calls were made."""

import pytest
from vmas import ANON, FIXED, GROWSDOWN, LOCKED, NONE, PAGE, PRIVATE, READ, RW, Space

from shmm import Machine, SegmentationFault
from shmm.layout import CONSTANTS

STACK = PRIVATE | ANON | FIXED | GROWSDOWN
GAP = 256


@pytest.fixture(params=["spf", "mmap_lock"])
def space(request):
    with Machine(cpus=1, scheme=request.param, memory="16MiB", paranoid=1, force_speculation=1) as machine:
        yield Space(machine)
        assert machine.check() == []


def dies(call) -> bool:
    with pytest.raises(SegmentationFault):
        call()
    return True


def test_a_fault_below_makes_it_grow(space):
    space.map(0, 2, RW, STACK)
    assert space.store(-1, 7) == 1
    assert space.picture() == "www" and space.load(-1) == 7
    assert space.store(-9) == 1
    assert space.picture() == "w" * 11 and space.resident(-9, 11) == "10000000100"


def test_a_load_makes_it_grow_too(space):
    space.map(0, 1, RW, STACK)
    assert space.load(-3) == 0
    assert space.picture() == "wwww"


def test_other_mappings_do_not_grow(space):
    space.map(0, 2)
    assert dies(lambda: space.store(-1))
    assert space.picture() == "ww"


def test_it_grows_before_its_permission_is_looked_at(space):
    space.map(0, 1, READ, STACK)
    assert dies(lambda: space.store(-2))
    assert space.picture() == "rrr"


def test_it_keeps_off_what_lies_below(space):
    """256 pages, unless that may not be accessed at all, or grows itself."""
    space.map(0, 1)
    space.map(1 + GAP, 1, RW, STACK)
    assert dies(lambda: space.store(GAP))
    assert space.vmas()[1] == (1 + GAP, 2 + GAP, "rw-p")
    space.map(2 + 2 * GAP, 1, RW, STACK)
    space.store(1 + 2 * GAP)                # the one below grows as well
    space.store(2 + GAP)
    assert space.vmas()[1:] == [(1 + GAP, 2 + GAP, "rw-p"), (2 + GAP, 3 + 2 * GAP, "rw-p")]
    space.protect(0, 1, NONE)
    space.store(1)
    assert space.vmas() == [(0, 1, "---p"), (1, 2 + GAP, "rw-p"), (2 + GAP, 3 + 2 * GAP, "rw-p")]


def test_the_gap_is_exact(space):
    space.map(0, 1)
    space.map(2 + GAP, 1, RW, STACK)
    space.store(1 + GAP)
    assert dies(lambda: space.store(GAP))
    assert space.vmas()[1] == (1 + GAP, 3 + GAP, "rw-p")


def test_a_childs_stack_grows(space):
    space.map(0, 1, RW, STACK)
    space.store(0, 5)
    child = space.fork()
    child.store(-2, 6)
    assert child.picture() == "www" and (child.load(0), child.load(-2)) == (5, 6)


# ---- what the host does not show in a Space -----------------------------------------------------------------


def test_a_limit_of_pages():
    """RLIMIT_STACK, of any mapping that grows; here nine pages."""
    with Machine(cpus=1, memory="4MiB", rlimit_stack=9) as machine:
        space = Space(machine)
        space.map(0, 2, RW, STACK)
        space.store(-7)
        assert dies(lambda: space.store(-8))
        assert space.picture() == "w" * 9
        assert machine.check() == []


def test_address_space_counts_and_lock_counts():
    with Machine(cpus=1, memory="4MiB", rlimit_as=6) as machine:
        space, mm = Space(machine), machine.segment.view("mm")[1]
        space.map(0, 2, RW, STACK | LOCKED)
        space.store(-2)
        assert (int(mm["total_vm"]), int(mm["locked_vm"])) == (4, 4)
        assert dies(lambda: space.store(-5))
        del mm
        assert machine.check() == []


def test_a_first_stack_has_its_name():
    flags = sum(CONSTANTS[f"VM_{name}"] for name in ("READ", "WRITE", "MAYREAD", "MAYWRITE", "MAYEXEC", "GROWSDOWN",
                                                     "ACCOUNT"))
    top = 0x7fff_ffff_f000
    with Machine(cpus=1, memory="4MiB") as machine:
        assert machine._cpu(0).map_special(top - 33 * PAGE, top, flags) == 0
        machine.segment.view("mm")[1]["start_stack"] = top - 0x1230
        machine.touch(top - 40 * PAGE, PAGE)
        assert machine.maps() == (f"{top - 40 * PAGE:x}-{top:x} rw-p 00000000 00:00 0                          [stack]\n")
        assert machine.fork().maps().endswith("[stack]\n")
        assert machine.check() == []


def test_speculation_refuses_what_is_not_there_yet():
    """v2 13/35: below vm_start is SPF_ABORT_UNMAPPED, whatever might grow; the classical fault makes it grow."""
    with Machine(cpus=2, scheme="spf", memory="4MiB") as machine:
        space = Space(machine)
        space.map(0, 1, RW, STACK)
        space.store(0)
        before = machine.counters()
        space.store(-1)
        space.store(-1)
        after = machine.counters()
        changed = {name for name in after if after[name] != before[name]}
        assert {"SPF_ABORT_UNMAPPED", "stack_growths", "faults_classic"} <= changed
        assert after["stack_growths"] == 1
        assert machine.check() == []


def test_without_the_policy_nothing_grows():
    with Machine(cpus=1, memory="4MiB", stack_growth=0) as machine:
        space = Space(machine)
        space.map(0, 1, RW, STACK)
        assert dies(lambda: space.store(-1))
