"""userfaultfd: what is registered is answered by the program, and nobody waits for ever."""

import errno
import mmap as m
import os
import time
from contextlib import contextmanager, suppress

import pytest
from rooms.crew import counter, crew

from shmm import Machine, _fast
from shmm.layout import CONSTANTS
from shmm.paging import COPY_WP, DONTWAKE, MISSING, WP
from shmm.program import Program
from shmm.segment import Geometry, Segment, SegmentError

PAGE, RW, FIXED = 4096, m.PROT_READ | m.PROT_WRITE, 0x10
ANON = m.MAP_PRIVATE | m.MAP_ANONYMOUS
ARENA = 0x2000_0000_0000
VM_MISSING, VM_WP = CONSTANTS["VM_UFFD_MISSING"], CONSTANTS["VM_UFFD_WP"]
PAGES = 64                              # of the concurrent runs


@pytest.fixture(params=["spf", "mmap_lock"])
def machine(request):
    with Machine(cpus=3, scheme=request.param, memory="1MiB", swap="64KiB", paranoid=1) as made:
        yield made
        assert made.check() == []


def mapped(machine: Machine, pages: int) -> int:
    return machine.mmap(ARENA, pages * PAGE, RW, ANON | FIXED)


@contextmanager
def fails_with(number: int):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number


@contextmanager
def must_be_answered():
    """The access within cannot go on, and says what to do."""
    with pytest.raises(OSError, match="waits for userfaultfd: answer it") as caught:
        yield
    assert caught.value.errno == errno.EAGAIN


def lines(machine: Machine) -> list[str]:
    return [line.split()[0][6:] for line in machine.maps().splitlines()]


# ---- missing pages -------------------------------------------------------------------------------------------


def test_a_fault_waits_for_its_page(machine):
    a = mapped(machine, 3)
    machine.userfault(a, 2 * PAGE)
    assert machine.uffd_read() is None
    with must_be_answered():
        machine.write(a + PAGE + 5, b"x", cpu=2)
    assert machine.uffd_read(cpu=1) == (a + PAGE, VM_MISSING, 2)
    assert machine.uffd_read() is None                      # told once
    machine.uffd_copy(a + PAGE, PAGE, 7, cpu=1)
    machine.write(a + PAGE + 5, b"x", cpu=2)
    assert machine.read(a + PAGE + 4, 3) == b"\x07x\x07"
    machine.write(a + 2 * PAGE, b"y")                       # not registered
    assert machine.counters()["userfaults"] == 1


def test_a_load_waits_too_and_pages_of_zeros_do(machine):
    a = mapped(machine, 1)
    machine.userfault(a, PAGE)
    with must_be_answered():
        machine.read(a, 1)
    machine.uffd_zeropage(a, PAGE)
    assert machine.read(a, 1) == b"\0"
    machine.write(a, b"z")                                  # copy-on-write of the page of zeros: not missing
    assert machine.read(a, 1, cpu=1) == b"z"


def test_messages_come_in_order_and_an_access_tried_again_has_one(machine):
    a = mapped(machine, 3)
    machine.userfault(a, 3 * PAGE)
    for cpu, page in ((2, 0), (0, 1), (2, 2)):              # CPU 2 gives its first access up
        with must_be_answered():
            machine.touch(a + page * PAGE, PAGE, cpu=cpu)
    assert machine.uffd_read() == (a + PAGE, VM_MISSING, 0)
    assert machine.uffd_read() == (a + 2 * PAGE, VM_MISSING, 2)
    assert machine.uffd_read() is None
    machine.uffd_wake(a, 3 * PAGE)
    with must_be_answered():                                # nothing has changed
        machine.touch(a, PAGE, cpu=2)


def test_what_is_dropped_is_missing_again(machine):
    a = mapped(machine, 1)
    machine.write(a, b"1")
    machine.userfault(a, PAGE)
    assert machine.read(a, 1) == b"1"
    machine.madvise(a, PAGE, m.MADV_DONTNEED)
    with must_be_answered():
        machine.read(a, 1)


def test_the_end_of_registration_lets_go(machine):
    a = mapped(machine, 1)
    machine.userfault(a, PAGE)
    with must_be_answered():
        machine.touch(a, PAGE, cpu=1)
    machine.userfault(a, PAGE, missing=False)
    assert machine.uffd_read() is None
    assert machine.touch(a, PAGE, cpu=1) == 1


