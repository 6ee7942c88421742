"""get_user_pages_fast: what it finds without a lock and what it leaves to the slow path; what a pin does to others."""

import errno
from mmap import MADV_DONTNEED, MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE

import pytest
from rooms.crew import counter
from rooms.world import LOADS

from shmm.cluster.check import explore
from shmm.cluster.check.explore import Task
from shmm.machine import Machine
from shmm.program import Program
from shmm.segment import Geometry, Segment

pytest_plugins = ("engines",)

PAGE, HUGE, ARENA, COLLAPSE = 4096, 2 << 20, 0x2000_0000_0000, 25
RW, ANON_FIXED = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | 0x10
POLICIES = {"mmap_lock": {"scheme": "mmap_lock"}, "spf irq": {}, "spf rcu": {"walk": "rcu", "table_free": "rcu"},
            "collapse read": {"walk": "rcu", "table_free": "rcu", "collapse": "read"}}


@pytest.fixture(params=POLICIES)
def m(request):
    with Machine(cpus=2, memory="16MiB", huge_pages=1, paranoid=1, **POLICIES[request.param]) as made:
        made.mmap(ARENA, 2 * HUGE, RW, ANON_FIXED)
        yield made
        assert made.check() == []


def ways(m: Machine) -> tuple[int, int]:
    """How many went without a lock, and with."""
    return m.counters()["gup_fast"], m.counters()["gup_slow"]


# ---- what it finds --------------------------------------------------------------------------------------------------

def test_a_page_that_is_there_is_got_without_a_lock(m):
    m.write(ARENA + 5, b"*")
    locks = m.counters()["rwsem_read_fast"]
    assert m.gup(ARENA + 5) == m.gup(ARENA + 5, cpu=1) == ord("*")
    assert ways(m) == (2, 0) and m.counters()["rwsem_read_fast"] == locks
    frames = m.segment.view("frame")
    assert frames["refs"][frames["kind"] == 1].tolist() == [1]        # and given back


def test_a_page_that_is_not_is_faulted_in_under_it(m):
    assert m.gup(ARENA) == 0 and ways(m) == (0, 1)
    assert m.gup(ARENA) == 0 and ways(m) == (1, 1)      # the page of zeros, which is not counted
    assert m.counters()["user_faults"] == 0
    m.write(ARENA, b"x")
    assert m.gup(ARENA) == ord("x")


def test_what_nobody_may_read_is_not_got(m):
    m.touch(ARENA, PAGE)
    m.mprotect(ARENA, PAGE, 0)
    for addr in (ARENA, ARENA - PAGE, 1 << 47):
        with pytest.raises(OSError) as caught:
            m.gup(addr)
        assert caught.value.errno == errno.EFAULT
    m.mprotect(ARENA, PAGE, PROT_READ)
    assert m.gup(ARENA) == 1


def test_parts_of_huge_pages_and_pages_of_files_are_got(m):
    m.touch(ARENA, PAGE)
    m.write(ARENA + 300 * PAGE + 9, b"h")
    m.madvise(ARENA, HUGE, COLLAPSE)
    assert m.gup(ARENA + 300 * PAGE + 9, cpu=1) == ord("h") and ways(m) == (1, 0)
    m.mmap(ARENA + HUGE, PAGE, RW, MAP_SHARED | 0x10, file=m.file(1))
    assert m.gup(ARENA + HUGE) == 0 and m.touch(ARENA + HUGE, PAGE) == 1 and m.gup(ARENA + HUGE) == 1
    assert ways(m) == (2, 1)


def test_past_the_end_of_a_file_there_is_nothing(m):
    m.mmap(ARENA + HUGE, 2 * PAGE, RW, MAP_SHARED | 0x10, file=m.file(1))
    with pytest.raises(OSError, match="Bad address"):
        m.gup(ARENA + HUGE + PAGE)


def test_a_program_gets_the_byte_as_register_and_result():
    p = Program()
    p.gup(ARENA, dst=3, expect=7)
    assert Program.parse(p.text()) == p
    assert p.text().splitlines()[0].split()[0] == "GUP"


# ---- what a pin does to others --------------------------------------------------------------------------------------

