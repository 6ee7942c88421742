"""The Machine: system calls, accesses and the errors of both (test_machine_model.py has random sequences)."""

import errno
import mmap as m
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

import shmm
from shmm import BusError, Machine, SegmentationFault
from shmm.layout import COUNTERS
from shmm.machine import FaultError, parse_size
from shmm.segment import SegmentError

PAGE = 4096
ANON = m.MAP_PRIVATE | m.MAP_ANONYMOUS
RW = m.PROT_READ | m.PROT_WRITE
FIXED = 0x10


@pytest.fixture(params=["spf", "mmap_lock"])
def machine(request):
    with Machine(cpus=3, scheme=request.param, memory="1MiB", paranoid=1) as made:
        yield made
        assert made.check() == []


@contextmanager
def fails_with(number: int):
    """The system call within fails with this errno, and its message says what it means."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number
    assert os.strerror(number) in str(caught.value)


# ---- the package -------------------------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy():
    code = ("import sys, shmm; heavy = {'numpy', 'multiprocess', 'shmm.cluster', 'rich'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
            "shmm.Machine, shmm.Program, shmm.Segment, shmm.BusError, shmm.SegmentationFault\n"
            "heavy = {'multiprocess', 'shmm.cluster', 'rich'} & set(sys.modules)\n"
            "assert not heavy, heavy")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_what_it_names():
    assert set(shmm.__all__) <= set(dir(shmm))
    assert all(getattr(shmm, name).__name__ == name for name in shmm.__all__)
    with pytest.raises(AttributeError, match="module 'shmm' has no attribute 'Kernel'"):
        _ = shmm.Kernel


@pytest.mark.parametrize("size, expected", [
    ("64MiB", 64 << 20), ("64M", 64 << 20), ("64mb", 64 << 20), ("1.5 GiB", 3 << 29), ("4096", 4096),
    (123, 123), ("2K", 2048), ("1TiB", 1 << 40), ("512B", 512),
])
def test_sizes(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "MiB", "-1", "64 cows", "1e6"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="is not a size: write 64MiB"):
        parse_size(size)


@pytest.mark.parametrize("arguments, message", [
    ({"scheme": "none"}, "scheme 'none' does not exist, choose from mmap_lock, spf"),
    ({"walk": "rcu"}, "walk rcu needs table_free rcu"),
    ({"ipi": "signal"}, "use shmm.cluster"),
    ({"memory": "100B"}, "memory '100B' is less than a page"),
    ({"cpus": 0}, "ncpu is 0"),
    ({"colour": 3}, "there is no policy 'colour'"),
])
def test_machines_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Machine(**arguments)


# ---- system calls and accesses -----------------------------------------------------------------------------


def test_what_one_cpu_writes_another_reads(machine):
    a = machine.mmap(None, 3 * PAGE, RW, ANON)
    data = bytes(range(256)) * 40
    machine.write(a + 100, data, cpu=0)
    assert machine.read(a + 100, len(data), cpu=1) == data
    assert machine.read(a, 100, cpu=2) == bytes(100)
    assert machine.read(a, 0) == b""


def test_maps_shows_what_was_mapped(machine):
    a = machine.mmap(None, 2 * PAGE, RW, ANON, cpu=1)
    assert machine.maps() == f"{a:x}-{a + 2 * PAGE:x} rw-p 00000000 00:00 0 \n"
    machine.mprotect(a, PAGE, m.PROT_READ, cpu=2)
    assert machine.maps() == (
        f"{a:x}-{a + PAGE:x} r--p 00000000 00:00 0 \n{a + PAGE:x}-{a + 2 * PAGE:x} rw-p 00000000 00:00 0 \n"
    )
    machine.munmap(a, 2 * PAGE, cpu=0)
    assert machine.maps() == ""


def test_no_cpu_reaches_a_page_that_another_unmapped(machine):
    a = machine.mmap(None, PAGE, RW, ANON)
    for cpu in range(3):
        machine.write(a, b"x", cpu=cpu)
    machine.munmap(a, PAGE, cpu=1)
    for cpu in range(3):
        with pytest.raises(SegmentationFault) as caught:
            machine.read(a, 1, cpu=cpu)
        assert (caught.value.address, caught.value.access) == (a, "read")
        assert str(caught.value) == f"segmentation fault: read at {a:#x}"


def test_no_cpu_writes_a_page_that_another_made_read_only(machine):
    a = machine.mmap(None, 2 * PAGE, RW, ANON)
    for cpu in range(3):
        machine.write(a, bytes(2 * PAGE), cpu=cpu)
    machine.mprotect(a + PAGE, PAGE, m.PROT_READ)
    for cpu in range(3):
        with pytest.raises(SegmentationFault) as caught:
            machine.write(a + PAGE - 2, b"four", cpu=cpu)
        assert (caught.value.address, caught.value.access) == (a + PAGE, "write")
        assert machine.read(a + PAGE - 2, 4, cpu=cpu) == b"fo\0\0"


def test_a_page_without_access_can_be_neither_read_nor_written(machine):
    a = machine.mmap(None, PAGE, RW, ANON)
    machine.write(a, b"kept")
    machine.mprotect(a, PAGE, 0)
    for access in (lambda: machine.read(a, 1), lambda: machine.write(a, b"x"), lambda: machine.touch(a, 1)):
        with pytest.raises(SegmentationFault):
            access()
    machine.mprotect(a, PAGE, m.PROT_READ)
    assert machine.read(a, 4) == b"kept"


def test_faults_are_no_system_call_errors():
    assert not issubclass(FaultError, OSError)
    assert issubclass(SegmentationFault, FaultError) and issubclass(BusError, FaultError)


def test_touch_counts_faults(machine):
    a = machine.mmap(None, 16 * PAGE, RW, ANON)
    assert machine.touch(a, 16 * PAGE, cpu=1) == 16
    assert machine.touch(a, 16 * PAGE, cpu=1) == 0
    assert machine.touch(a, 16 * PAGE, write=False, cpu=1) == 0
    counters = machine.counters()
    assert tuple(counters) == COUNTERS
    assert counters["user_faults"] == 16
    assert counters["mmap"] == 1


def test_speculation_happens_under_spf_only(machine):
    a = machine.mmap(None, 64 * PAGE, RW, ANON)
    machine.touch(a, 64 * PAGE)
    counters = machine.counters()
    scheme = int(machine.segment.view("seg")["scheme"])
    assert (counters["spf_success"] > 0) == (counters["spf_attempt"] > 0) == bool(scheme)
    assert counters["spf_attempt"] == counters["spf_success"] + counters["spf_abort"]


def test_discarded_pages_are_zero_again(machine):
    a = machine.mmap(None, 2 * PAGE, RW, ANON)
    machine.write(a, b"x" * 2 * PAGE)
    machine.madvise(a, PAGE, m.MADV_DONTNEED, cpu=2)
    assert machine.read(a, 2 * PAGE) == bytes(PAGE) + b"x" * PAGE


@pytest.mark.parametrize("number, call", [
    (errno.EINVAL, lambda k, a: k.mmap(None, 0, RW, ANON)),
    (errno.EINVAL, lambda k, a: k.mmap(a + 1, PAGE, RW, ANON | FIXED)),
    (errno.EBADF, lambda k, a: k.mmap(None, PAGE, RW, m.MAP_PRIVATE)),
    (errno.EEXIST, lambda k, a: k.mmap(a, PAGE, RW, ANON | 0x100000)),      # MAP_FIXED_NOREPLACE
    (errno.EINVAL, lambda k, a: k.munmap(a + 1, PAGE)),
    (errno.EINVAL, lambda k, a: k.munmap(a, 0)),
    (errno.EINVAL, lambda k, a: k.mprotect(a + 1, PAGE, RW)),
    (errno.ENOMEM, lambda k, a: k.mprotect(a - PAGE, PAGE, RW)),
    (errno.ENOMEM, lambda k, a: k.madvise(a - PAGE, PAGE, m.MADV_DONTNEED)),
    (errno.EINVAL, lambda k, a: k.madvise(a, PAGE, 12345)),
    (errno.ENOMEM, lambda k, a: k.mmap(None, 1 << 48, RW, ANON)),
])
def test_system_calls_fail_as_the_kernels_do(machine, number, call):
    a = machine.mmap(None, PAGE, RW, ANON)
    with fails_with(number):
        call(machine, a)


def test_the_heap_grows_and_shrinks(machine):
    start = machine.brk()
    assert machine.brk(start + 3 * PAGE, cpu=1) == start + 3 * PAGE
    machine.write(start, b"heap", cpu=2)
    assert machine.maps().splitlines() == [
        f"{start:x}-{start + 3 * PAGE:x} rw-p 00000000 00:00 0                          [heap]"
    ]
    assert machine.brk() == start + 3 * PAGE
    with fails_with(errno.ENOMEM):
        machine.brk(start - PAGE)
    machine.brk(start)
    assert machine.maps() == ""
    with pytest.raises(SegmentationFault):
        machine.read(start, 1)


def test_a_private_file_mapping_keeps_its_writes(machine):
    file = machine.file(4)
    shared = machine.mmap(None, 4 * PAGE, RW, m.MAP_SHARED, file=file)
    private = machine.mmap(None, 2 * PAGE, RW, m.MAP_PRIVATE, file=file, offset=PAGE)
    machine.write(shared + PAGE, b"one", cpu=0)
    assert machine.read(private, 3, cpu=1) == b"one"
    machine.write(private, b"two", cpu=1)
    assert machine.read(shared + PAGE, 3, cpu=2) == b"one"
    assert machine.read(private, 3, cpu=2) == b"two"
    lines = machine.maps()
    assert f"rw-s 00000000 fe:00 {file} " in lines and f"rw-p 00001000 fe:00 {file} " in lines


def test_past_the_end_of_a_file_is_a_bus_error(machine):
    a = machine.mmap(None, 4 * PAGE, RW, m.MAP_SHARED, file=machine.file(2))
    machine.write(a, bytes(2 * PAGE))
    for access, call in (("read", lambda: machine.read(a + 2 * PAGE, 1)),
                         ("write", lambda: machine.write(a + 2 * PAGE, b"x"))):
        with pytest.raises(BusError) as caught:
            call()
        assert (caught.value.address, caught.value.access) == (a + 2 * PAGE, access)


def test_files_run_out_with_a_clear_message(machine):
    with pytest.raises(OSError, match="no room for another file") as caught:
        machine.file(1 << 30)
    assert caught.value.errno == errno.ENFILE


def test_more_than_the_memory_fails_and_gives_back(machine):
    pages = len(machine.segment.view("frame")) + 10
    a = machine.mmap(None, pages * PAGE, RW, ANON)
    with fails_with(errno.ENOMEM):
        machine.touch(a, pages * PAGE)
    machine.munmap(a, pages * PAGE)
    b = machine.mmap(None, 64 * PAGE, RW, ANON)
    assert machine.touch(b, 64 * PAGE) == 64


# ---- address spaces ----------------------------------------------------------------------------------------


def test_a_fork_shares_pages_until_one_side_writes(machine):
    a = machine.mmap(None, 2 * PAGE, RW, ANON)
    machine.write(a, b"parent")
    child = machine.fork()
    machine.attach(child, cpu=1)
    assert machine.maps(child) == machine.maps(1) != ""
    assert machine.read(a, 6, cpu=1) == b"parent"
    machine.write(a, b"child!", cpu=1)
    assert machine.read(a, 6, cpu=0) == b"parent"
    machine.write(a, b"PARENT", cpu=2)
    assert machine.read(a, 6, cpu=1) == b"child!"
    machine.munmap(a, 2 * PAGE, cpu=1)
    assert machine.read(a, 6, cpu=0) == b"PARENT"


def test_a_child_that_nobody_runs_is_no_leak():
    with Machine(cpus=1, memory="1MiB") as machine:
        a = machine.mmap(None, PAGE, RW, ANON)
        machine.write(a, b"x")
        machine.fork()


def test_address_spaces_run_out_with_a_clear_message():
    with Machine(cpus=1, memory="1MiB", address_spaces=2) as machine:
        machine.fork()
        with pytest.raises(ValueError, match="make the machine with more address_spaces"):
            machine.fork()


# ---- the end -----------------------------------------------------------------------------------------------


def test_cpus_that_do_not_exist_and_machines_that_are_closed():
    machine = Machine(cpus=2, memory="1MiB")
    for cpu in (-1, 2):
        with pytest.raises(ValueError, match=rf"there is no CPU {cpu}: the machine has 0\.\.1"):
            machine.read(0, 1, cpu=cpu)
    machine.close()
    machine.close()
    for use in (machine.maps, machine.counters, machine.check, machine.brk, lambda: machine.touch(0, 1)):
        with pytest.raises(ValueError, match="the machine is closed"):
            use()


def test_views_that_are_still_held_stop_the_close():
    machine = Machine(cpus=1, memory="1MiB")
    held = machine.segment.view("frame")
    with pytest.raises(SegmentError, match="drop them"):
        machine.close()
    del held
    machine.close()


def test_a_lost_frame_is_named():
    machine = Machine(cpus=1, memory="1MiB")
    a = machine.mmap(None, PAGE, RW, ANON)
    machine.write(a, b"lost")
    frames = machine.segment.view("frame")
    lost = int((frames["kind"] == 1).nonzero()[0][0])
    frames["refs"][lost] += 1           # a reference that nobody will give back
    with pytest.raises(RuntimeError, match=rf"1 frames leaked: {lost} \(anonymous, 1 references\)"), machine:
        pass


def test_an_error_in_the_block_is_worth_more_than_a_leak():
    with pytest.raises(ZeroDivisionError), Machine(cpus=1, memory="1MiB") as machine:
        a = machine.mmap(None, PAGE, RW, ANON)
        machine.write(a, b"lost")
        machine.segment.view("frame")["refs"][1:20] += 1
        assert 1 / 0
