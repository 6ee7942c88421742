"""MMU notifiers: a secondary MMU is told before a pte changes, and what its registration keeps out."""

import errno
from contextlib import contextmanager
from mmap import MADV_DONTNEED, PROT_READ

import pytest
from rooms.crew import counter, machine

from shmm import _fast
from shmm.cluster.check import explore
from shmm.cluster.check.explore import Task
from shmm.layout import COUNTERS
from shmm.machine import BusError, Machine, SegmentationFault
from shmm.program import Program, ProgramError

PAGE, RW, NONE, ANON = 4096, 3, 0, 0x22
MMAP_LOCK, SPF = "mmap_lock", "spf"
SCENARIOS = ("cow_notifier", "secondary_cow", "secondary_zap", "secondary_fork", "secondary_mprotect")


@contextmanager
def guest(**policy):
    """A machine whose address space has a secondary MMU, and a page that it uses."""
    with Machine(cpus=2, mmu_notifier=True, paranoid=True, **policy) as m:
        at = m.mmap(None, 4 * PAGE, RW, ANON)
        m.write(at, b"hello")
        m.notifier()
        assert m.secondary_read(at) == ord("h")
        yield m, at
        assert m.check() == []


def moved(m, *names):
    return tuple(m.counters()[name] for name in names)


# ---- the client --------------------------------------------------------------------------------------------------


def test_both_see_what_the_other_stores():
    with guest() as (m, at):
        m.secondary_write(at + 1, ord("a"))
        assert m.read(at, 5, cpu=1) == b"hallo"
        m.write(at + PAGE, b"x", cpu=1)
        assert m.secondary_read(at + PAGE, cpu=1) == ord("x")


def test_a_translation_is_made_once():
    with guest() as (m, at):
        for _ in range(3):
            m.secondary_read(at)
        assert moved(m, "secondary_fill", "secondary_hit") == (1, 3)
        m.secondary_write(at, 1)
        m.secondary_read(at)
        assert moved(m, "secondary_fill", "secondary_hit") == (1, 5)


def test_what_the_page_table_forbids_is_forbidden_to_it_too():
    with guest() as (m, at):
        m.mprotect(at, PAGE, PROT_READ)
        assert m.secondary_read(at) == ord("h")
        with pytest.raises(SegmentationFault, match="write"):
            m.secondary_write(at, 1)
        with pytest.raises(SegmentationFault, match="read"):
            m.secondary_read(at + 64 * PAGE)
        file = m.file(1)
        behind = m.mmap(None, 2 * PAGE, RW, 0x01, file=file)
        with pytest.raises(BusError):
            m.secondary_read(behind + PAGE)


@pytest.mark.parametrize("scheme", [MMAP_LOCK, SPF])
def test_its_faults_are_the_kernels_and_never_speculate(scheme):
    with guest(scheme=scheme, force_speculation=True) as (m, at):
        before = moved(m, "spf_attempt", "user_faults")
        m.secondary_write(at + PAGE, 7)
        m.secondary_read(at + 2 * PAGE)
        assert moved(m, "spf_attempt", "user_faults") == before
        assert m.read(at + PAGE, 1) == b"\x07"


def test_who_has_not_registered_has_no_secondary_mmu():
    with Machine(cpus=1, mmu_notifier=True) as m:
        at = m.mmap(None, PAGE, RW, ANON)
        with pytest.raises(OSError, match=r"No such device") as error:
            m.secondary_read(at)
        assert error.value.errno == errno.ENXIO
        with pytest.raises(FileNotFoundError):
            m.notifier(False)
        m.notifier()
        with pytest.raises(FileExistsError):
            m.notifier()
        m.notifier(False)
        with pytest.raises(OSError, match=r"No such device"):
            m.secondary_read(at)
        m.notifier()                    # a client of its own
        assert m.secondary_read(at) == 0
        assert m.check() == []


def test_a_kernel_without_notifiers_says_so():
    with Machine(cpus=1) as m:
        at = m.mmap(None, PAGE, RW, ANON)
        for call in (m.notifier, lambda: m.secondary_read(at)):
            with pytest.raises(OSError, match="not implemented") as error:
                call()
            assert error.value.errno == errno.ENOSYS


