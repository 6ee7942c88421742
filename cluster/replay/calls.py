"""From recorded system calls and faults to a program's records, one address space at a time.

Mappings go where the recorded kernel put them (MAP_FIXED).  Every record may fail, and its result word tells
afterwards what came of it.

Which file is mapped, recordings of `shmm record` tell.  Of others, mappings with the same length, offset, permissions
and flags count as the same file, in all processes, so that libraries share their page cache; page 0 is where the
mapping begins.

Our files count as cached in whole, so that fault-around maps the neighbours of what is read.  Where the trace shows
that many of a mapping's pages were not in the page cache when their neighbours were mapped (both faulted), the
mapping gets a file of its own whose pages exist only once touched, as those of shared memory do: fault-around then
finds only those.

An inferred mapping is as good as its evidence: where a page of it that had faulted in is found absent again, and no
two threads faulted at once, something that is not recorded (shmdt and shmat) has unmapped it and mapped it anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shmm.cluster.replay import remaps
from shmm.cluster.replay.image import Image, Run
from shmm.cluster.replay.presence import ELSEWHERE, EXEC, FAULTS, RACED, READ, WRITE, Cache, Mapping, Presence
from shmm.cluster.replay.recording import FETCH, PRESENT
from shmm.cluster.replay.recording import WRITE as WRITE_FAULT
from shmm.cluster.replay.space import page_up
from shmm.cluster.replay.trace import FILE, SPECIAL, Event
from shmm.program import COUNT, MAY_FAIL
from shmm.program import WRITE as WRITES

MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_TYPE = 0x01, 0x02, 0x10, 0x20, 0x0F
MAP_SHARED_VALIDATE, MAP_NORESERVE, MAP_POPULATE = 0x03, 0x4000, 0x8000
MLOCK_ONFAULT = 1
POPULATE_READ, POPULATE_WRITE = 22, 23
PRESENT_THERE = "found a page that was there already, here none: what had brought it was not recorded"
ABSENT_THERE = "found no page, here one that must not be written: what had taken it away was not recorded"
POPULATED = 1 << 16                         # pages at most: what is populated beyond 256 MiB faults when it is used
NO_FD = 0xFFFFFFFF
PROT_MASK = READ | WRITE | EXEC
DONTNEED, REMOVE, DONTFORK, DOFORK, WIPEONFORK, KEEPONFORK, DONTNEED_LOCKED = 4, 9, 10, 11, 18, 19, 24
GONE = frozenset({DONTNEED, REMOVE, DONTNEED_LOCKED})
# what programs can do
ADVICE = frozenset({0, 1, 2, 3, DONTNEED, DONTFORK, DOFORK, 14, 15, 16, 17, WIPEONFORK, KEEPONFORK, 20, 21})
FILE_PAGES = 1 << 22                        # of one file at most, 16 GiB: what lies beyond is SIGBUS
AT_ONCE = 0.001                             # seconds: two faults on one page so close raced
AROUND = 16                                 # pages that a fault may bring in beyond its own
PAGE_SHIFT = 12
HUGE = 1 << 21
OPERATION = {EXEC: "FETCH", WRITE: "STORE", READ: "LOAD"}

Place = tuple[int, int]                     # CPU and record number
Emit = Callable[..., Place]


@dataclass(eq=False)
class Live:
    """An address space while it is being replayed.  base, brk: the heap's ends, 0 while unknown."""

    slot: int
    presence: Presence
    base: int
    brk: int
    users: int = 0
    faulted: dict[int, tuple[float, int]] = field(default_factory=dict)     # page -> its last fault: seconds, thread
    moving: dict[int, list[tuple[int, int, Mapping]]] = field(default_factory=dict)     # by thread: see vacate


