"""Huge pages: who gets one, what splits it, takes it away whole or copies it, and what collapse makes of a table.

What is expected of faults and of madvise's results was tried on Linux 6.18."""

import errno
from mmap import (
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
)

import pytest

from shmm import _fast
from shmm.cluster.config import Config
from shmm.cluster.launch import run_point
from shmm.cluster.simulate import run_point as simulate_point
from shmm.machine import Machine, SegmentationFault
from shmm.segment import Geometry, Segment

PAGE, HUGE = 4096, 2 << 20
PROT_NONE, RW, ANON, FIXED = 0, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, 0x10
ARENA = 0x2000_0000_0000
COLLAPSE = 25
POLICIES = {
    "mmap_lock": {"scheme": "mmap_lock"},
    "spf irq": {},
    "spf rcu": {"walk": "rcu", "table_free": "rcu"},
    "collapse read": {"walk": "rcu", "table_free": "rcu", "collapse": "read"},
    "two nodes": {"nnode": 2, "cpu_node": [0, 1]},
}


def machine(policy: str = "spf irq", thp: str = "always", huge: int = 4) -> Machine:
    return Machine(cpus=2, memory="16MiB", huge_pages=huge, thp=thp, paranoid=1, **POLICIES[policy])


@pytest.fixture(params=POLICIES)
def m(request):
    """A machine with an area of 8 MiB that may have huge pages, of which there are 4."""
    with machine(request.param) as made:
        made.mmap(ARENA, 4 * HUGE, RW, ANON | FIXED)
        yield made
        assert made.check() == []


def count(m: Machine, name: str) -> int:
    return m.counters()[name]


def huge(m: Machine) -> int:
    """Huge pmds."""
    assert m.check() == []
    return count(m, "nr_anon_transparent_hugepages")


def free(m: Machine) -> int:
    return int(m.segment.view("seg")["huge_pool"]["free"])


# ---- who gets one ---------------------------------------------------------------------------------------------------

def test_the_first_write_maps_two_megabytes(m):
    assert m.touch(ARENA + 5 * PAGE, PAGE) == 1
    assert m.touch(ARENA, HUGE) == 0 and m.touch(ARENA, HUGE, cpu=1) == 0
    assert (huge(m), count(m, "thp_fault_alloc"), free(m)) == (1, 1, 3)
    m.write(ARENA + PAGE + 7, b"across" * 2000, cpu=1)
    assert m.read(ARENA + PAGE + 7, 12000) == b"across" * 2000
    assert m.read(ARENA + 300 * PAGE + 1, 9) == bytes(9)
    assert int(m.segment.view("mm")["rss_anon"][1]) + int(m.segment.view("cpu")["rss_anon"].sum()) == 512


def test_a_read_maps_the_page_of_zeros_and_then_there_is_a_table(m):
    assert m.touch(ARENA, HUGE, write=False) == 512
    assert m.touch(ARENA, PAGE) == 1 and huge(m) == 0


@pytest.mark.parametrize(("thp", "advice", "expected"), [
    ("never", MADV_HUGEPAGE, 0), ("madvise", None, 0), ("madvise", MADV_HUGEPAGE, 1), ("always", None, 1),
    ("always", MADV_NOHUGEPAGE, 0),
])
def test_policy_and_hints_decide(thp, advice, expected):
    with machine(thp=thp) as m:
        m.mmap(ARENA, HUGE, RW, ANON | FIXED)
        if advice is not None:
            m.madvise(ARENA, HUGE, advice)
        m.touch(ARENA, PAGE)
        assert huge(m) == expected


@pytest.mark.parametrize(("start", "length", "flags"), [
    (ARENA + PAGE, HUGE, ANON), (ARENA, HUGE - PAGE, ANON), (ARENA, HUGE, MAP_SHARED | MAP_ANONYMOUS),
], ids=["begins too late", "ends too early", "shared"])
def test_only_whole_private_ranges_get_one(start, length, flags):
    with machine() as m:
        m.mmap(start, length, RW, flags | FIXED)
        m.touch(start, length)
        assert huge(m) == 0


