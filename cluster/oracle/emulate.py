"""The emulated side: an address space made as the host's child has it, and a program executed there.

The address space is itself made by a program, which runs before the compared one: it maps what the child has mapped
(files of the same length stand for libraries), writes where the child has an anon_vma, and then forks, for the child
is a forked one too, and whether an anon_vma has a parent decides what may merge.  One segment serves for program
after program; each must give back every frame, or that is what is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shmm import _fast
from shmm.cluster.oracle.outcome import FILE, ZERO, Area, Outcome, Start, View
from shmm.hostmaps import MOST_PAGES
from shmm.layout import CONSTANTS, COUNTERS
from shmm.maps import areas
from shmm.program import EXPECT, MAY_FAIL, Program, check_records
from shmm.segment import Geometry, Segment

PAGE: Final = CONSTANTS["PAGE_SIZE"]
PARENT, FIRST, SPACES = 6, 1, 8             # slots of address spaces: whose copy runs the program, the program's first
SCRATCH: Final = 0x1300_0000_0000           # free in every address space that programs begin with
FRAMES, CACHE, VMAS = 16384, 65536, 4096
PFN: Final = 0x000F_FFFF_FFFF_F000
SPECIAL: Final = 0x200                      # a pte of the zero page
READ, WRITE, EXEC = 1, 2, 4
SHARED, PRIVATE, FIXED, ANONYMOUS, GROWSDOWN = 1, 2, 0x10, 0x20, 0x100


class SeedError(RuntimeError):
    """The emulated address space could not be made as the host's is: nothing can be compared."""


