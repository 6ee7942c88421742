"""Truncation: what is beyond a file's end is nowhere, and what a memfd does is done here."""

import ctypes
import errno
import faulthandler
import mmap as m
import os
from contextlib import contextmanager

import pytest

from shmm import Machine
from shmm.machine import BusError

PAGE, RW, FIXED = 4096, m.PROT_READ | m.PROT_WRITE, 0x10
SHARED, PRIVATE = m.MAP_SHARED | FIXED, m.MAP_PRIVATE | FIXED
ARENA, ELSEWHERE = 0x2000_0000_0000, 0x2000_1000_0000


@pytest.fixture(params=["spf", "mmap_lock"])
def machine(request):
    with Machine(cpus=3, scheme=request.param, memory="1MiB", paranoid=1) as made:
        yield made
        assert made.check() == []


@contextmanager
def fails_with(number: int):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number


def mapped(machine, pages, flags):
    """(file, address) of a new file."""
    file = machine.file(pages, shmem=True, capacity=16)
    return file, machine.mmap(ARENA, pages * PAGE, RW, flags, file=file)


@pytest.mark.parametrize("flags", [SHARED, PRIVATE])
def test_what_is_beyond_the_end_is_gone_and_comes_back_as_zeros(machine, flags):
    file, a = mapped(machine, 4, flags)
    for page in range(4):
        machine.write(a + page * PAGE, b"x")
    machine.truncate(file, 2 * PAGE)
    assert machine.check() == []
    assert machine.read(a + PAGE, 1) == b"x"
    for page in (2, 3):
        with pytest.raises(BusError):
            machine.read(a + page * PAGE, 1)
        with pytest.raises(BusError):
            machine.write(a + page * PAGE, b"y")
    machine.truncate(file, 4 * PAGE)
    assert machine.read(a + 2 * PAGE, 1) == b"\0"
    assert machine.read(a + PAGE, 1) == b"x"


class Memfd:
    """The same steps on this machine's kernel."""

    def __init__(self, size):
        self.fd = os.memfd_create("files")
        os.ftruncate(self.fd, size)
        self.shared, self.private = m.mmap(self.fd, PAGE), m.mmap(self.fd, PAGE, flags=m.MAP_PRIVATE)

    def truncate(self, size):
        os.ftruncate(self.fd, size)

    def read(self, name, at):
        return getattr(self, name)[at]

    def write(self, name, at, value):
        getattr(self, name)[at] = value