def test_leaving_the_address_space_gives_the_access_up(machine):
    a = mapped(machine, 1)
    child = machine.fork()
    machine.userfault(a, PAGE)
    with must_be_answered():
        machine.touch(a, PAGE, cpu=1)
    machine.attach(child, cpu=1)
    assert machine.uffd_read() is None


def test_speculation_refuses_what_is_registered():
    with Machine(cpus=2, scheme="spf", memory="1MiB", paranoid=1) as machine:
        a = mapped(machine, 4)
        machine.write(a + 3 * PAGE, b"1")                   # table and anon_vma exist
        machine.userfault(a, 3 * PAGE, wp=True)
        for access in (lambda: machine.read(a, 1), lambda: machine.touch(a, PAGE)):
            with must_be_answered():
                access()
        assert machine.counters()["SPF_ABORT_USERFAULTFD"] == 2
        machine.uffd_copy(a, PAGE, wp=True)
        with must_be_answered():
            machine.touch(a, PAGE)
        counters = machine.counters()
        assert counters["SPF_ABORT_USERFAULTFD"] == 3 and counters["SPF_ATTEMPT_WP"] == 1
        assert machine.uffd_read() == (a, VM_WP, 0)
        assert machine.check() == []


# ---- write-protection ----------------------------------------------------------------------------------------


def test_a_store_to_a_protected_page_waits(machine):
    a = mapped(machine, 2)
    machine.write(a, b"1")
    machine.userfault(a, 2 * PAGE, missing=False, wp=True)
    machine.uffd_writeprotect(a, 2 * PAGE)
    assert machine.read(a, 1) == b"1"
    with must_be_answered():
        machine.write(a, b"2", cpu=1)
    assert machine.uffd_read() == (a, VM_WP, 1)
    machine.uffd_writeprotect(a, PAGE, False)
    assert machine.touch(a, PAGE, cpu=1) == 0               # writable at once
    machine.write(a + PAGE, b"3")                           # there was no page to protect


def test_protection_outlives_mprotect_and_swap_and_hints(machine):
    a = mapped(machine, 1)
    machine.write(a, b"1")
    machine.userfault(a, PAGE, missing=False, wp=True)
    machine.uffd_writeprotect(a, PAGE)
    machine.mprotect(a, PAGE, m.PROT_READ)
    machine.mprotect(a, PAGE, RW)
    with must_be_answered():
        machine.write(a, b"2")
    machine.numa(a, PAGE)
    with must_be_answered():
        machine.write(a, b"2")
    machine.madvise(a, PAGE, 21)
    assert machine.counters()["pswpout"] == 1
    with must_be_answered():
        machine.write(a, b"2")
    machine.madvise(a, PAGE, 21)
    machine.uffd_writeprotect(a, PAGE, False)               # of a page that is swapped out
    machine.write(a, b"2")
    assert machine.read(a, 1, cpu=1) == b"2"


def test_the_end_of_registration_ends_protection(machine):
    a = mapped(machine, 1)
    machine.write(a, b"1")
    machine.userfault(a, PAGE, wp=True)
    machine.uffd_writeprotect(a, PAGE)
    machine.userfault(a, PAGE)                              # for missing pages only, from now on
    assert machine.touch(a, PAGE) == 0
    machine.userfault(a, PAGE, wp=True)
    assert machine.touch(a, PAGE) == 0


def test_a_child_is_not_registered(machine):
    a = mapped(machine, 2)
    machine.write(a, b"1")
    machine.userfault(a, 2 * PAGE, wp=True)
    machine.uffd_writeprotect(a, PAGE)
    child = machine.fork()
    machine.attach(child, cpu=1)
    machine.write(a, b"2", cpu=1)
    assert machine.touch(a + PAGE, PAGE, cpu=1) == 1
    with must_be_answered():
        machine.write(a, b"3")
    assert machine.read(a, 1) == b"1"


# ---- ranges and errors: what Linux 6.18 says -----------------------------------------------------------------


def test_registration_splits_and_merges(machine):
    a = mapped(machine, 8)
    machine.userfault(a + 2 * PAGE, 2 * PAGE)
    assert lines(machine) == ["000000-200000002000", "002000-200000004000", "004000-200000008000"]
    machine.userfault(a + 4 * PAGE, 2 * PAGE)
    assert lines(machine) == ["000000-200000002000", "002000-200000006000", "006000-200000008000"]
    machine.userfault(a + 3 * PAGE, PAGE, missing=False, wp=True)
    assert len(lines(machine)) == 5
    machine.userfault(a + 2 * PAGE, 4 * PAGE)
    assert len(lines(machine)) == 3
    machine.userfault(a, 100 * PAGE, missing=False)
    assert lines(machine) == ["000000-200000008000"]