class Emulated:
    """The native engine, ready for programs that begin as `start` says.  cpus: tasks of a program."""

    def __init__(self, start: Start, scheme: str = "spf", *, records: int = 4096) -> None:
        self.start = start
        geometry = Geometry(ncpu=1, nmm=SPACES, nvma=VMAS, nanon=VMAS, nfile=1024, ncache=CACHE, nframe=FRAMES,
                            ninsn=records)
        self.segment = Segment.private(geometry, scheme=scheme, force_speculation=int(scheme != "mmap_lock"),
                                       stack_growth=1, thp_align=1)
        self.cpu = _fast.Cpu(self.segment.address, 0)
        self.names: dict[int, str] = {}
        self.inside = [(area.start, area.end) for area in start.areas]

    def close(self) -> None:
        """Unmaps the segment."""
        del self.cpu
        self.segment.close()

    def execute(
        self, program: NDArray[Any], files: Sequence[tuple[int, bool]], loaded: Sequence[int] = (), *,
        look: bool = True,
    ) -> Outcome:
        """Runs the program.  loaded: the bytes that its loads are expected to give (-1: none); at the first that
        differs the program ends, and that byte is the last of Outcome.loaded.  look: at absent pages and at other
        address spaces, too."""
        check_records(program)
        prefix = seed(self.start, self._make_files(files), [pages for pages, _ in files]).array()[:-1]
        self._write(prefix, program, loaded)
        populated = self._populated()
        if self.cpu.run() < 0 and not self._ended_in_program(len(prefix)):
            raise SeedError(self._failure(prefix))
        outcome = self._outcome(len(prefix), program, loaded)
        outcome.populated = self._populated() - populated
        look = look and not self.segment.view("cpu")["failed_pc"][0]
        outcome.broken += self._tear_down(outcome, look)
        return outcome

    def _populated(self) -> int:
        return int(self.segment.view("cpu")["counter"][0][COUNTERS.index("gup_faults")])

    # ---- before --------------------------------------------------------------------------------------------

    def _make_files(self, files: Sequence[tuple[int, bool]]) -> dict[int, int]:
        """The program's files, numbered from 1, and after them those that stand for what the child has mapped."""
        self.names = {0: ""}
        for number, (pages, _) in enumerate(files, 1):
            self._make_file(number, pages, True)        # the host's files are memfds, and shared memory to the kernel
            self.names[number] = FILE
        numbers: dict[int, int] = {}
        for number, area in enumerate((area for area in self.start.areas if area.object), len(files) + 1):
            # one each: what the loader mapped of one file never merges, for reasons (accounting) that are not seen here
            self._make_file(number, (area.offset + area.end - area.start) // PAGE, area.path == ZERO)
            self.names[number] = area.path
            numbers[area.start] = number
        return numbers

    def _make_file(self, number: int, pages: int, shmem: bool) -> None:
        if self.cpu.file_new(pages, shmem) != number:
            raise SeedError(f"file {number} of {pages} pages does not fit into the emulated page cache")

    def _write(self, prefix: NDArray[Any], program: NDArray[Any], loaded: Sequence[int]) -> None:
        records, cpus, results = (self.segment.view(name) for name in ("insn", "cpu", "result"))
        end = len(prefix) + len(program)
        if end > len(records):
            raise SeedError(f"{end} records, the segment has room for {len(records)}")
        records[: len(prefix)] = prefix
        records[len(prefix) : end] = program
        for at, byte in enumerate(loaded):
            if byte >= 0:
                records[len(prefix) + at]["expect"] = byte
                records[len(prefix) + at]["opf"] |= EXPECT
        results[:end] = 0
        cpus["program_first"][0], cpus["program_len"][0], cpus["failed_pc"][0] = 0, end, 0

    def _ended_in_program(self, prefix: int) -> bool:
        return int(self.segment.view("cpu")["failed_pc"][0]) > prefix

    def _failure(self, prefix: NDArray[Any]) -> str:
        me = self.segment.view("cpu")[0]
        at = int(me["failed_pc"]) - 1
        record = Program.from_array(prefix[at : at + 1]).text().splitlines()[0]
        return f"cannot make the child's address space: {record} resulted in {np.int64(me['failed_result'])}"

    # ---- after ---------------------------------------------------------------------------------------------

    def _outcome(self, prefix: int, program: NDArray[Any], loaded: Sequence[int]) -> Outcome:
        me = self.segment.view("cpu")[0]
        ran = int(me["failed_pc"]) - prefix if me["failed_pc"] else len(program)
        results = self.segment.view("result")[prefix : prefix + ran].tolist()
        bytes_loaded = list(loaded[:ran])
        if me["failed_pc"]:
            bytes_loaded[-1] = int(me["failed_result"])
        running = int(me["mm"])
        if running == 0:
            return Outcome(results, bytes_loaded, [], {})
        return Outcome(results, bytes_loaded, list(self._areas(running)), self._pages(running))

    def _areas(self, mm: int) -> Iterator[Area]:
        stack = next((area for area in self.start.areas if area.path == "[stack]"), None)
        for area in areas(self.segment, mm):
            path = self.names.get(area.inode, ZERO)
            if not area.inode:
                in_stack = stack is not None and area.start < stack.end and area.end > stack.end - PAGE
                path = "[stack]" if in_stack else area.path
            yield Area(area.start, area.end, area.perms, area.offset, path, area.inode)

    def _pages(self, mm: int) -> dict[int, bytes | None]:
        memory = self.segment.view("memory")
        zeros = bytes(PAGE)
        found: dict[int, bytes | None] = {}
        for address, pte in present(memory, int(self.segment.view("mm")["pgd"][mm])):
            if not any(start <= address < end for start, end in self.inside):
                found[address] = zeros if pte & SPECIAL else memory[(pte & PFN) // PAGE].tobytes()
        return found

    def _load_absent(self, mm: int, areas: Sequence[Area], pages: Mapping[int, bytes | None]) -> dict[int, bytes]:
        """What loads find in the readable pages that are not present, which this makes present."""
        program = Program()
        own = [area for area in areas if not any(start < area.end and area.start < end for start, end in self.inside)]
        for area in own:
            count = (area.end - area.start) // PAGE
            if area.perms[0] == "r" and count <= MOST_PAGES:
                program.add("TOUCH", addr=area.start, len=PAGE, count=count, opf=MAY_FAIL)
        self._write(program.array()[:0], program.array(), ())
        self.cpu.run()
        return {address: page for address, page in self._pages(mm).items() if address not in pages and page is not None}

    def _view(self, mm: int) -> View:
        areas, pages = list(self._areas(mm)), self._pages(mm)
        return View(areas, pages, self._load_absent(mm, areas, pages))

    def _tear_down(self, outcome: Outcome, look: bool) -> list[str]:
        """Ends every address space, having looked at it; what is broken or lost."""
        broken = _fast.check(self.segment.address)
        running = int(self.segment.view("cpu")["mm"][0])
        if running and look:
            outcome.absent = self._load_absent(running, outcome.areas, outcome.pages)
        self.cpu.exit()
        others: dict[int, View] = {}
        for mm in self.segment.view("mm")["in_use"].nonzero()[0].tolist():      # forked, and never run
            self.cpu.attach(mm)
            if look:
                others[mm] = self._view(mm)
            self.cpu.exit()
        outcome.others = others
        _fast.settle(self.segment.address)
        lost = _fast.frames_in_use(self.segment.address)
        if lost:
            broken.append(f"{lost} frames were not given back")
        head = self.segment.view("seg")
        head["files_used"], head["cache_used"] = 1, 1
        return broken


def present(memory: NDArray[np.uint8], pgd: int) -> Iterator[tuple[int, int]]:
    """(address, pte) of every page that is present below this top table."""
    words = memory.view(np.uint64)
    tables = [(0, pgd)]
    for shift in (39, 30, 21):
        tables = [(base + (int(index) << shift), (int(words[table, index]) & PFN) // PAGE)
                  for base, table in tables for index in words[table].nonzero()[0]]
    for base, table in tables:
        for index in words[table].nonzero()[0]:
            yield base + int(index) * PAGE, int(words[table, index])


def seed(start: Start, numbers: dict[int, int], files: Sequence[int]) -> Program:
    """The program that makes the address space in which the compared program begins.  numbers: by the start of an
    area the file that stands for what is mapped there; files: the sizes of the program's, whose pages are all
    cached."""
    program = Program()
    maker, space = (PARENT, FIRST) if start.forked else (FIRST, 0)
    program.exec(maker, start.mmap_base, start.brk)
    for area in start.areas:
        if area.path == "[heap]":
            program.add("BRK", addr=start.brk_now)
        else:
            map_area(program, area, numbers)
        if area.anon:
            program.store(area.start, 0)
        prot = protection(area.perms)
        if area.anon and not prot & WRITE:
            program.mprotect(area.start, area.end - area.start, prot)
    for number, pages in enumerate(files, 1):
        program.mmap(SCRATCH, pages * PAGE, READ | WRITE, SHARED | FIXED, file=number)
        program.touch(SCRATCH, pages, value=0)
        program.munmap(SCRATCH, pages * PAGE)
    if space:
        program.fork(space)
        program.mm(space)
    return program


def map_area(program: Program, area: Area, numbers: dict[int, int]) -> None:
    """Maps one area, writable if it must be written first."""
    flags = FIXED | (SHARED if area.perms[3] == "s" else PRIVATE)
    if not area.object:
        flags |= ANONYMOUS
    if area.path == "[stack]":
        flags |= GROWSDOWN
    prot = protection(area.perms) | (WRITE if area.anon else 0)
    program.mmap(area.start, area.end - area.start, prot, flags, file=numbers.get(area.start, 0), offset=area.offset)


def protection(perms: str) -> int:
    """PROT_* from rwx letters."""
    return sum(bit for letter, bit in zip(perms, (READ, WRITE, EXEC), strict=False) if letter != "-")