class Pinned:
    """CPU a has pinned the page at ARENA, in which it wrote a P, and is about to read it, when b acts."""

    def __init__(self, count, segment: Segment) -> None:
        self.count, self.segment = count, segment
        self.a, self.b = (count.Cpu(segment.address, cpu) for cpu in (0, 1))
        assert self.a.exec(1) == self.b.attach(1) == 0
        assert self.a.mmap(ARENA, HUGE, RW, ANON_FIXED) == ARENA
        assert self.a.write(ARENA, b"P") is self.b.write(ARENA + PAGE, b"b") is None
        frames = segment.view("frame")
        self.pfn = int((frames["kind"] == 1).nonzero()[0][0])
        assert segment.view("memory")[self.pfn, 0] == ord("P")

    def read_while(self, action) -> int:
        """The byte that a reads.  It is the one access to the page itself."""
        page = int(self.segment.view("memory")[self.pfn:].ctypes.data)
        self.count.trap(action, LOADS, 0, page, 1)
        byte = self.a.gup(ARENA)
        assert self.count.disarm(), "the page was not read"
        return byte

    def finish(self) -> None:
        for cpu in (self.a, self.b):
            cpu.rcu_drain()
        assert self.count.check(self.segment.address) == []
        for cpu in (self.a, self.b):
            cpu.exit()
        if self.segment.view("mm")["in_use"][2]:
            self.a.attach(2)
            self.a.exit()
        self.count.settle(self.segment.address)
        assert self.count.frames_in_use(self.segment.address) == 0


@pytest.fixture
def pinned(count):
    geometry = Geometry(ncpu=2, nmm=3, nvma=200, nanon=200, nfile=2, ncache=2, nframe=250, ninsn=2, nhuge=1)
    with Segment.create(geometry, scheme="spf", paranoid=1) as segment:
        made = Pinned(count, segment)
        yield made
        made.finish()


def test_a_page_that_is_unmapped_is_not_used_again_while_it_is_pinned(pinned):
    def unmap() -> None:
        assert pinned.b.munmap(ARENA, PAGE) == 0
        assert pinned.segment.view("frame")["refs"][pinned.pfn] == 1
        assert pinned.b.touch(ARENA + PAGE, 60 * PAGE) > 0

    assert pinned.read_while(unmap) == ord("P")
    assert pinned.segment.view("frame")["kind"][pinned.pfn] == 0        # whoever held it last has freed it


def test_a_pinned_page_that_fork_has_shared_is_copied_by_whoever_writes(pinned):
    def share() -> None:
        assert pinned.b.fork(2) == 0
        assert pinned.b.write(ARENA, b"N") is None
        assert pinned.b.attach(2) == 0 and pinned.b.write(ARENA, b"C") is None       # the child too: not its alone
        assert pinned.b.attach(1) == 0

    assert pinned.read_while(share) == ord("P")
    assert counter(pinned.segment, "pgcopy") == 2
    assert pinned.a.gup(ARENA) == ord("N")


def test_a_pinned_page_of_our_own_is_written_in_place(pinned):
    assert pinned.read_while(lambda: pinned.b.write(ARENA, b"N")) == ord("N")


def test_collapse_leaves_a_table_alone_of_which_a_page_is_pinned(pinned):
    results = []
    assert pinned.read_while(lambda: results.append(pinned.b.madvise(ARENA, HUGE, COLLAPSE))) == ord("P")
    assert results == [-errno.EAGAIN] and counter(pinned.segment, "nr_anon_transparent_hugepages") == 0
    assert pinned.b.madvise(ARENA, HUGE, COLLAPSE) == 0
    assert pinned.a.gup(ARENA) == ord("P") and counter(pinned.segment, "nr_anon_transparent_hugepages") == 1


def test_a_huge_page_that_is_zapped_stays_while_a_part_is_pinned(pinned):
    assert pinned.b.madvise(ARENA, HUGE, COLLAPSE) == 0
    pool, frames = pinned.segment.view("seg")["huge_pool"], pinned.segment.view("frame")
    pinned.pfn = int(pinned.segment.view("seg")["frame_end"]) - 512

    def zap() -> None:
        assert pinned.b.madvise(ARENA, HUGE, MADV_DONTNEED) == 0
        assert (int(pool["free"]), int(frames["refs"][pinned.pfn])) == (0, 1)

    assert pinned.read_while(zap) == ord("P") and int(pool["free"]) == 1


# ---- which checks are needed ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("scenario", "mutant", "variant"), [
    ("fault_collapse", "PMD_SAME", "base"), ("fault_collapse", "PMD_SAME", "rcu"), ("fault_collapse", "SEQ1", "base"),
    ("fault_collapse_read", "PMD_UNDER_PTL", "base"), ("gup_munmap", "GUP_NO_RECHECK", "base"),
])
def test_these_are_covered_by_others(scenario, mutant, variant):
    """A collapse under the write lock moves mmap_seq, so the pmd entry need not be looked at, nor mmap_seq twice; one
    under the read lock waits for walks with interrupts off, so that one look before the lock will do."""
    run = explore.run(Task(scenario, "spf", variant, bound=2, mutant=mutant))
    assert run["violation"] is None and run["exhausted"]


def test_the_pmd_entry_covers_for_mmap_seq_when_a_collapse_interrupts():
    assert explore.run(Task("fault_collapse", "spf", "base", bound=2, mutant="SEQ_BOTH"))["violation"] is None
    assert explore.run(Task("fault_collapse", "spf", "rcu", bound=2, mutant="SEQ_BOTH"))["violation"] is not None
