"""What a program had mapped without a recorded mmap: inferred from the faults that no recorded mapping explains.

execve maps the program, the dynamic loader, the stack and the vdso; a recording that began late has missed whatever
was there before.  An Image gathers the evidence of all spaces that run it (a forked child's faults show what its
parent had mapped) and turns it into runs: stretches to map when the image starts.

Kind of a run.  Pages that were executed belong to a file, mapped r-x; so do pages near them that were only read
(r--), and, if the image's exec was seen, those that were written (rw-): the program's and the loader's segments.
All else, the stack above all, is anonymous memory.  A few pages that were executed where stacks are, and nothing
written near them, are the vdso, which knows no fault-around: each is mapped alone.

Extent.  A run reaches from its first to its last page with evidence and, if nothing else is there, down to a
multiple of 64 KiB: fault-around windows then lie where the kernel's do.  Two pages of one window that were both read
while absent cannot have been one file mapping in the page cache, or the first fault would have mapped both; so a run
ends between them (vdso and loader, data and bss).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

READ, WRITE, EXEC = 1, 2, 4
PAGE_SHIFT = 12
WINDOW = 16                                 # pages of a fault-around window
NEAR = 1024                                 # pages apart at most that belong together: 4 MiB
PROGRAM_SPAN = 1 << 32                      # the program's segments lie at most so far below its heap
STACKS = 0x7FF000000000
VDSO_PAGES = 4
ABSENT_FAULTS = 4                           # so many faults on one page: whatever is there, it is no memory


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch [start, end) of addresses to map.  kind: "file", "anonymous" or "page" (files of one page each)."""

    start: int
    end: int
    prot: int
    kind: str


@dataclass(eq=False, slots=True)
class Image:
    """One program image.  heap: where its brk area begins, once known."""

    exec_seen: bool
    heap: int | None = None
    access: dict[int, int] = field(default_factory=dict)        # page -> READ | WRITE | EXEC seen there
    absent: dict[int, int] = field(default_factory=dict)        # page -> faults that found it absent once more
    cuts: set[int] = field(default_factory=set)                 # pages at which a run must begin
    spans: set[tuple[int, int]] = field(default_factory=set)    # first and last pages of what was mapped as one
    _runs: list[Run] | None = None

    def note_fault(self, address: int, error: int, again: bool) -> None:
        """A fault on an address that no recorded mapping holds.  again: it had been made present before."""
        page = address >> PAGE_SHIFT
        kind = EXEC if error & 16 else WRITE if error & 2 else READ
        self.access[page] = self.access.get(page, 0) | kind
        if again and not error & 1:
            self.absent[page] = self.absent.get(page, 0) + 1

    def note_window(self, pages: set[int]) -> None:
        """These pages of one fault-around window were all read while absent, in one space."""
        if len(pages) > 1:
            self.cuts.update(sorted(pages)[1:])

    def note_range(self, start: int, end: int) -> None:
        """A call that needs memory succeeded on [start, end), which no recorded call had mapped.  It was writable, or
        would be: mprotect takes that away from a loader's data, or gives it to a heap."""
        first, last = start >> PAGE_SHIFT, end - 1 >> PAGE_SHIFT
        self.spans.add((first, last))
        for page in (first, last):
            self.access[page] = self.access.get(page, 0) | WRITE

    def runs(self) -> list[Run]:
        """What to map when the image starts; asked for once all evidence is in."""
        if self._runs is None:
            self._runs = [run for cluster in self._clusters() for run in self._runs_of(cluster)]
        return self._runs

    def run_at(self, address: int) -> Run | None:
        """The run that holds the address."""
        at = bisect_right(self.runs(), address, key=lambda run: run.start) - 1
        return self.runs()[at] if at >= 0 and address < self.runs()[at].end else None

    def _clusters(self) -> list[list[int]]:
        """Pages with evidence, in groups that lie together."""
        out: list[list[int]] = []
        heap = self.heap >> PAGE_SHIFT if self.heap is not None else 0
        reach = dict(sorted(self.spans))                        # of spans with one start the longest
        together = -1                                           # up to here, pages belong to the group
        for page in sorted(page for page in self.access if self.absent.get(page, 0) < ABSENT_FAULTS):
            if out and page <= together and not out[-1][-1] < heap <= page:
                out[-1].append(page)
            else:
                out.append([page])
            together = max(together, page + NEAR, reach.get(page, 0))
        return out

    def _runs_of(self, cluster: list[int]) -> list[Run]:
        seen = executed = 0
        for page in cluster:
            seen |= self.access[page]
            executed += self.access[page] >> 2 & 1
        if seen & EXEC and not seen & WRITE and executed <= VDSO_PAGES and cluster[0] << PAGE_SHIFT >= STACKS:
            return [run_of(page, page, READ | self.access[page], "page") for page in cluster]
        if not seen & EXEC and not self._in_program(cluster):
            return [run_of(cluster[0], cluster[-1], READ | seen, "anonymous")]
        return self._segments(cluster)

    def _in_program(self, cluster: list[int]) -> bool:
        if self.heap is None or not self.exec_seen:
            return False
        return cluster[-1] << PAGE_SHIFT < self.heap < (cluster[0] << PAGE_SHIFT) + PROGRAM_SPAN

    def _segments(self, cluster: list[int]) -> list[Run]:
        """Runs of pages with the same use, as an ELF file's segments are."""
        out: list[Run] = []
        first = last = cluster[0]
        prot = segment_prot(self.access[first])
        for page in [*cluster[1:], -1]:
            if page >= 0 and page not in self.cuts and segment_prot(self.access[page]) == prot:
                last = page
                continue
            floor = out[-1].end >> PAGE_SHIFT if out else 0
            start = first if first in self.cuts else max(floor, first // WINDOW * WINDOW)
            anonymous = prot & WRITE and not self.exec_seen
            out += runs_of(start, last, prot, "anonymous" if anonymous else "file")
            first = last = page
            prot = segment_prot(self.access.get(page, 0))
        return out


def runs_of(first: int, last: int, prot: int, kind: str) -> list[Run]:
    """The run of these pages, in two if it is of a file and begins inside a window: fault-around counts its pages from
    where a mapping begins, and where that was in the window is not known."""
    border = -(-first // WINDOW) * WINDOW
    if kind != "file" or border == first or border > last:
        return [run_of(first, last, prot, kind)]
    return [run_of(first, border - 1, prot, kind), run_of(border, last, prot, kind)]


def run_of(first: int, last: int, prot: int, kind: str) -> Run:
    """The run of these pages, both included."""
    return Run(first << PAGE_SHIFT, last + 1 << PAGE_SHIFT, prot, kind)


def segment_prot(access: int) -> int:
    """The permissions of a segment one of whose pages was used so."""
    return READ | access & (WRITE | EXEC)
