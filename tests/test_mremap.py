"""mremap: results, mappings, contents and errors.  The expected values were seen on Linux 6.18 (x86-64, as root), by
the same calls at the same addresses."""

import errno
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE

import pytest

from shmm.layout import CONSTANTS
from shmm.machine import Machine, SegmentationFault
from shmm.program import Program

PAGE, MIB = 4096, 1 << 20
RW = PROT_READ | PROT_WRITE
FIXED, LOCKED = 0x10, 0x2000
PRIVATE, SHARED = MAP_PRIVATE | MAP_ANONYMOUS | FIXED, MAP_SHARED | MAP_ANONYMOUS | FIXED
MAYMOVE, MOVE, DONTUNMAP = 1, 3, 4
A = 0x2000_0000_0000
TASK_SIZE = CONSTANTS["TASK_SIZE"]


def at(page: int) -> int:
    return A + page * PAGE


def maps(m: Machine) -> list[tuple[int, int, str, int]]:
    """The mappings at A: first page, page behind the last, permissions, offset in pages."""
    out = []
    for line in m.maps().splitlines():
        where, perms, offset = line.split()[:3]
        start, end = (int(word, 16) for word in where.split("-"))
        if start >> 40 == A >> 40:
            out.append(((start - A) // PAGE, (end - A) // PAGE, perms, int(offset, 16) // PAGE))
    return out


def locked(m: Machine) -> int:
    return int(m.segment.view("mm")["locked_vm"][1])


@pytest.fixture
def m():
    with Machine(cpus=2, memory="8MiB") as machine:
        yield machine
        assert machine.check() == []


def page(m: Machine, number: int, pages: int = 1, prot: int = RW, flags: int = PRIVATE, byte: bytes = b"",
         **more: int) -> None:
    """Maps pages there and, with a byte, stores it in the first."""
    m.mmap(at(number), pages * PAGE, prot, flags, **more)
    if byte:
        m.write(at(number), byte)


# ---- what is refused, in this order ------------------------------------------------------------------------


@pytest.mark.parametrize("args, error", [
    ((A, PAGE, PAGE, 8), errno.EINVAL),                         # no such flag
    ((A + 1, PAGE, PAGE, 0), errno.EINVAL),
    ((A, PAGE, 0, 0), errno.EINVAL),                            # a length of 0 is nothing to map
    ((A, PAGE, TASK_SIZE + PAGE, MAYMOVE), errno.EINVAL),
    ((A, PAGE, TASK_SIZE, MAYMOVE), errno.ENOMEM),
    ((A, 2**64 - 1, PAGE, MAYMOVE), errno.EINVAL),              # rounded up, the old length is 0
    ((A, PAGE, 2**64 - 1, MAYMOVE), errno.EINVAL),
    ((A, PAGE, PAGE, 2, at(8)), errno.EINVAL),                  # FIXED and DONTUNMAP without MAYMOVE
    ((A, PAGE, PAGE, 4), errno.EINVAL),
    ((A, PAGE, PAGE, MOVE, at(8) + 1), errno.EINVAL),
    ((A, PAGE, PAGE, MOVE, TASK_SIZE), errno.EINVAL),
    ((A, PAGE, PAGE, MOVE, A), errno.EINVAL),                   # onto itself
    ((A, 2 * PAGE, PAGE, MOVE, at(1)), errno.EINVAL),           # partly
    ((A, PAGE, PAGE, MAYMOVE | DONTUNMAP, A), errno.EINVAL),
    ((A, PAGE, 2 * PAGE, MAYMOVE | DONTUNMAP), errno.EINVAL),
    ((at(64), PAGE, PAGE, 0), errno.EFAULT),                    # nothing there
    ((at(64), PAGE, PAGE, MOVE, at(8)), errno.EFAULT),
    ((at(64), PAGE, 2 * PAGE, MAYMOVE), errno.EFAULT),
    ((at(64), 2 * PAGE, PAGE, 0), errno.EFAULT),
    ((A, 5 * PAGE, 8 * PAGE, MAYMOVE), errno.EFAULT),           # not all of it there
    ((A, 5 * PAGE, 4 * PAGE, MOVE, at(8)), 0),                  # of what is cut off that does not matter
    ((A, 6 * PAGE, 5 * PAGE, MOVE, at(8)), errno.EFAULT),
    ((A, 0, PAGE, 0), errno.EINVAL),                            # a private mapping has no pages to share
    ((A, 0, PAGE, MAYMOVE), errno.EINVAL),
    ((A, PAGE, 2 * PAGE, 0), errno.ENOMEM),                     # no room and no leave to move
])
def test_arguments_and_their_errors(m, args, error):
    page(m, 0, 4)
    before = maps(m)
    if not error:
        assert m.mremap(*args) == args[4]
        return
    with pytest.raises(OSError) as caught:
        m.mremap(*args)
    assert caught.value.errno == error
    assert maps(m) == before


def test_a_target_is_unmapped_only_when_the_rest_is_in_order(m):
    page(m, 0, 2)
    page(m, 20, 4)
    for args in ((A, 3 * PAGE, 4 * PAGE), (at(2), 2 * PAGE, 2 * PAGE)):
        with pytest.raises(OSError, match="Bad address"):
            m.mremap(*args, MOVE, at(20))
    assert maps(m) == [(0, 2, "rw-p", 0), (20, 24, "rw-p", 0)]


# ---- in place ----------------------------------------------------------------------------------------------


def test_the_same_length_does_nothing_whatever_the_range_holds(m):
    page(m, 0, 2)
    page(m, 4, 2)
    assert m.mremap(A, 6 * PAGE, 6 * PAGE, 0) == A
    assert maps(m) == [(0, 2, "rw-p", 0), (4, 6, "rw-p", 0)]


def test_a_shrink_unmaps_the_tail_of_the_range(m):
    page(m, 0, 2, byte=b"x")
    page(m, 4, 2, byte=b"y")
    assert m.mremap(A, 6 * PAGE, 5 * PAGE, 0) == A
    assert maps(m) == [(0, 2, "rw-p", 0), (4, 5, "rw-p", 0)]
    assert m.mremap(A, 5 * PAGE - 1, 1, 0) == A
    assert maps(m) == [(0, 1, "rw-p", 0)]
    assert m.read(A, 1) == b"x"
    with pytest.raises(SegmentationFault):
        m.read(at(4), 1, cpu=1)


def test_growing_meets_what_follows(m):
    page(m, 0, 2, byte=b"x")
    page(m, 4)
    assert m.mremap(A, 2 * PAGE, 4 * PAGE, 0) == A
    assert maps(m) == [(0, 5, "rw-p", 0)]
    assert m.mremap(at(3), 2 * PAGE, 4 * PAGE, 0) == at(3)      # a part that ends with its mapping
    assert maps(m) == [(0, 7, "rw-p", 0)]
    m.write(at(6), b"z")


def test_growing_does_not_merge_what_was_written_apart(m):
    page(m, 0, 2, byte=b"x")
    page(m, 4, byte=b"y")
    m.mremap(A, 2 * PAGE, 4 * PAGE, 0)
    assert maps(m) == [(0, 4, "rw-p", 0), (4, 5, "rw-p", 0)]


# ---- moves -------------------------------------------------------------------------------------------------


def test_a_move_takes_the_pages_along(m):
    page(m, 0, 4, byte=b"x")
    m.write(at(3), b"last", cpu=1)
    assert m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE, at(20)) == at(20)
    assert (m.read(at(20), 1, cpu=1), m.read(at(23), 4)) == (b"x", b"last")
    assert m.touch(at(21), PAGE) == 1 and m.touch(at(20), PAGE) == 0
    with pytest.raises(SegmentationFault):
        m.read(at(3), 1, cpu=1)
    assert maps(m) == [(20, 24, "rw-p", 0)]
    assert (m.counters()["mremap"], m.counters()["ptes_moved"]) == (1, 2)


def test_what_was_written_keeps_its_offset_and_does_not_merge_elsewhere(m):
    page(m, 0, 4, byte=b"x")
    page(m, 16, 4, byte=b"z")
    m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE, at(20))
    assert maps(m) == [(16, 20, "rw-p", 0), (20, 24, "rw-p", 0)]