def test_an_address_space_ends_with_its_client_in_it():
    with Machine(cpus=2, mmu_notifier=True, address_spaces=4) as m:
        m.attach(m.fork(), cpu=1)
        at = m.mmap(None, PAGE, RW, ANON, cpu=1)
        m.notifier(cpu=1)
        m.secondary_write(at, 3, cpu=1)
        m.attach(1, cpu=1)              # the last one out
        m.attach(m.fork(), cpu=1)       # the slot's next address space has no client
        with pytest.raises(OSError, match=r"No such device"):
            m.secondary_read(at, cpu=1)
        assert m.check() == []


# ---- who tells it ------------------------------------------------------------------------------------------------

CHANGES = {
    "munmap": lambda m, at: m.munmap(at, PAGE),
    "DONTNEED": lambda m, at: m.madvise(at, PAGE, MADV_DONTNEED),
    "mprotect": lambda m, at: m.mprotect(at, PAGE, NONE),
    "fork": lambda m, at: m.fork(),
    "MAP_FIXED": lambda m, at: m.mmap(at, PAGE, RW, ANON | 0x10),
}


@pytest.mark.parametrize("change", CHANGES)
def test_I7_whoever_takes_a_pte_away_says_so_first(change):
    with guest() as (m, at):
        CHANGES[change](m, at)
        assert m.check() == []          # no stale translation, no invalidation under way
        assert moved(m, "mmu_notifier_invalidate") == (1,)


@pytest.mark.parametrize("move", ["mremap", "page-out", "collapse"])
def test_I7_a_page_that_moves_is_announced(move):
    aligned, maymove_fixed, pageout, collapse = 0x2000_0000_0000, 3, 21, 25
    with Machine(cpus=2, mmu_notifier=True, paranoid=True, swap="1MiB", huge_pages=2) as m:
        at = m.mmap(aligned, 512 * PAGE, RW, ANON | 0x10)
        m.write(at, b"hello")
        m.notifier()
        m.secondary_write(at + 1, ord("a"))
        if move == "mremap":
            at = m.mremap(at, PAGE, PAGE, maymove_fixed, aligned + (1 << 40))
        else:
            m.madvise(at, 512 * PAGE, pageout if move == "page-out" else collapse)
        assert moved(m, "mmu_notifier_invalidate")[0] > 0
        assert m.check() == []          # I7: nothing stale is left
        assert m.secondary_read(at + 1) == ord("a") and m.read(at, 5) == b"hallo"
        assert m.check() == []


@pytest.mark.parametrize("scheme", [MMAP_LOCK, SPF])
def test_I7_a_copied_page_is_announced(scheme):
    with guest(scheme=scheme) as (m, at):
        m.fork()
        assert m.secondary_read(at) == ord("h")
        before = moved(m, "mmu_notifier_invalidate", "pgcopy")
        m.write(at, b"j", cpu=1)
        assert moved(m, "mmu_notifier_invalidate", "pgcopy") == (before[0] + 1, before[1] + 1)
        assert m.check() == []
        assert m.secondary_read(at) == ord("j")


def test_nobody_is_told_where_nobody_has_registered():
    with Machine(cpus=1, mmu_notifier=True) as m:
        at = m.mmap(None, PAGE, RW, ANON)
        m.write(at, b"x")
        m.munmap(at, PAGE)
        assert moved(m, "mmu_notifier_invalidate") == (0,)


# ---- I7 can fail -------------------------------------------------------------------------------------------------


def entry_of(m, at):
    entries = m.segment.view("mm")["notifier"]["entry"][1]
    return entries, int((at >> 12) & 15)


def test_I7_a_stale_translation_is_found_at_rest_and_at_its_use():
    with Machine(cpus=1, mmu_notifier=True, paranoid=True) as m:
        at = m.mmap(None, 2 * PAGE, RW, ANON)
        m.write(at, b"a")
        m.write(at + PAGE, b"b")
        m.notifier()
        m.secondary_read(at), m.secondary_read(at + PAGE)
        entries, index = entry_of(m, at)
        kept = int(entries["pte"][index])
        entries["pte"][index] = entries["pte"][(index + 1) & 15]       # the neighbour's frame
        assert [line[:8] for line in m.check()] == ["I7 mm 1:"]
        assert m.secondary_read(at) == ord("b")
        assert moved(m, "secondary_stale", "violations") == (1, 1)
        entries["pte"][index] = kept
        assert "use of a translation of a secondary MMU" in m.check()[0]
        del entries
        m.segment.view("cpu")["counter"][0, [COUNTERS.index("secondary_stale"), COUNTERS.index("violations")]] = 0
        assert m.check() == []