class Emulated:
    def __init__(self, machine, size):
        self.machine, self.file = machine, machine.file(-(-size // PAGE), shmem=True, capacity=8)
        self.shared = machine.mmap(ARENA, PAGE, RW, SHARED, file=self.file)
        self.private = machine.mmap(ELSEWHERE, PAGE, RW, PRIVATE, file=self.file)

    def truncate(self, size):
        self.machine.truncate(self.file, size)

    def read(self, name, at):
        return self.machine.read(getattr(self, name) + at, 1)[0]

    def write(self, name, at, value):
        self.machine.write(getattr(self, name) + at, bytes([value]))


def test_the_last_page_as_on_a_memfd(machine):
    """Growing keeps what is behind the end, everything else zeroes it; a private copy stays as it is."""
    found = []
    for world in (Memfd(PAGE), Emulated(machine, PAGE)):
        seen = []
        for size, name, at in ((100, "shared", 200), (5000, "shared", 200), (60, "shared", 200), (60, "private", 10),
                               (30, "private", 90), (20, "shared", 50), (100, "shared", 21), (2 * PAGE, "private", 3),
                               (0, "", 0), (PAGE, "shared", 1), (PAGE, "private", 2), (PAGE - 1, "shared", PAGE - 1)):
            world.truncate(size)
            if name:
                seen.append([world.read(which, offset) for which in ("shared", "private")
                             for offset in (1, 10, 50, 90, 200)])
                world.write(name, at, 7 + len(seen))
        found.append(seen)
    assert found[0] == found[1]


def test_errors(machine):
    file = machine.file(2, capacity=4)
    machine.truncate(file, 4 * PAGE)
    with fails_with(errno.EFBIG):
        machine.truncate(file, 4 * PAGE + 1)
    with fails_with(errno.EINVAL):
        machine.truncate(file, -1)
    for none in (0, 200, 4000):
        with fails_with(errno.EBADF):
            machine.truncate(none, 0)
    machine.truncate(file, 0)                   # an empty file can be mapped
    machine.mmap(ARENA, PAGE, RW, SHARED, file=file)
    with pytest.raises(BusError):
        machine.read(ARENA, 1)


def test_every_address_space_loses_the_pages(machine):
    """The child has copies of the parent's ptes and a private copy of its own; each maps the file at another offset."""
    file, a = mapped(machine, 4, PRIVATE)
    machine.write(a + 3 * PAGE, b"p")
    b = machine.mmap(ELSEWHERE, 2 * PAGE, RW, SHARED, file=file, offset=2 * PAGE)
    assert machine.read(b, 1) == b"\0"
    child = machine.fork()
    child.write(a + 3 * PAGE, b"c")
    machine.truncate(file, 2 * PAGE)
    for space in (machine, child):
        for at in (a + 2 * PAGE, a + 3 * PAGE, b, b + PAGE):
            with pytest.raises(BusError):
                space.read(at, 1)
        assert space.read(a, 1) == b"\0"
    assert machine.check() == []
    child.close()


def test_pieces_and_moved_mappings_are_found(machine):
    file, a = mapped(machine, 8, SHARED)
    for page in range(8):
        machine.write(a + page * PAGE, b"x")
    machine.mprotect(a + 5 * PAGE, PAGE, m.PROT_READ)           # three pieces
    machine.munmap(a + 2 * PAGE, PAGE)
    moved = machine.mremap(a + 6 * PAGE, 2 * PAGE, 2 * PAGE, 3, ELSEWHERE)
    machine.mprotect(a + 5 * PAGE, PAGE, RW)                    # merged with the piece before
    machine.truncate(file, 4 * PAGE)
    assert machine.check() == []
    assert [machine.read(a + page * PAGE, 1) for page in (0, 1, 3)] == [b"x"] * 3
    for at in (a + 4 * PAGE, a + 5 * PAGE, moved, moved + PAGE):
        with pytest.raises(BusError):
            machine.read(at, 1)


def test_the_list_of_mappings(machine):
    """What unmapping, replacing, splitting and merging leave in it is what there is."""
    def listed():
        rows, found = machine.segment.view("vma"), []
        vma = int(machine.segment.view("file")[file]["i_mmap"])
        while vma:
            found.append((int(rows[vma]["start"]), int(rows[vma]["end"])))
            vma = int(rows[vma]["i_mmap_next"])
        return sorted(found)

    file, a = mapped(machine, 8, SHARED)
    assert listed() == [(a, a + 8 * PAGE)]
    machine.munmap(a + 3 * PAGE, PAGE)
    assert listed() == [(a, a + 3 * PAGE), (a + 4 * PAGE, a + 8 * PAGE)]
    machine.mmap(a + 3 * PAGE, PAGE, RW, SHARED, file=file, offset=3 * PAGE)
    assert listed() == [(a, a + 8 * PAGE)]
    machine.mprotect(a, 2 * PAGE, m.PROT_READ)
    machine.mprotect(a + 2 * PAGE, PAGE, m.PROT_READ)           # a part moves to its neighbour
    assert listed() == [(a, a + 3 * PAGE), (a + 3 * PAGE, a + 8 * PAGE)]
    machine.munmap(a, 8 * PAGE)
    assert listed() == []


def test_the_host_does_the_same_when_it_shrinks_to_nothing():
    """SIGBUS is what a real access beyond the end is, and what the emulated one raises."""
    fd = os.memfd_create("sigbus")
    os.ftruncate(fd, PAGE)
    view = m.mmap(fd, PAGE)
    os.ftruncate(fd, 0)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        ctypes.string_at(ctypes.addressof(ctypes.c_char.from_buffer(view)), 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 7


def test_truncations_are_counted(machine):
    file, _ = mapped(machine, 4, SHARED)
    for size in (3 * PAGE, PAGE, 4 * PAGE):
        machine.truncate(file, size)
    assert machine.counters()["truncate"] == 3