@pytest.mark.parametrize("read", [False, True])
def test_what_was_never_written_merges_where_it_comes_to(m, read):
    page(m, 0, 4)
    if read:
        assert m.read(A, 1) == b"\0"
    page(m, 16, 4, byte=b"z")
    m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE, at(20))
    assert maps(m) == [(16, 24, "rw-p", 0)]


def test_back_in_its_old_place_it_merges_again(m):
    page(m, 0, 8, byte=b"x")
    m.mremap(at(4), 4 * PAGE, 4 * PAGE, MOVE, at(20))
    assert maps(m) == [(0, 4, "rw-p", 0), (20, 24, "rw-p", 0)]
    m.mremap(at(20), 4 * PAGE, 4 * PAGE, MOVE, at(4))
    assert maps(m) == [(0, 8, "rw-p", 0)]


def test_written_pages_come_to_a_mapping_that_fits_and_was_never_written(m):
    page(m, 0, 4, byte=b"x")
    m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE, at(20))
    page(m, 4, 4)
    m.mremap(at(20), 4 * PAGE, 4 * PAGE, MOVE, A)
    assert maps(m) == [(0, 8, "rw-p", 0)]
    assert m.read(A, 1) == b"x"


def test_a_mapping_may_merge_with_what_it_comes_from(m):
    page(m, 0, 4)
    m.mremap(at(3), PAGE, PAGE, MOVE, at(4))
    assert maps(m) == [(0, 3, "rw-p", 0), (4, 5, "rw-p", 0)]
    page(m, 10, 2)
    page(m, 14, 4)
    m.mremap(at(14), 2 * PAGE, 2 * PAGE, MOVE, at(12))
    assert maps(m)[2:] == [(10, 14, "rw-p", 0), (16, 18, "rw-p", 0)]


