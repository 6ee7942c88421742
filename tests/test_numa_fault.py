"""NUMA hint faults: who uses a page gets it, also speculatively, and what cannot move stays and is readable again."""

import errno
import mmap as m
from contextlib import contextmanager

import pytest

from shmm import Machine, SegmentationFault

PAGE = 4096
ANON, SHARED, FIXED = m.MAP_PRIVATE | m.MAP_ANONYMOUS, m.MAP_SHARED | m.MAP_ANONYMOUS, 0x10
READ, RW = m.PROT_READ, m.PROT_READ | m.PROT_WRITE
ARENA = 0x2000_0000_0000
HOME, AWAY = 0, 1                       # CPUs, of node 0 and node 1


@contextmanager
def two_nodes(scheme: str = "spf", memory: str = "1MiB", **policy):
    with Machine(cpus=2, scheme=scheme, memory=memory, nnode=2, cpu_node=[0, 1], paranoid=1, **policy) as made:
        yield made
        assert made.check() == []


@pytest.fixture(params=["spf", "mmap_lock"])
def machine(request):
    with two_nodes(request.param) as made:
        yield made


def filled(machine: Machine, pages: int) -> int:
    a = machine.mmap(ARENA, pages * PAGE, RW, ANON | FIXED)
    for n in range(pages):
        machine.write(a + n * PAGE, bytes([n + 1]))
    return a