class Files:
    """The files that mappings need, found again by what is known of them; numbers count from 1."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.numbers: dict[tuple[int, ...], int] = {}
        self.sizes: list[int] = []

    def number(self, key: tuple[int, ...], shmem: bool = False) -> int:
        """The file of this key.  shmem: shared anonymous memory."""
        if key not in self.numbers:
            self.sizes.append(1)
            self.numbers[key] = len(self.sizes)
            if shmem:
                self.cache.shmem.add(len(self.sizes))
        return self.numbers[key]

    def reach(self, number: int, pages: int) -> None:
        """The file must have so many pages at least."""
        self.sizes[number - 1] = max(self.sizes[number - 1], min(pages, FILE_PAGES))

    def list(self) -> list[tuple[int, bool]]:
        """(pages, is shared anonymous memory) of each."""
        return [(size, number in self.cache.shmem) for number, size in enumerate(self.sizes, 1)]


class Calls:
    """Turns calls and faults into records, and keeps each space's model up to date."""

    def __init__(self, emit: Emit, cache: Cache, counts: Counter[str]) -> None:
        self.emit = emit
        self.counts = counts
        self.differed: Counter[str] = Counter()             # faults that find another page than when recorded
        self.files = Files(cache)

    # ---- mapping -------------------------------------------------------------------------------------------

    def map(self, live: Live, start: int, end: int, mapping: Mapping) -> Place:
        """Puts the mapping at [start, end), whatever was there."""
        live.presence.map(start, end, mapping)
        flags = MAP_FIXED | (MAP_SHARED if mapping.shared else MAP_PRIVATE)
        flags |= MAP_NORESERVE if mapping.noreserve else 0
        offset = 0
        if mapping.file:
            offset = start - (mapping.shift << PAGE_SHIFT)
        else:
            flags |= MAP_ANONYMOUS
        return self.emit("MMAP", addr=start, length=end - start, prot=mapping.prot, flags=flags,
                         value=mapping.file, aux=offset, opf=MAY_FAIL)

    def unmap(self, live: Live, start: int, end: int) -> Place:
        """Takes away whatever is at [start, end)."""
        live.presence.unmap(start, end)
        return self.emit("MUNMAP", addr=start, length=end - start, opf=MAY_FAIL)

    def infer(self, live: Live, run: Run, start: int, end: int) -> None:
        """Maps [start, end) of a run that no recorded call has mapped."""
        step = 1 << PAGE_SHIFT if run.kind == "page" else end - start
        for at in range(start, end, step):
            file = shift = 0
            if run.kind != "anonymous":
                origin = at if run.kind == "page" else run.start
                file = self.files.number((-1, origin - run.start, run.end - run.start, run.prot))
                shift = origin >> PAGE_SHIFT
            self.map(live, at, at + step, Mapping(run.prot, file, shift, inferred=True))
            self.counts["inferred mappings"] += 1

    def mapped(self, live: Live, event: Event, cold: bool) -> None:
        """What execve has mapped, or a call that is not recorded.  The vdso and its like know no fault-around: each of
        their pages is mapped alone."""
        start, length, prot, shared, what, *_, offset = event.args
        end, cold = page_up(start + length), cold and not shared
        self.counts["cold file mappings"] += cold
        if what == SPECIAL:
            for at in range(start, end, 1 << PAGE_SHIFT):
                file = self.files.number((-4, offset + at - start, length, prot))
                self.map(live, at, at + (1 << PAGE_SHIFT), Mapping(prot, file, at >> PAGE_SHIFT))
        elif what == FILE:
            self.map(live, start, end, self._of_file(event.args, cold))
        else:
            self.map(live, start, end, Mapping(prot))

    def _of_file(self, mapped: tuple[int, ...], cold: bool) -> Mapping:
        """A mapping of a file whose device and inode are known."""
        start, _, prot, shared, _, device, inode, offset = mapped
        key = (-3, len(self.files.sizes)) if cold else (-5, device, inode)
        first = 0 if cold else offset >> PAGE_SHIFT
        return Mapping(prot, self.files.number(key, shmem=cold), (start >> PAGE_SHIFT) - first, bool(shared))

    # ---- faults --------------------------------------------------------------------------------------------

    def fault(self, live: Live, event: Event, image: Image, cpu: int) -> tuple[Place, str]:
        """The access that a recorded fault stands for: its record, and what the model says will come of it."""
        address, _, error = event.args
        page = address >> PAGE_SHIFT
        when, who = live.faulted.get(page, (-1.0, event.tid))
        live.faulted[page] = event.time, event.tid
        at_once = who != event.tid and event.time - when < AT_ONCE
        found = live.presence.maps.find(address)
        if found is None:
            self._map_late(live, image, address)
        elif found[2].inferred and not error & PRESENT and not at_once and live.presence.faulted_in(page):
            self.counts["inferred mappings renewed"] += 1
            live.presence.zap(found[0], found[1])
            self.map(live, *found)
        kind = EXEC if error & FETCH else WRITE if error & WRITE_FAULT else READ
        before = live.presence.present.get(page)
        expected = live.presence.access(address, kind, cpu)
        if expected == FAULTS and (before is not None) != bool(error & PRESENT):
            self.differed[PRESENT_THERE if error & PRESENT else ABSENT_THERE] += 1
        if expected == ELSEWHERE and at_once:
            expected = RACED
        self._reach(live, address)
        value = 1 if kind == WRITE else 0
        return self.emit(OPERATION[kind], addr=address, value=value, opf=MAY_FAIL | COUNT), expected

    def _map_late(self, live: Live, image: Image, address: int) -> None:
        """Something that the image has there, but that a recorded call has taken away meanwhile."""
        run = image.run_at(address)
        if run is None:
            return
        for start, end in live.presence.maps.gaps(run.start, run.end):
            if start <= address < end:
                self.infer(live, run, start, end)

    def _reach(self, live: Live, address: int) -> None:
        """The page's file must reach as far as this page and its fault-around window."""
        found = live.presence.maps.find(address)
        if found is not None and found[2].file:
            _, end, mapping = found
            last = min((address >> PAGE_SHIFT) + AROUND, end - 1 >> PAGE_SHIFT)
            self.files.reach(mapping.file, last + 1 - mapping.shift)

    def huge(self, live: Live, address: int, cpu: int) -> None:
        """The fault there has mapped a huge page: its other pages are present, too."""
        start = address & -HUGE
        found = live.presence.maps.find(address)
        if found is None or found[0] > start or found[1] < start + HUGE:
            return
        for page in range(start >> PAGE_SHIFT, start + HUGE >> PAGE_SHIFT):
            live.presence.access(page << PAGE_SHIFT, WRITE, cpu)
        self.counts["huge pages"] += 1
        self.emit("TOUCH", addr=start, length=1 << PAGE_SHIFT, count=HUGE >> PAGE_SHIFT, value=1, opf=MAY_FAIL | WRITES)

    # ---- calls ---------------------------------------------------------------------------------------------

    def call(
        self, live: Live, event: Event, result: int | None, cold: bool, mapped: tuple[int, ...] | None = None,
    ) -> Place | None:
        """A call's effect; None if it has none here: it failed, or its result was not recorded, or is unknown.

        cold: what it maps was not in the page cache.  mapped: what perf says that it has mapped."""
        if result is None:
            self.counts["calls without a result"] += 1
            return None
        if result < 0:
            self.counts["failed calls"] += 1
            return None
        if event.call == "mmap":
            return self._mmap(live, event, result, cold, mapped)
        place: Place | None = getattr(self, "_" + event.call)(live, event, result)
        return place

    def _mmap(
        self, live: Live, event: Event, result: int, cold: bool, mapped: tuple[int, ...] | None,
    ) -> Place:
        end, flags = page_up(result + event.args[1]), event.args[3]
        mapping = replace(self._what(event, result, cold, mapped), noreserve=bool(flags & MAP_NORESERVE))
        place = self.map(live, result, end, mapping)
        if flags & MAP_POPULATE:
            self._populate(live, result, end)
        return place

    def _what(self, event: Event, result: int, cold: bool, mapped: tuple[int, ...] | None) -> Mapping:
        """What an mmap has mapped at result."""
        _, length, prot, flags, fd, offset = event.args
        end = page_up(result + length)
        kind = flags & MAP_TYPE
        shared = kind in (MAP_SHARED, MAP_SHARED_VALIDATE)
        file = 0
        if not flags & MAP_ANONYMOUS and fd & NO_FD != NO_FD:
            cold = cold and not shared
            self.counts["cold file mappings"] += cold
            if mapped is not None and mapped[4] == FILE:
                return replace(self._of_file((result, *mapped[1:]), cold), prot=prot & PROT_MASK, shared=shared)
            key = (-3, len(self.files.sizes)) if cold else (offset, end - result, prot, kind)
            file = self.files.number(key, shmem=cold)
        elif shared:
            file = self.files.number((-2, len(self.files.sizes)), shmem=True)
        shift = result >> PAGE_SHIFT if file else 0
        return Mapping(prot & PROT_MASK, file, shift, shared)

    def _populate(self, live: Live, start: int, end: int, write: bool | None = None) -> None:
        """Pages that the kernel brought in without a fault.  write: None is as mlock does, for writing where that
        gives a private page."""
        if end - start > POPULATED << PAGE_SHIFT:
            self.counts["populating skipped"] += 1
            return
        for low, high, mapping in live.presence.maps.overlapping(start, end):
            stores = bool(mapping.prot & WRITE and not mapping.shared) if write is None else write
            if not mapping.prot & (WRITE if stores else READ):
                continue
            for page in range(low >> PAGE_SHIFT, high >> PAGE_SHIFT):
                live.presence.access(page << PAGE_SHIFT, WRITE if stores else READ, 0)
                self._reach(live, page << PAGE_SHIFT)
            self.emit("TOUCH", addr=low, length=1 << PAGE_SHIFT, count=high - low >> PAGE_SHIFT,
                      opf=MAY_FAIL | (WRITES if stores else 0))
            self.counts["pages populated"] += high - low >> PAGE_SHIFT

    def _mlock(self, live: Live, event: Event, result: int) -> None:
        start, length = event.args[:2]
        self._populate(live, start & -4096, page_up(start + length))

    def _mlock2(self, live: Live, event: Event, result: int) -> None:
        if not event.args[2] & MLOCK_ONFAULT:
            self._mlock(live, event, result)

    def _shmdt(self, live: Live, event: Event, result: int) -> Place | None:
        found = live.presence.maps.find(event.args[0])
        return None if found is None else self.unmap(live, found[0], found[1])

    def _munmap(self, live: Live, event: Event, result: int) -> Place:
        start, length = event.args
        return self.unmap(live, start, page_up(start + length))

    def _mprotect(self, live: Live, event: Event, result: int) -> Place:
        start, length, prot = event.args
        live.presence.protect(start, page_up(start + length), prot & PROT_MASK)
        return self.emit("MPROTECT", addr=start, length=length, prot=prot & PROT_MASK, opf=MAY_FAIL)

    def _madvise(self, live: Live, event: Event, result: int) -> Place | None:
        start, length, advice = event.args
        if advice in (POPULATE_READ, POPULATE_WRITE):
            self._populate(live, start, page_up(start + length), advice == POPULATE_WRITE)
            return None
        if advice in GONE:
            advice = DONTNEED
        elif advice not in ADVICE:
            self.counts[f"madvise {advice} skipped"] += 1
            return None
        if advice == DONTNEED:
            live.presence.zap(start, page_up(start + length))
        elif advice in (DONTFORK, DOFORK):
            live.presence.copying(start, page_up(start + length), copied=advice == DOFORK)
        elif advice in (WIPEONFORK, KEEPONFORK):
            live.presence.copying(start, page_up(start + length), wiped=advice == WIPEONFORK)
        return self.emit("MADVISE", addr=start, length=length, value=advice, opf=MAY_FAIL)

    def _brk(self, live: Live, event: Event, result: int) -> Place | None:
        """The heap grows or shrinks to the recorded result; below where we first saw it, it is an inferred run."""
        low, high = page_up(live.brk), page_up(result)
        live.brk = result
        if high < live.base:
            live.base = live.brk = high         # programs cannot shrink a heap below its start
            return self.unmap(live, high, low) if high < low else None
        if high > low and live.presence.maps.overlapping(low, high):
            self.unmap(live, low, high)
        if high > low:
            live.presence.map(low, high, Mapping(READ | WRITE))
        else:
            live.presence.unmap(high, low)
        return self.emit("BRK", addr=result, opf=MAY_FAIL)

    def remap(self, live: Live, event: Event, result: int) -> Place | None:
        """All of an mremap that nobody disturbed."""
        return remaps.remap(self, live, event, result)

    def vacate(self, live: Live, event: Event, result: int) -> None:
        """An mremap's first half, if somebody did."""
        remaps.vacate(self, live, event, result)

    def _mremap(self, live: Live, event: Event, result: int) -> Place | None:
        return remaps.arrive(self, live, event, result)