def test_a_move_may_shrink_and_grow(m):
    page(m, 0, 8, byte=b"x")
    m.mremap(at(1), 4 * PAGE, 2 * PAGE, MOVE, at(24))
    assert maps(m) == [(0, 1, "rw-p", 0), (5, 8, "rw-p", 0), (24, 26, "rw-p", 0)]
    m.write(at(5), b"five")
    m.mremap(at(5), PAGE, 3 * PAGE, MOVE, at(40))
    assert maps(m) == [(0, 1, "rw-p", 0), (6, 8, "rw-p", 0), (24, 26, "rw-p", 0), (40, 43, "rw-p", 0)]
    assert m.read(at(40), 4) == b"five"


def test_who_may_move_goes_to_the_highest_hole(m):
    high = m.mmap(None, 64 * PAGE, RW, PRIVATE & ~FIXED)
    m.mmap(None, 64 * PAGE, RW, PRIVATE & ~FIXED)
    m.munmap(high, 32 * PAGE)
    assert m.mremap(high + 40 * PAGE, 8 * PAGE, 16 * PAGE, MAYMOVE) == high + 16 * PAGE
    assert m.mremap(high + 50 * PAGE, PAGE, 16 * PAGE, MAYMOVE) == high


def test_an_equal_move_takes_several_mappings_and_the_holes_between(m):
    page(m, 0, 2, byte=b"1")
    page(m, 2, 2, PROT_READ)
    page(m, 6, 2, byte=b"3")
    page(m, 20, 20, PROT_READ | PROT_EXEC)
    assert m.mremap(at(1), 6 * PAGE, 6 * PAGE, MOVE, at(24)) == at(24)
    assert maps(m) == [(0, 1, "rw-p", 0), (7, 8, "rw-p", 0), (20, 24, "r-xp", 0), (24, 25, "rw-p", 0),
                       (25, 27, "r--p", 0), (27, 29, "r-xp", 0), (29, 30, "rw-p", 0), (30, 40, "r-xp", 0)]
    assert m.read(at(29), 1) == b"3"


def test_a_range_may_end_in_a_hole_but_not_begin_in_one(m):
    page(m, 0, 2)
    page(m, 4, 2, PROT_READ)
    with pytest.raises(OSError, match="Bad address"):
        m.mremap(at(-1), 6 * PAGE, 6 * PAGE, MOVE, at(24))
    assert m.mremap(at(1), 8 * PAGE, 8 * PAGE, MOVE, at(24)) == at(24)
    assert maps(m) == [(0, 1, "rw-p", 0), (24, 25, "rw-p", 0), (27, 29, "r--p", 0)]