def test_errors_of_registration(machine):
    a = mapped(machine, 3)
    cpu = machine._cpus[0]
    for addr, length, modes in ((a + 1, PAGE, 1), (a, 0, 1), (a, 100, 1), (a, PAGE, 8), (a + 16 * PAGE, PAGE, 1),
                                (a + 16 * PAGE, PAGE, 0), (0, PAGE, 1), (a, 1 << 47, 1)):
        assert cpu.userfault(addr, length, modes) == -errno.EINVAL
    machine.munmap(a + PAGE, PAGE)
    machine.userfault(a, 3 * PAGE)                          # a hole is no error
    file = machine.mmap(a + 8 * PAGE, PAGE, m.PROT_READ, m.MAP_PRIVATE | FIXED, file=machine.file(1))
    with fails_with(errno.EINVAL):
        machine.userfault(file, PAGE)
    assert lines(machine)[-1] == "008000-200000009000"


def test_errors_of_answers(machine):
    a = mapped(machine, 6)
    machine.userfault(a + 2 * PAGE, 2 * PAGE)
    for page, length in ((0, 1), (1, 2), (3, 2)):           # not registered, in part or at all
        with fails_with(errno.ENOENT):
            machine.uffd_copy(a + page * PAGE, length * PAGE)
    machine.uffd_copy(a + 3 * PAGE, PAGE, 1)
    with fails_with(errno.EEXIST):
        machine.uffd_copy(a + 3 * PAGE, PAGE, 2)
    with fails_with(errno.EEXIST):
        machine.uffd_zeropage(a + 3 * PAGE, PAGE)
    with fails_with(errno.EAGAIN):                          # the first page was put in place
        machine.uffd_copy(a + 2 * PAGE, 2 * PAGE, 3)
    assert machine.read(a + 2 * PAGE, 1) + machine.read(a + 3 * PAGE, 1) == b"\x03\x01"
    with fails_with(errno.EINVAL):
        machine.uffd_copy(a + 2 * PAGE, PAGE, wp=True)      # not registered for that
    for start in (a + 2 * PAGE, a):
        with fails_with(errno.ENOENT):
            machine.uffd_writeprotect(start, PAGE)
    for addr, length in ((a + 1, PAGE), (a, 0), (a, 1)):
        for answer in (machine.uffd_wake, machine.uffd_zeropage, machine.uffd_writeprotect, machine.uffd_copy):
            with fails_with(errno.EINVAL):
                answer(addr, length)
    assert machine._cpus[0].uffdio(CONSTANTS["UFFDIO_COPY"], a + 2 * PAGE, PAGE, 0, 8) == -errno.EINVAL
    assert machine._cpus[0].uffdio(99, a + 2 * PAGE, PAGE) == -errno.EINVAL


# ---- CPUs that race --------------------------------------------------------------------------------------------


def faulter(number: int) -> Program:
    """Stores to every page, from the first or from the last on, and finds what was put there beside its own byte."""
    p = Program()
    p.barrier()
    for page in range(PAGES) if number % 2 else reversed(range(PAGES)):
        p.store(ARENA + page * PAGE + 2 * number, 100 + number)
        p.load(ARENA + page * PAGE + 2 * number + 1, expect=9)
    return p


def registered() -> Program:
    """The beginning of whoever answers."""
    p = Program()
    p.mmap(ARENA, PAGES * PAGE, RW, ANON | FIXED)
    p.userfault(ARENA, PAGES * PAGE)
    p.barrier()
    return p


def answer(p: Program) -> None:
    """Answers one fault.  (-EEXIST: one that found its page filled when it looked again.)"""
    p.uffd_read(dst=2)
    p.uffd_copy(0, PAGE, 9, base=2, may_fail=True)


@contextmanager
def running(programs: list[Program], **policy):
    """The programs in a segment, CPU 0 with an address space."""
    geometry = Geometry.for_run(cpus=len(programs), pages=1024, mms=2, insns=8192)
    segment = Segment.create(geometry, shared_core=1, paranoid=1, **policy)
    try:
        at = 0
        for number, program in enumerate(programs):
            records = program.array()
            segment.view("insn")[at:at + len(records)] = records
            segment.view("cpu")["program_first"][number], segment.view("cpu")["program_len"][number] = at, len(records)
            at += len(records)
        segment.view("seg")["barrier_parties"] = len(programs)
        assert _fast.Cpu(segment.address, 0).exec(1) == 0
        yield segment
    finally:
        with suppress(SegmentError):
            segment.close()


