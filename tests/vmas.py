"""A few pages of an address space, drawn: what tests of VMAs do, and see.

    space = Space(machine)
    space.map(0, 4)                     # pages 0 to 3 of an arena: private, anonymous, readable and writable
    space.protect(1, 2, READ)
    space.picture()                     # "w|rr|w": a letter for each page, a bar where one VMA ends and another begins

Letters: w may be written (and read), r only read, x also executed, - not accessed at all, . nothing is mapped.  Capitals: shared.
What goes wrong is an OSError with its errno, as a Machine's, or a FaultError."""

from __future__ import annotations

import mmap as m

from shmm import Machine
from shmm.layout import CONSTANTS
from shmm.maps import areas

PAGE = 4096
ARENA = 0x2000_0000_0000
NONE, READ, WRITE, RW, EXEC = 0, m.PROT_READ, m.PROT_WRITE, m.PROT_READ | m.PROT_WRITE, m.PROT_READ | m.PROT_EXEC
PRIVATE, SHARED, FIXED, ANON = m.MAP_PRIVATE, m.MAP_SHARED, 0x10, m.MAP_ANONYMOUS
GROWSDOWN, LOCKED, NORESERVE, POPULATE, STACK, NOREPLACE = 0x100, 0x2000, 0x4000, 0x8000, 0x20000, 0x100000
SPAN = 600                              # pages before and behind the arena's first that are looked at


class Space:
    """Pages of one address space of a machine, counted from ARENA."""

    def __init__(self, machine: Machine, cpu: int = 0) -> None:
        self.machine, self.cpu = machine, cpu

    def map(self, first: int | None, n: int, prot: int = RW, flags: int = PRIVATE | ANON | FIXED, *, file: int = 0,
            offset: int = 0) -> int:
        """mmap; offset in pages.  The page where it begins."""
        where = None if first is None else ARENA + first * PAGE
        return (self.machine.mmap(where, n * PAGE, prot, flags, file=file, offset=offset * PAGE, cpu=self.cpu)
                - ARENA) // PAGE

    def unmap(self, first: int, n: int) -> None:
        self.machine.munmap(ARENA + first * PAGE, n * PAGE, cpu=self.cpu)

    def protect(self, first: int, n: int, prot: int) -> None:
        self.machine.mprotect(ARENA + first * PAGE, n * PAGE, prot, cpu=self.cpu)

    def advise(self, first: int, n: int, advice: int) -> None:
        self.machine.madvise(ARENA + first * PAGE, n * PAGE, advice, cpu=self.cpu)

    def store(self, page: int, value: int = 1) -> int:
        """Returns how many faults it took."""
        return self.faults(lambda: self.machine.write(ARENA + page * PAGE, bytes([value]), cpu=self.cpu))

    def load(self, page: int) -> int:
        """The first byte of the page."""
        return self.machine.read(ARENA + page * PAGE, 1, cpu=self.cpu)[0]

    def load_faults(self, page: int) -> int:
        """How many faults a load takes."""
        return self.faults(lambda: self.load(page))

    def faults(self, call) -> int:
        """Those that the call takes, in the kernel or out of it: what min_flt counts."""
        before = self.machine.counters()
        call()
        after = self.machine.counters()
        return sum(after[name] - before[name] for name in ("user_faults", "gup_faults"))

    def fork(self) -> Space:
        """The child's."""
        return Space(self.machine.fork(cpu=self.cpu), self.cpu)

    def vmas(self) -> list[tuple[int, int, str]]:
        """(first page, behind the last, permissions) of each VMA around the arena."""
        return [((area.start - ARENA) // PAGE, (area.end - ARENA) // PAGE, area.perms)
                for area in areas(self.machine.segment, self.machine.mm)
                if abs(area.start - ARENA) <= SPAN * PAGE and abs(area.end - ARENA) <= SPAN * PAGE]

    def resident(self, first: int, n: int) -> str:
        """1 for each page that a page table maps, 0 for the others."""
        return "".join("01"[self._pte(ARENA + page * PAGE) & 0x101 != 0] for page in range(first, first + n))

    def _pte(self, addr: int) -> int:
        memory = self.machine.segment.view("memory").view("u8")
        entry = int(self.machine.segment.view("mm")[self.machine.mm]["pgd"]) * CONSTANTS["PAGE_SIZE"]
        for shift in (39, 30, 21, 12):
            entry = int(memory[(entry & 0xf_ffff_ffff_f000) // PAGE, addr >> shift & 511])
            if not entry:
                break
        return entry

    def picture(self) -> str:
        """From the first mapped page to the last."""
        out, at = [], None
        for start, end, perms in self.vmas():
            if at is not None and start > at:
                out.append("." * (start - at))
            letter = ("x" if perms[2] == "x" else "w" if perms[1] == "w" else "r" if perms[0] == "r" else "-")
            out.append((letter.upper() if perms[3] == "s" else letter) * (end - start))
            at = end
        return "|".join(out)