def test_only_an_equal_move_takes_several_mappings(m):
    page(m, 0, 2)
    page(m, 2, 2, PROT_READ)
    with pytest.raises(OSError, match="Bad address"):
        m.mremap(A, 4 * PAGE, 3 * PAGE, MOVE, at(24))
    assert m.mremap(A, 4 * PAGE, 2 * PAGE, MOVE, at(24)) == at(24)
    assert maps(m) == [(24, 26, "rw-p", 0)]


# ---- DONTUNMAP, and an old length of 0 ---------------------------------------------------------------------


def test_dontunmap_leaves_an_empty_mapping(m):
    page(m, 0, 4, byte=b"x")
    assert m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE | DONTUNMAP, at(20)) == at(20)
    assert (m.read(A, 1), m.read(at(20), 1)) == (b"\0", b"x")
    assert maps(m) == [(0, 4, "rw-p", 0), (20, 24, "rw-p", 0)]
    m.write(A, b"q")                            # the old one has an anon_vma of its own from now on
    page(m, 4)
    page(m, 24)
    assert maps(m) == [(0, 5, "rw-p", 0), (20, 24, "rw-p", 0), (24, 25, "rw-p", 0)]


def test_dontunmap_takes_its_address_for_a_hint(m):
    page(m, 0, 4)
    assert m.mremap(at(1), PAGE, PAGE, MAYMOVE | DONTUNMAP, at(20)) == at(20)
    assert m.mremap(at(1), PAGE, PAGE, MAYMOVE | DONTUNMAP, at(20)) not in (at(20), at(1))
    assert maps(m) == [(0, 4, "rw-p", 0), (20, 21, "rw-p", 0)]


@pytest.mark.parametrize("flags, perms, again", [(MAP_SHARED, "rw-s", b"x"), (MAP_PRIVATE, "rw-p", b"\0")])
def test_dontunmap_of_a_file(m, flags, perms, again):
    page(m, 0, 4, RW, flags | FIXED, b"x", file=m.file(8), offset=PAGE)
    m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE | DONTUNMAP, at(20))
    assert maps(m) == [(0, 4, perms, 1), (20, 24, perms, 1)]
    assert (m.read(A, 1), m.read(at(20), 1)) == (again, b"x")


def test_an_old_length_of_0_maps_shared_pages_twice(m):
    page(m, 0, 4, RW, SHARED)
    m.write(at(1), b"x")
    assert m.mremap(at(1), 0, 4 * PAGE, MOVE, at(20)) == at(20)
    assert maps(m) == [(0, 4, "rw-s", 0), (20, 24, "rw-s", 1)]
    m.write(at(20), b"y")
    assert m.read(at(1), 1) == b"y"


def test_an_old_length_of_0_needs_leave_to_move(m):
    page(m, 0, 4, RW, SHARED)
    with pytest.raises(OSError, match="Cannot allocate"):
        m.mremap(at(1), 0, PAGE, 0)


# ---- locked mappings ---------------------------------------------------------------------------------------


def test_what_a_locked_mapping_grows_by_is_faulted_in(m):
    page(m, 0, 4, flags=PRIVATE | LOCKED)
    m.mremap(A, 4 * PAGE, 6 * PAGE, 0)
    assert locked(m) == 6 and m.touch(A, 6 * PAGE) == 0
    m.mremap(A, 6 * PAGE, 8 * PAGE, MOVE, at(20))
    assert locked(m) == 8 and m.touch(at(20), 8 * PAGE) == 0


def test_dontunmap_forgets_to_count_what_it_unlocks(m):
    page(m, 0, 4, flags=PRIVATE | LOCKED)
    m.mremap(A, 4 * PAGE, 4 * PAGE, MOVE | DONTUNMAP, at(20))
    assert locked(m) == 8
    m.munmap(A, 4 * PAGE)
    assert locked(m) == 8
    m.munmap(at(20), 4 * PAGE)
    assert locked(m) == 4


def test_dontunmap_of_a_part_unlocks_the_whole(m):
    page(m, 0, 4, flags=PRIVATE | LOCKED)
    m.mremap(A, PAGE, PAGE, MOVE | DONTUNMAP, at(20))
    assert locked(m) == 5
    page(m, 4)
    assert maps(m) == [(0, 5, "rw-p", 0), (20, 21, "rw-p", 0)]


# ---- whole tables ------------------------------------------------------------------------------------------