def test_a_file_gets_none():
    with machine() as m:
        m.mmap(ARENA, HUGE, RW, MAP_PRIVATE | FIXED, file=m.file(512))
        m.touch(ARENA, HUGE)
        assert huge(m) == 0


def test_when_there_is_none_left_single_pages_do():
    with machine(huge=1) as m:
        m.mmap(ARENA, 2 * HUGE, RW, ANON | FIXED)
        assert m.touch(ARENA, 2 * HUGE) == 1 + 512
        assert (huge(m), count(m, "thp_fault_fallback"), free(m)) == (1, 1, 0)


def test_speculation_refuses_every_one_of_them():
    with machine("spf irq") as m:
        m.mmap(ARENA, 4 * HUGE, RW, ANON | FIXED)
        assert m.touch(ARENA, 4 * HUGE) == 4
        assert count(m, "spf_attempt") == count(m, "spf_abort") == 4
        assert (count(m, "SPF_ABORT_PUD"), count(m, "SPF_ABORT_PMD")) == (1, 3)
        m.fork()
        assert m.touch(ARENA, PAGE) == 1            # write-protected, and still huge
        assert count(m, "SPF_ABORT_PMD") == 4
        assert m.touch(ARENA + PAGE, PAGE) == 1     # split by now: single pages are its business
        assert count(m, "SPF_ABORT_PMD") == 4 and count(m, "SPF_ATTEMPT_WP") == 1


# ---- parts, and whole ones ------------------------------------------------------------------------------------------

def protect(m: Machine) -> None:
    m.mprotect(ARENA + PAGE, PAGE, PROT_READ)


def unmap(m: Machine) -> None:
    m.munmap(ARENA + PAGE, PAGE)


def drop(m: Machine) -> None:
    m.madvise(ARENA + PAGE, PAGE, MADV_DONTNEED)


def hint(m: Machine) -> None:
    m.madvise(ARENA + PAGE, PAGE, MADV_DONTFORK)


def replace(m: Machine) -> None:
    m.mmap(ARENA + PAGE, PAGE, PROT_READ, ANON | FIXED)


@pytest.mark.parametrize("change", [protect, unmap, drop, hint, replace])
def test_what_changes_a_part_splits_it_and_keeps_the_rest(m, change):
    m.write(ARENA, b"first")
    m.write(ARENA + HUGE - 4, b"last")
    change(m)
    assert (huge(m), count(m, "thp_split_pmd"), free(m)) == (0, 1, 3)
    assert (m.read(ARENA, 5), m.read(ARENA + HUGE - 4, 4, cpu=1)) == (b"first", b"last")
    assert m.touch(ARENA + 2 * PAGE, HUGE - 2 * PAGE) == 0
    m.munmap(ARENA, HUGE)
    assert m.check() == [] and free(m) == 4


def test_it_stays_whole_until_its_last_part_goes(m):
    m.touch(ARENA, HUGE)
    for page in range(511):
        m.munmap(ARENA + page * PAGE, PAGE, cpu=page % 2)
    assert m.check() == [] and free(m) == 3
    m.munmap(ARENA + HUGE - PAGE, PAGE)
    assert m.check() == [] and free(m) == 4


@pytest.mark.parametrize("change", [
    lambda m: m.munmap(ARENA, HUGE), lambda m: m.madvise(ARENA, HUGE, MADV_DONTNEED),
    lambda m: m.mmap(ARENA, HUGE, PROT_NONE, ANON | FIXED), lambda m: m.munmap(ARENA - HUGE, 3 * HUGE),
], ids=["munmap", "dontneed", "replaced", "more"])
def test_a_whole_one_goes_at_once(m, change):
    m.touch(ARENA, HUGE)
    assert m.read(ARENA, 1, cpu=1) == b"\1"
    change(m)
    assert (huge(m), count(m, "thp_split_pmd"), free(m)) == (0, 0, 4)


def test_mprotect_changes_a_whole_one_in_place(m):
    m.touch(ARENA, HUGE)
    m.mprotect(ARENA, HUGE, PROT_READ)
    with pytest.raises(SegmentationFault):
        m.write(ARENA, b"x", cpu=1)
    m.mprotect(ARENA, HUGE, PROT_NONE)
    with pytest.raises(SegmentationFault):
        m.read(ARENA, 1)
    m.mprotect(ARENA, HUGE, RW)
    assert m.touch(ARENA, HUGE) == 0 and huge(m) == 1