def test_I7_an_invalidation_that_never_ends_is_found():
    with Machine(cpus=1, mmu_notifier=True) as m:
        m.notifier()
        m.segment.view("mm")["notifier"]["in_progress"][1] = 1
        assert "invalidations under way" in m.check()[0]
        m.segment.view("mm")["notifier"]["in_progress"][1] = 0


# ---- the lock, and the abort without a name ----------------------------------------------------------------------


def test_I5_a_failed_trylock_is_an_abort_without_a_name_in_the_series():
    with machine(cpus=2, scheme="spf", mmu_notifier=1) as segment:
        a, b = (_fast.Cpu(segment.address, n) for n in (0, 1))
        assert a.exec(1) == b.attach(1) == 0
        at = a.mmap(0, PAGE, RW, ANON)
        assert a.write(at, b"x") is None and a.fork(2) == 0
        lock = segment.view("mm")["notifier_lock"]
        lock["slow"][1] = lock["block"][1] = 1              # as while somebody registers
        before = counter(segment, "spf_abort")
        assert b.write(at, b"y") is None
        assert counter(segment, "spf_abort") == before + 1
        assert counter(segment, "notifier_trylock_failed") == 1
        assert _fast.check(segment.address) == []           # I5 allows just that
        lock["slow"][1] = lock["block"][1] = 0
        segment.view("cpu")["counter"][0, COUNTERS.index("spf_abort")] += 1
        segment.view("cpu")["counter"][0, COUNTERS.index("spf_attempt")] += 1
        assert "I5" in _fast.check(segment.address)[0]      # and no other
        segment.view("cpu")["counter"][0, COUNTERS.index("spf_abort")] -= 1
        segment.view("cpu")["counter"][0, COUNTERS.index("spf_attempt")] -= 1
        del lock
        for cpu in (a, b):
            cpu.exit()
        assert a.attach(2) == 0 and a.exit() == 0
        _fast.settle(segment.address)
        assert _fast.frames_in_use(segment.address) == 0


def test_only_a_speculative_copy_takes_the_lock():
    """Registration waits for the readers: who holds mmap_lock need not be one."""
    for scheme, readers in ((MMAP_LOCK, False), (SPF, True)):
        found = explore.run(Task("cow_notifier", scheme, mutant="NOTIFIER_REGISTER_NO_LOCK"))["violation"]
        assert (found is not None) == readers, scheme


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("scheme", [MMAP_LOCK, SPF])
def test_all_schedules_keep_the_promise(name, scheme):
    run = explore.run(Task(name, scheme, bound=2))
    assert run["violation"] is None and run["exhausted"]


# ---- programs ----------------------------------------------------------------------------------------------------


def test_programs_have_both():
    p = Program()
    p.notifier()
    p.secondary(0x1000, dst=3)
    p.secondary(0x1000, 255)
    p.notifier(False, may_fail=True)
    assert Program.parse(p.text()) == p
    assert p.text().splitlines()[2] == "SECONDARY opf=WRITE addr=0x1000 value=255"
    with pytest.raises(ProgramError, match="is not a byte"):
        p.secondary(0x1000, 256)


def test_a_program_reads_through_the_secondary_mmu():
    with machine(cpus=1, mmu_notifier=1) as segment:
        cpu = _fast.Cpu(segment.address, 0)
        p = Program()
        p.exec(1)
        p.mmap(0, PAGE, RW, ANON, dst=1)
        p.notifier()
        p.secondary(5, 9, base=1)
        p.load(5, base=1, expect=9)
        p.store(5, 11, base=1)
        p.secondary(5, base=1, dst=2)
        p.mmap(1 << 40, PAGE, RW, ANON | 0x10)
        p.lea(3, base=2, scale=PAGE, value=(1 << 40) - 11 * PAGE)
        p.store(0, 1, base=3)               # fails unless R[2] is 11
        records = p.array()
        segment.view("insn")[: len(records)] = records
        segment.view("cpu")["program_len"][0] = len(records)
        assert cpu.run() == 0
        assert (counter(segment, "secondary_fill"), counter(segment, "secondary_hit")) == (1, 1)
        assert _fast.check(segment.address) == []
        cpu.exit()