def work(segment: Segment, number: int) -> int:
    """CPU `number` runs its program; how it ended."""
    cpu = _fast.Cpu(segment.address, number)
    cpu.online(os.getpid())
    if number:
        cpu.attach(1)
    end = cpu.run()
    segment.view("cpu")["program_len"][number] = 0          # has_ended
    return end


def has_ended(segment: Segment, number: int) -> bool:
    return segment.view("cpu")["program_len"][number] == 0


def all_but_the_first_have_ended(segment: Segment) -> bool:
    return not segment.view("cpu")["program_len"][1:].any()


def sleeps_alone(segment: Segment) -> bool:
    return has_ended(segment, 1) and bool(segment.view("cpu")["state"][0] & CONSTANTS["ASLEEP"])


def stop_when(segment: Segment, condition) -> None:
    while not condition(segment):
        time.sleep(0.001)
    segment.view("seg")["stop"] = 1


def run(segment: Segment, cpus: int, condition) -> list[int]:
    """How the CPUs ended; the run is stopped when the condition holds."""
    ends = crew(lambda: stop_when(segment, condition), *(lambda n=n: work(segment, n) for n in range(cpus)))[1:]
    segment.view("seg")["stop"] = 0
    return ends


def finish(segment: Segment, cpus: int) -> None:
    segment.view("cpu")["host_pid"] = 0                     # those processes are gone: no signals to them
    assert _fast.check(segment.address) == []
    assert counter(segment, "violations") == counter(segment, "unexpected") == 0
    assert not segment.view("cpu")["uffd_wait"].any() and not segment.view("mm")["uffd_head"].any()
    for number in range(cpus):
        _fast.Cpu(segment.address, number).exit()
    _fast.settle(segment.address)
    assert _fast.frames_in_use(segment.address) == 0


@pytest.mark.parametrize("policy", [
    {"scheme": "mmap_lock"}, {"scheme": "spf"}, {"scheme": "spf", "walk": "rcu", "table_free": "rcu"},
    {"scheme": "spf", "ipi": "signal"},
], ids=lambda policy: " ".join(policy.values()))
def test_one_cpu_answers_the_others(policy):
    answers = registered()
    with answers.forever():
        answer(answers)
    with running([answers, *(faulter(n) for n in (1, 2, 3))], **policy) as segment:
        assert run(segment, 4, all_but_the_first_have_ended) == [1, 0, 0, 0]
        assert counter(segment, "userfaults") >= PAGES
        assert (counter(segment, "SPF_ABORT_USERFAULTFD") > 0) == (policy["scheme"] == "spf")
        finish(segment, 4)


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_whoever_waits_for_an_answer_that_never_comes_can_be_stopped(scheme):
    answers = registered()
    for _ in range(3):
        answer(answers)                                     # and no more: it goes away
    with running([answers, faulter(1), faulter(2)], scheme=scheme) as segment:
        assert run(segment, 3, lambda of: of.view("cpu")["uffd_wait"][1:].all()) == [0, 1, 1]
        finish(segment, 3)


def test_whoever_waits_for_a_message_can_be_stopped():
    answers = registered()
    answer(answers)
    idle = Program()
    idle.barrier()
    with running([answers, idle]) as segment:
        assert run(segment, 2, sleeps_alone) == [1, 0]
        finish(segment, 2)


def test_records_are_what_they_say():
    p = Program()
    p.userfault(ARENA, PAGE, MISSING | WP)
    p.uffd_read(dst=3, wait=False)
    p.uffd_copy(0, PAGE, 5, DONTWAKE | COPY_WP, base=3)
    p.uffdio("UNPROTECT", ARENA, PAGE)
    p.numa(ARENA, PAGE)
    assert Program.parse(p.text()) == p
    ops = [line.split()[0] for line in p.text().splitlines()]
    assert ops == ["USERFAULT", "UFFDIO", "UFFDIO", "UFFDIO", "NUMA", "END"]


def test_a_copy_that_wakes_nobody():
    """DONTWAKE: the page is there, and its fault waits until it is woken."""
    answers = registered()
    answers.uffd_read(dst=2, expect=ARENA)
    answers.uffd_copy(0, PAGE, 9, DONTWAKE, base=2)
    with running([answers, faulter(1)]) as segment:
        assert run(segment, 2, lambda of: has_ended(of, 0) and of.view("cpu")["uffd_wait"][1]) == [0, 1]
        finish(segment, 2)