# ---- copies ---------------------------------------------------------------------------------------------------------

def test_fork_shares_it_and_the_first_to_write_copies_a_single_page(m):
    m.write(ARENA, b"ours")
    child = m.fork()
    assert huge(m) == 2 and free(m) == 3
    m.attach(child, cpu=1)
    assert m.touch(ARENA, 3 * PAGE, cpu=1) == 3
    assert count(m, "pgcopy") == 3 and huge(m) == 1
    assert m.read(ARENA, 4) == b"ours" and m.read(ARENA, 4, cpu=1) == b"\1urs"
    m.attach(1, cpu=1)                              # the child is gone
    assert m.touch(ARENA, HUGE) == 1                # and the page ours again, whole
    assert huge(m) == 1 and count(m, "pgcopy") == 3


def test_a_parent_may_go_first(m):
    m.write(ARENA, b"ours")
    child = m.fork()
    m.munmap(ARENA, HUGE)
    m.attach(child, cpu=1)
    assert m.read(ARENA, 4, cpu=1) == b"ours" and m.touch(ARENA, HUGE, cpu=1) == 1 and huge(m) == 1


def test_a_child_of_a_split_one_shares_its_parts(m):
    m.write(ARENA, b"ours")
    drop(m)
    m.attach(m.fork(), cpu=1)
    assert m.touch(ARENA, PAGE, cpu=1) == 1 and count(m, "pgcopy") == 1
    assert m.read(ARENA, 4) == b"ours"


# ---- collapse -------------------------------------------------------------------------------------------------------

@pytest.fixture
def single(m):
    """The same without huge pages at faults."""
    m.segment.view("seg")["thp"] = 0
    return m


def collapse(m: Machine, start: int = ARENA, length: int = HUGE) -> int:
    try:
        m.madvise(start, length, COLLAPSE)
    except OSError as error:
        return error.errno
    return 0


def test_collapse_keeps_what_is_there(single):
    m = single
    m.write(ARENA, b"first")
    m.write(ARENA + 7 * PAGE - 3, b"sevens")
    m.touch(ARENA + 9 * PAGE, PAGE, write=False)
    assert collapse(m) == 0
    assert (huge(m), count(m, "thp_collapse_alloc"), free(m)) == (1, 1, 3)
    assert (m.read(ARENA, 5, cpu=1), m.read(ARENA + 7 * PAGE - 3, 6)) == (b"first", b"sevens")
    assert m.touch(ARENA, HUGE) == 0 and m.read(ARENA + 9 * PAGE, 2) == b"\1\0"
    assert collapse(m) == 0 and count(m, "thp_collapse_alloc") == 1             # already is one


def test_collapse_puts_a_split_one_together(m):
    m.touch(ARENA, HUGE)
    drop(m)
    assert collapse(m) == 0 and huge(m) == 1 and free(m) == 3
    assert m.read(ARENA, 1) + m.read(ARENA + PAGE, 1) == b"\1\0"


