"""A model of which pages are present: what the replay will find, known before it runs.

It serves three ends: it says why a recorded fault did not happen again, how large a machine the replay needs, and
whether fault-around suits the trace.  It knows mappings, pages and copy-on-write, but no tables, locks or time; the
replay itself never asks it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shmm.cluster.replay.intervals import Intervals

READ, WRITE, EXEC = 1, 2, 4
PAGE_SHIFT = 12
TABLE_PAGES = 512

# what the model says of an access
FAULTS = "faults"
DENIED = "no permission"
UNMAPPED = "not mapped"
AROUND = "mapped by fault-around"
RACED = "two threads faulted on it at once"
ELSEWHERE = "another thread had faulted it in: what took it away was not recorded"
BEFORE = "the same thread had faulted it in: what took it away was not recorded"
COPIED = "mapped by the copy at fork"
FILE_PAGE = "a page of a file that had faulted in: what took it away (truncation, reclaim) was not recorded"
MISSING = frozenset({AROUND, RACED, ELSEWHERE, BEFORE, COPIED, FILE_PAGE})

# a page's state: bit 0 writable, bit 1 a private copy of its own, bits 2-3 how it came, the rest who faulted (+ 1)
WRITABLE, OWN = 1, 2
BY_FAULT, BY_AROUND, BY_FORK = 0, 4, 8
HOW = 12
WHO_SHIFT = 4


@dataclass(frozen=True, slots=True)
class Mapping:
    """What is mapped: the value of a stretch of Intervals.  shift: page number - page of the file."""

    prot: int
    file: int = 0
    shift: int = 0
    shared: bool = False
    copied: bool = True                     # by fork
    wiped: bool = False                     # by fork: the child's is empty
    inferred: bool = False                  # no recorded call has mapped it
    noreserve: bool = False
    accounted: bool = False                 # private, and was writable: keeps it apart from neighbours that never were

    def with_prot(self, prot: int) -> Mapping:
        """The same with these permissions."""
        accounted = self.accounted or bool(prot & WRITE and not self.shared and not self.noreserve)
        return replace(self, prot=prot, accounted=accounted)


class Cache:
    """The page cache: which pages of which file exist, and how much of each file is ever needed."""

    def __init__(self, fault_around: int) -> None:
        self.fault_around = fault_around
        self.pages: dict[int, set[int]] = {}        # file -> its pages that exist
        self.shmem: set[int] = set()

    def frames(self) -> int:
        """Frames that all files hold in the end."""
        return sum(len(pages) for pages in self.pages.values())


class Presence:
    """One address space's mappings and pages."""

    def __init__(self, cache: Cache, maps: Intervals[Mapping] | None = None) -> None:
        self.cache = cache
        self.maps: Intervals[Mapping] = maps if maps is not None else Intervals()
        self.present: dict[int, int] = {}
        self.own = self.most_own = 0                # private pages, now and at most
        self.most_maps = len(self.maps)             # mappings at most
        self.tables: set[int] = set()               # page / 512 of every page-table page ever needed

    # ---- mappings ------------------------------------------------------------------------------------------

    def map(self, start: int, end: int, mapping: Mapping) -> None:
        """Puts the mapping at [start, end); its pages are absent."""
        self.zap(start, end)
        self.maps.set(start, end, mapping.with_prot(mapping.prot))
        self.most_maps = max(self.most_maps, len(self.maps))

    def unmap(self, start: int, end: int) -> None:
        """Takes away whatever is at [start, end)."""
        self.zap(start, end)
        self.maps.clear(start, end)
        self.most_maps = max(self.most_maps, len(self.maps))

    def zap(self, start: int, end: int) -> None:
        """The pages of [start, end) are gone, whatever is mapped there."""
        for page in self._pages(start, end):
            self.own -= self.present.pop(page) >> 1 & 1

    def move(self, old: int, old_length: int, new: int, new_length: int, keep: bool) -> None:
        """mremap: the mapping at old, all of one kind, comes to new with its pages.  keep: an empty one stays there."""
        found = self.maps.find(old)
        assert found is not None
        delta = new - old >> PAGE_SHIFT
        mapping = replace(found[2], shift=found[2].shift + delta) if found[2].file else found[2]
        if new_length < old_length:
            self.unmap(old + new_length, old + old_length)
        if new != old:
            carried = {page + delta: self.present.pop(page) for page in self._pages(old, old + old_length)}
            if not keep:
                self.maps.clear(old, old + old_length)
            self.zap(new, new + new_length)
            self.present |= carried
            self.tables.update(page // TABLE_PAGES for page in carried)
        self.maps.set(new, new + new_length, mapping)
        self.most_maps = max(self.most_maps, len(self.maps))

    def protect(self, start: int, end: int, prot: int) -> None:
        """mprotect: a private page that nobody shares becomes writable at once, others with their next fault."""
        self.maps.update(start, end, lambda mapping: mapping.with_prot(prot))
        self.most_maps = max(self.most_maps, len(self.maps))
        for page in self._pages(start, end):
            state = self.present[page] & ~WRITABLE
            exclusive = state & OWN and state & HOW != BY_FORK
            self.present[page] = state | (WRITABLE if prot & WRITE and exclusive else 0)

    def copying(self, start: int, end: int, **how: bool) -> None:
        """madvise's DONTFORK and DOFORK (copied), WIPEONFORK and KEEPONFORK (wiped)."""
        self.maps.update(start, end, lambda mapping: replace(mapping, **how))

    def _pages(self, start: int, end: int) -> Iterable[int]:
        first, last = start >> PAGE_SHIFT, (end + 4095) >> PAGE_SHIFT
        if last - first < len(self.present):
            return [page for page in range(first, last) if page in self.present]
        return [page for page in self.present if first <= page < last]

    # ---- accesses ------------------------------------------------------------------------------------------

    def access(self, address: int, kind: int, who: int) -> str:
        """An access of CPU `who`: FAULTS, or why it does not."""
        found = self.maps.find(address)
        if found is None:
            return UNMAPPED
        start, end, mapping = found
        needed = WRITE if kind == WRITE else kind
        if not mapping.prot & needed and not (kind == READ and mapping.prot & (WRITE | EXEC)):
            return DENIED
        page = address >> PAGE_SHIFT
        state = self.present.get(page)
        if state is not None:
            if kind != WRITE or state & WRITABLE:
                return self._why_present(state, who, mapping)
            private = 0 if mapping.shared else OWN
            self.own += 1 if private & ~state else 0
            self.present[page] = WRITABLE | private | (who + 1) << WHO_SHIFT
        else:
            self._populate(page, start >> PAGE_SHIFT, end >> PAGE_SHIFT, mapping, kind == WRITE, who)
        self.most_own = max(self.most_own, self.own)
        return FAULTS

    def faulted_in(self, page: int) -> bool:
        """Whether the page is present because it faulted here."""
        state = self.present.get(page)
        return state is not None and state & HOW == BY_FAULT

    def _why_present(self, state: int, who: int, mapping: Mapping) -> str:
        if state & HOW == BY_AROUND:
            return AROUND
        if state & HOW == BY_FORK:
            return COPIED
        if mapping.file and not state & OWN:
            return FILE_PAGE
        return BEFORE if state >> WHO_SHIFT == who + 1 else ELSEWHERE

    def _populate(self, page: int, first: int, last: int, mapping: Mapping, write: bool, who: int) -> None:
        mark = (who + 1) << WHO_SHIFT
        self.tables.add(page // TABLE_PAGES)
        if not mapping.file:
            self.present[page] = mark | (WRITABLE | OWN if write else 0)
            self.own += write
            return
        cached = self.cache.pages.setdefault(mapping.file, set())
        cached.add(page - mapping.shift)
        if write and not mapping.shared:
            self.present[page] = mark | WRITABLE | OWN
            self.own += 1
        elif write or (mapping.file in self.cache.shmem and mapping.prot & WRITE):
            self.present[page] = mark | WRITABLE
        else:
            self.present[page] = mark
        if not write and self.cache.fault_around > 1:
            self._fault_around(page, first, last, mapping, cached)

    def _fault_around(self, page: int, first: int, last: int, mapping: Mapping, cached: set[int]) -> None:
        n = self.cache.fault_around
        low = max(page // n * n, first)
        high = min(low + n, page // 512 * 512 + 512, last)
        only_cached = mapping.file in self.cache.shmem
        for near in range(low, high):
            at = near - mapping.shift
            if near in self.present or (only_cached and at not in cached):
                continue
            cached.add(at)
            self.present[near] = BY_AROUND

    # ---- fork ----------------------------------------------------------------------------------------------

    def fork(self) -> Presence:
        """The child's presence.  Only mappings that have private pages are copied, and lose their write permission."""
        child = Presence(self.cache, Intervals())
        pages = sorted(self.present)
        at = 0
        for start, end, mapping in self.maps:
            if not mapping.copied:
                continue
            child.maps.set(start, end, mapping)
            while at < len(pages) and pages[at] < start >> PAGE_SHIFT:
                at += 1
            begin = at
            while at < len(pages) and pages[at] < end >> PAGE_SHIFT:
                at += 1
            if not mapping.shared and not mapping.wiped:
                self._share(child, pages[begin:at])
        child.tables = {page // TABLE_PAGES for page in child.present}
        child.most_own, child.most_maps = child.own, len(child.maps)
        return child

    def table_pages(self) -> int:
        """Page tables of all levels for every page there ever was."""
        pmds = {table >> 9 for table in self.tables}
        return 1 + len(self.tables) + len(pmds) + len({pmd >> 9 for pmd in pmds})

    def _share(self, child: Presence, pages: list[int]) -> None:
        if not any(self.present[page] & OWN for page in pages):
            return
        for page in pages:
            state = self.present[page]
            child.present[page] = state & ~(WRITABLE | HOW) | BY_FORK
            child.own += state >> 1 & 1             # counted twice: either may have to copy it
            self.present[page] = state & ~(WRITABLE | HOW) | (BY_FORK if state & OWN else state & HOW)