def nodes(machine: Machine, pages: int) -> list[int]:
    """The node of each page of the arena."""
    frames, entries = machine.segment.view("frame"), machine.segment.view("memory").view("u8")
    table = int(machine.segment.view("mm")["pgd"][1])
    for level in (4, 3, 2):
        table = int(entries[table, ARENA >> 3 + 9 * level & 511]) >> 12 & 0xFFFFFFFFFF
    return [(int(entries[table, n]) >> 12 & 0xFFFFFFFFFF) * 2 // len(frames) for n in range(pages)]


def has_memory(machine: Machine, cpu: int) -> bool:
    """Whether there is a free frame of the CPU's own node, which has its number."""
    zones = machine.segment.view("seg")["node"]["zone"]
    return bool(zones["free"][cpu] or machine.segment.view("cpu")["pcp_head"][cpu])


def change(machine: Machine, before: dict[str, int]) -> dict[str, int]:
    return {name: count - before[name] for name, count in machine.counters().items() if count != before[name]}


def test_a_page_follows_the_cpu_that_uses_it(machine):
    a = filled(machine, 4)
    assert nodes(machine, 4) == [0, 0, 0, 0]
    before = machine.counters()
    machine.numa(a, 4 * PAGE)
    assert machine.read(a + PAGE, 1, cpu=AWAY) == b"\x02"
    machine.write(a + 2 * PAGE, b"x", cpu=AWAY)
    assert machine.read(a, 1, cpu=HOME) == b"\x01"
    now = change(machine, before)
    assert now["numa_pte_updates"] == 4
    assert (now["numa_hint_faults"], now["numa_hint_faults_local"]) == (3, 1)
    assert now["numa_pages_migrated"] == now["pgmigrate_success"] == 2 and "pgmigrate_fail" not in now
    assert nodes(machine, 4) == [0, 1, 1, 0]
    assert machine.read(a + 2 * PAGE, 1, cpu=HOME) == b"x"


def test_the_hint_is_one_fault_and_the_page_is_writable_after_it(machine):
    a = filled(machine, 2)
    machine.touch(a, 2 * PAGE, cpu=AWAY)
    machine.numa(a, 2 * PAGE)
    assert machine.touch(a, 2 * PAGE, write=False, cpu=AWAY) == 2
    assert machine.touch(a, 2 * PAGE, cpu=AWAY) == 0
    assert machine.touch(a, 2 * PAGE, cpu=HOME) == 0        # no hint any more


def test_speculation_handles_hints():
    with two_nodes() as machine:
        a = filled(machine, 4)
        machine.numa(a, 4 * PAGE)
        before = machine.counters()
        machine.touch(a, 4 * PAGE, cpu=AWAY)
        now = change(machine, before)
        assert now["SPF_ATTEMPT_NUMA"] == now["spf_success"] == now["numa_pages_migrated"] == 4
        assert "spf_abort" not in now and "faults_classic" not in now and "SPF_ATTEMPT_PTE" not in now


def test_a_page_that_a_child_has_too_stays(machine):
    a = filled(machine, 1)
    machine.numa(a, PAGE)
    child = machine.fork()
    before = machine.counters()
    assert machine.read(a, 1, cpu=AWAY) == b"\x01"
    now = change(machine, before)
    assert now["pgmigrate_fail"] == 1 and "numa_pages_migrated" not in now
    assert machine.touch(a, PAGE, write=False, cpu=AWAY) == 0
    machine.attach(child, cpu=AWAY)
    assert machine.read(a, 1, cpu=AWAY) == b"\x01"          # a hint of its own


def test_a_page_stays_where_its_user_has_no_memory():
    with two_nodes() as machine:
        a = filled(machine, 1)
        machine.mmap(a + PAGE, 4 << 20, RW, ANON | FIXED)
        at = a + PAGE
        while has_memory(machine, AWAY):
            machine.touch(at, PAGE, cpu=AWAY)
            at += PAGE
        machine.numa(a, PAGE)
        before = machine.counters()
        machine.write(a, b"z", cpu=AWAY)
        now = change(machine, before)
        assert now["pgmigrate_fail"] == 1 and now["numa_hint_faults"] == 1 and "spf_abort" not in now
        assert nodes(machine, 1) == [0] and machine.read(a, 1) == b"z"


def test_what_gets_no_hint(machine):
    a = filled(machine, 4)
    machine.munmap(a + PAGE, PAGE)                          # a hole
    machine.mprotect(a + 2 * PAGE, PAGE, 0)                 # no access as it is
    machine.fork()                                          # shared copy-on-write
    machine.write(a, b"m")                                  # this one is ours again
    file = machine.file(1)
    b = machine.mmap(None, PAGE, READ, m.MAP_SHARED, file=file)
    machine.read(b, 1)
    c = machine.mmap(None, PAGE, RW, ANON)
    machine.read(c, 1)                                      # the page of zeros
    before = machine.counters()
    for addr, length in ((a, 4 * PAGE), (b, PAGE), (c, PAGE)):
        machine.numa(addr, length)
    assert change(machine, before)["numa_pte_updates"] == 1
    machine.numa(a, 4 * PAGE)                               # a hint already
    assert change(machine, before)["numa_pte_updates"] == 1
    with pytest.raises(SegmentationFault):
        machine.read(a + 2 * PAGE, 1)
    assert "numa_hint_faults" not in change(machine, before)


def test_shared_memory_is_asked_about_and_does_not_move(machine):
    a = machine.mmap(None, PAGE, RW, SHARED)
    machine.write(a, b"s")
    machine.numa(a, PAGE)
    before = machine.counters()
    assert machine.read(a, 1, cpu=AWAY) == b"s"
    now = change(machine, before)
    assert now["numa_hint_faults"] == 1 and "numa_pages_migrated" not in now and "pgmigrate_fail" not in now


def test_mprotect_ends_a_hint_and_no_access_is_none(machine):
    a = filled(machine, 2)
    machine.numa(a, 2 * PAGE)
    machine.mprotect(a, PAGE, READ)
    machine.mprotect(a + PAGE, PAGE, 0)
    before = machine.counters()
    assert machine.read(a, 1, cpu=AWAY) == b"\x01"
    with pytest.raises(SegmentationFault):
        machine.write(a, b"q", cpu=AWAY)
    with pytest.raises(SegmentationFault):
        machine.read(a + PAGE, 1)
    assert "numa_hint_faults" not in change(machine, before)
    machine.mprotect(a + PAGE, PAGE, RW)
    assert machine.read(a + PAGE, 1) == b"\x02"


def test_hints_end_with_their_mapping(machine):
    a = filled(machine, 3)
    machine.numa(a, 3 * PAGE)
    machine.madvise(a, PAGE, m.MADV_DONTNEED)
    assert machine.read(a, 1, cpu=AWAY) == b"\0"
    machine.munmap(a + PAGE, PAGE)
    with pytest.raises(SegmentationFault):
        machine.read(a + PAGE, 1)


def test_a_hinted_page_can_be_swapped_out():
    with two_nodes(swap="64KiB") as machine:
        a = filled(machine, 1)
        machine.numa(a, PAGE)
        machine.madvise(a, PAGE, 21)
        before = machine.counters()
        assert machine.read(a, 1, cpu=AWAY) == b"\x01"
        now = change(machine, before)
        assert now["pswpin"] == 1 and "numa_hint_faults" not in now


def test_arguments(machine):
    a = filled(machine, 1)
    for addr, length in ((a + 1, PAGE), (a, 1 << 63), (0x7FFF_FFFF_F000, 2 * PAGE)):
        with pytest.raises(OSError) as caught:
            machine.numa(addr, length)
        assert caught.value.errno == errno.EINVAL
    machine.numa(a, 1)                                      # rounded up, as lengths are
    assert machine.counters()["numa_pte_updates"] == 1


def test_one_node_has_hints_but_nothing_to_move():
    with Machine(cpus=1, memory="1MiB", paranoid=1) as machine:
        a = filled(machine, 2)
        machine.numa(a, 2 * PAGE)
        assert machine.touch(a, 2 * PAGE) == 2
        counters = machine.counters()
        assert counters["numa_hint_faults"] == counters["numa_hint_faults_local"] == 2
        assert machine.check() == []