def prepared(m: Machine, what: str) -> tuple[int, int]:
    """The range that is collapsed."""
    if what != "untouched":
        m.touch(ARENA, PAGE, write=what != "only read")
    if what == "hole":
        m.munmap(ARENA + HUGE // 2, PAGE)
    if what == "read-only":
        m.mprotect(ARENA, 4 * HUGE, PROT_READ)
    if what == "not wanted":
        m.madvise(ARENA, 4 * HUGE, MADV_NOHUGEPAGE)
    return {"short": (ARENA, PAGE), "late": (ARENA + PAGE, HUGE), "two": (ARENA, 2 * HUGE),
            "nothing there": (ARENA - 4 * HUGE, HUGE)}.get(what, (ARENA, HUGE))


@pytest.mark.parametrize(("what", "result", "expected"), [
    ("one page", 0, 1), ("untouched", errno.EINVAL, 0), ("only read", errno.EINVAL, 0), ("short", 0, 0), ("late", 0, 0),
    ("two", errno.EINVAL, 1), ("read-only", 0, 1), ("not wanted", errno.EINVAL, 0), ("hole", errno.EINVAL, 0),
    ("nothing there", errno.ENOMEM, 0),
])
def test_results_are_those_of_linux(single, what, result, expected):
    assert collapse(single, *prepared(single, what)) == result
    assert huge(single) == expected


def test_collapse_needs_a_huge_page():
    with machine(huge=0) as m:
        m.mmap(ARENA, HUGE, RW, ANON | FIXED)
        m.touch(ARENA, PAGE)
        assert collapse(m) == errno.ENOMEM and count(m, "thp_collapse_alloc_failed") == 1


def test_collapse_of_what_fork_has_shared_leaves_the_child_its_pages(single):
    m = single
    m.write(ARENA, b"ours")
    child = m.fork()
    assert collapse(m) == 0
    m.write(ARENA, b"mine")
    m.attach(child, cpu=1)
    assert (m.read(ARENA, 4), m.read(ARENA, 4, cpu=1)) == (b"mine", b"ours")


# ---- the machine ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("field", "said"), [
    ("pmd_huge_pte", "tables deposited"), ("refs", "frame references"), ("entry", "half split"),
    ("vma", "beyond its VMA"),
])
def test_the_invariants_notice(m, field, said):
    m.touch(ARENA, PAGE)
    seg, mm, frames = m.segment.view("seg"), m.segment.view("mm"), m.segment.view("frame")
    entries = m.segment.view("memory").view("i8")
    head = int(seg["frame_end"]) - 4 * 512
    pmd = ((frames["level"] == 2) & (frames["kind"] == 3)).nonzero()[0][0], 0
    vmas = m.segment.view("vma")
    vma = vmas["start"].tolist().index(ARENA)
    where = {"pmd_huge_pte": (mm["pmd_huge_pte"], 1, 0), "refs": (frames["refs"], head, 2),
             "entry": (entries, pmd, int(entries[pmd]) & ~1), "vma": (vmas["end"], vma, ARENA + PAGE)}
    array, index, wrong = where[field]
    right = array[index].copy()
    array[index] = wrong
    assert any(said in line for line in m.check()), m.check()
    array[index] = right


def test_huge_pages_lie_behind_the_others_and_are_aligned():
    geometry = Geometry(ncpu=1, nmm=2, nvma=100, nanon=100, nfile=2, ncache=2, nframe=600, ninsn=2, nhuge=3)
    with Segment.create(geometry) as segment:
        assert int(segment.view("seg")["frame_end"]) == 1024 + 3 * 512 == len(segment.view("frame"))
        assert int(segment.view("seg")["huge_pool"]["head"]) == 1024
        assert _fast.check(segment.address) == [] and _fast.frames_in_use(segment.address) == 0
        segment.view("seg")["huge_pool"]["free"] = 2
        assert any("free list" in line for line in _fast.check(segment.address))


def test_a_collapse_under_the_read_lock_needs_tables_freed_by_rcu():
    with pytest.raises(ValueError, match="collapse read needs table_free rcu"):
        Machine(collapse="read")
    with pytest.raises(ValueError, match="thp 'sometimes' does not exist"):
        Machine(thp="sometimes")


@pytest.mark.parametrize("run", [run_point, simulate_point], ids=["native", "sim"])
def test_page_fault1_with_huge_pages_faults_once_for_512_pages(run):
    """But for what lies before the first border of 2 MiB and behind the last."""
    engine = {run_point: "native", simulate_point: "sim"}[run]
    point = run(Config(workload="page_fault1", cpus=2, size=16 << 20, thp="always", seconds=0.02, engine=engine,
                       machine="skylake-2x28" if engine == "sim" else None))
    counters = point["counters"]
    assert point["violations"] == point["frames_leaked"] == 0
    assert counters["thp_fault_alloc"] > 0 == counters["thp_fault_fallback"] == counters["thp_split_pmd"]
    assert counters["SPF_ABORT_PMD"] > 0
    assert counters["ops"] > 3 * counters["user_faults"]