def moved(scheme: str, cpus: int, policy: str, to: int = A + 4 * MIB) -> tuple[int, int]:
    """Moves 4 MiB with three pages written; how many ptes and how many tables moved."""
    with Machine(cpus=cpus, scheme=scheme, memory="8MiB", fast_mremap=policy) as m:
        m.mmap(A, 4 * MIB, RW, PRIVATE)
        for where in (0, 2 * MIB - PAGE, 3 * MIB):
            m.write(A + where, where.to_bytes(4))
        assert m.mremap(A, 4 * MIB, 4 * MIB, MOVE, to) == to
        for where in (0, 2 * MIB - PAGE, 3 * MIB):
            assert m.read(to + where, 4) == where.to_bytes(4)
        assert m.touch(to, 4 * MIB) == 1021
        assert m.check() == []
        counters = m.counters()
        return counters["ptes_moved"], counters["pmds_moved"]


@pytest.mark.parametrize("scheme, cpus, policy, expect", [
    ("spf", 1, "single", (0, 2)),
    ("spf", 2, "single", (3, 0)),               # the other may be speculating
    ("mmap_lock", 2, "single", (0, 2)),         # nobody does
    ("spf", 1, "off", (3, 0)),
    ("mmap_lock", 2, "off", (3, 0)),
    ("spf", 2, "locked", (0, 2)),
])
def test_tables_move_whole_where_nobody_can_speculate(scheme, cpus, policy, expect):
    assert moved(scheme, cpus, policy) == expect


def test_tables_move_whole_only_between_their_boundaries():
    assert moved("spf", 1, "single", A + 4 * MIB + PAGE) == (3, 0)


def test_a_table_in_the_way_is_filled_pte_by_pte():
    with Machine(cpus=1, memory="8MiB") as m:
        m.mmap(A, 2 * MIB, RW, PRIVATE)
        m.write(A, b"x")
        m.mmap(A + 2 * MIB, 4 * MIB, RW, PRIVATE)
        m.write(A + 2 * MIB, b"old")
        m.mremap(A, 2 * MIB, 2 * MIB, MOVE, A + 2 * MIB)        # what FIXED unmaps takes its table along
        assert m.counters()["pmds_moved"] == 1
        assert m.read(A + 2 * MIB, 3) == b"x\0\0"
        assert m.check() == []


# ---- out of memory, and programs ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["off", "single"])
def test_when_tables_run_out_what_was_moved_goes_back(policy):
    with Machine(cpus=1, memory="1MiB", fast_mremap=policy) as m:
        frames = m.segment.view("frame")["kind"]
        m.mmap(A, 6 * MIB, RW, PRIVATE)
        for where in (0, 2 * MIB, 4 * MIB):
            m.write(A + where, b"x")
        hog = m.mmap(None, 64 * MIB, RW, PRIVATE & ~FIXED)
        left = 5 if policy == "off" else 2      # two upper tables and three for ptes, of four; the former, of three
        taken = 0
        while int((frames == 0).sum()) > left:
            m.write(hog + taken * PAGE, b"h")
            taken += 1
        before = m.maps()
        to = 0x3000_4000_0000 - 2 * MIB         # the second 2 MiB have another pmd table
        with pytest.raises(OSError, match="Cannot allocate"):
            m.mremap(A, 6 * MIB, 6 * MIB, MOVE, to)
        assert m.maps() == before
        assert m.touch(A, PAGE) == m.touch(A + 2 * MIB, PAGE) == m.touch(A + 4 * MIB, PAGE) == 0
        assert m.check() == []
        del frames


def test_a_program_moves_its_mapping(m):
    p = Program()
    p.mmap(A, 2 * PAGE, RW, PRIVATE)
    p.store(A, 7)
    p.mremap(A, 2 * PAGE, 3 * PAGE, MOVE, at(8), dst=1, expect=at(8))
    p.load(0, base=1, expect=7)
    p.mremap(A, 2 * PAGE, PAGE, 0, expect=-errno.EFAULT)
    assert Program.parse(p.text()) == p
    records = p.array()
    m.segment.view("insn")[: len(records)] = records
    cpus = m.segment.view("cpu")
    cpus["program_first"][0], cpus["program_len"][0] = 0, len(records)
    assert m._cpus[0].run() == 0, int(cpus["failed_pc"][0])
    del cpus
    assert maps(m) == [(8, 11, "rw-p", 0)]
