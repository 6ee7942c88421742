"""maps: the kernel's own lines, reproduced byte for byte, and a hand-made list of VMAs printed like one."""

import subprocess
import sys
from pathlib import Path

import pytest

from shmm.layout import CONSTANTS
from shmm.maps import Area, areas, format_line, format_maps
from shmm.segment import Geometry, Segment

READ, WRITE, EXEC = CONSTANTS["VM_READ"], CONSTANTS["VM_WRITE"], CONSTANTS["VM_EXEC"]
SHARED, MAYSHARE = CONSTANTS["VM_SHARED"], CONSTANTS["VM_MAYSHARE"]


def parse(line: str) -> Area:
    """One of the kernel's lines; its path is all that follows the inode's padding."""
    addresses, perms, offset, dev, rest = line.split(" ", 4)
    start, end = (int(text, 16) for text in addresses.split("-"))
    major, minor = (int(text, 16) for text in dev.split(":"))
    inode, _, path = rest.partition(" ")
    return Area(start, end, perms, int(offset, 16), (major, minor), int(inode), path.lstrip(" "))


def output_of(code: str, path: Path) -> str:
    """What another Python, given this code and path, prints."""
    command = [sys.executable, "-c", code, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernel_lines(text: str) -> None:
    """Asserts that every line comes back as the kernel wrote it."""
    lines = text.splitlines()
    assert lines
    assert [format_line(*parse(line)) for line in lines] == lines


def test_the_lines_of_this_process_are_reproduced():
    with open("/proc/self/maps") as file:
        kernel_lines(file.read())


def test_shared_memory_deleted_files_and_odd_names_are_reproduced(tmp_path):
    code = ("import mmap, sys\n"
            "with open(sys.argv[1], 'w+b') as f:\n"
            "    f.write(bytes(12288)); f.flush()\n"
            "    keep = [mmap.mmap(f.fileno(), 4096, offset=8192), mmap.mmap(-1, 1 << 20)]\n"
            "    keep.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0))\n"
            "print(open('/proc/self/maps').read(), end='')")
    text = output_of(code, tmp_path / "a name of several words")
    assert "a name of several words" in text
    assert "/dev/zero (deleted)" in text
    kernel_lines(text)


def test_a_newline_in_a_name_is_escaped_as_the_kernel_does(tmp_path):
    path = tmp_path / "two\nlines"
    code = ("import mmap, sys\n"
            "with open(sys.argv[1], 'w+b') as f:\n"
            "    f.write(bytes(4096)); f.flush()\n"
            "    keep = mmap.mmap(f.fileno(), 4096)\n"
            "print(open('/proc/self/maps').read(), end='')")
    line = next(line for line in output_of(code, path).splitlines() if "two" in line)
    assert format_line(*parse(line)._replace(path=str(path))) == line


@pytest.mark.parametrize("area, line", [
    (Area(0x1000, 0x2000, "r--p"), "00001000-00002000 r--p 00000000 00:00 0 "),
    (Area(0x7ffff7ffe000, 0x7ffff7fff000, "rw-s", 0x3000, (0xfe, 0), 12, "/file/12"),
     "7ffff7ffe000-7ffff7fff000 rw-s 00003000 fe:00 12                         /file/12"),
    (Area(0xffffffffff600000, 0xffffffffff601000, "--xp", path="[vsyscall]"),
     "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]"),
])
def test_lines(area, line):
    assert format_line(*area) == line
    assert parse(line) == area


@pytest.fixture
def segment():
    """Room for three address spaces; mm 2 has a hand-made list, in an order unlike that of its slots."""
    with Segment.create(Geometry.for_run(cpus=1, pages=16, mms=3)) as made:
        space, vmas, files = made.view("mm")[2], made.view("vma"), made.view("file")
        space["start_brk"], space["brk"], space["vma_first"] = 0x10000, 0x13000, 7
        files[3]["shmem"] = 1
        for slot, following, start, end, flags, pgoff, file in [
            (7, 3, 0x10000, 0x13000, READ | WRITE, 0x10, 0),
            (3, 9, 0x13000, 0x14000, 0, 0x13, 0),
            (9, 4, 0x7f0000000000, 0x7f0000002000, READ | EXEC, 5, 2),
            (4, 5, 0x7f0000002000, 0x7f0000003000, READ | WRITE | SHARED | MAYSHARE, 0, 3),
            (5, 0, 0x7f0000003000, 0x7f0000004000, READ | WRITE, 0x7f0000003, 0),
        ]:
            vma = vmas[slot]
            vma["start"], vma["end"], vma["next"] = start, end, following
            vma["flags"], vma["pgoff"], vma["file"] = flags, pgoff, file
        del space, vmas, files, vma
        yield made


def test_a_list_of_vmas_is_printed_in_its_order(segment):
    assert format_maps(segment, 2) == (
        "00010000-00013000 rw-p 00000000 00:00 0                                  [heap]\n"
        "00013000-00014000 ---p 00000000 00:00 0 \n"
        "7f0000000000-7f0000002000 r-xp 00005000 fe:00 2                          /file/2\n"
        "7f0000002000-7f0000003000 rw-s 00000000 00:01 3                          /dev/zero (deleted)\n"
        "7f0000003000-7f0000004000 rw-p 00000000 00:00 0 \n"
    )


def test_an_empty_address_space_prints_nothing(segment):
    assert format_maps(segment, 1) == ""


def test_a_slot_that_does_not_exist_is_refused(segment):
    for mm in (0, 4):
        with pytest.raises(ValueError, match=rf"there is no address space {mm}: the segment has 1\.\.3"):
            format_maps(segment, mm)


def test_a_list_that_never_ends_is_noticed(segment):
    segment.view("vma")[5]["next"] = 7
    with pytest.raises(RuntimeError, match="address space 2: the list of VMAs has a cycle"):
        areas(segment, 2)
