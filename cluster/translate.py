"""From steps to programs: one program per thread of the trace, run one event at a time in recorded order.

Consecutive events of a thread are one burst: TURN waits for the burst's ticket, NEXT hands the following ticket to
the thread whose burst comes next.  Mappings go where the recorded kernel put them (MAP_FIXED); each fault becomes
one access to its address.  Every record may fail, and its result word tells afterwards what came of it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.cluster.image import Image, Run
from shmm.cluster.lineage import Lineage, Space, Step, arrival, departure, page_up
from shmm.cluster.presence import EXEC, READ, WRITE, Cache, Mapping, Presence
from shmm.cluster.recording import FETCH, Recording, Task
from shmm.cluster.trace import Event
from shmm.layout import CONSTANTS
from shmm.program import COUNT, INSN, MAY_FAIL, OP

MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MREMAP_DONTUNMAP = 4
NO_FD = 0xFFFFFFFF
DONTNEED, DONTFORK, DOFORK = 4, 10, 11
ADVICE = frozenset({0, 1, 2, 3, DONTNEED, DONTFORK, DOFORK, 14, 15, 16, 17, 20, 21})    # what the native side knows
FILE_PAGES = 1 << 22                        # of one file at most, 16 GiB: what lies beyond is SIGBUS
AROUND_SLACK = 16
PAGE_SHIFT = 12


class ReplayError(ValueError):
    """A trace that cannot be replayed here: one line that says why."""


@dataclass
class Translation:
    """Programs and what they were made from."""

    programs: list[NDArray[Any]]
    fault_records: list[tuple[int, int]]    # per fault step: CPU and record
    call_records: list[tuple[int, int]]     # per replayed call
    predicted: list[str]                    # per fault step: what the model expects (presence.py)
    files: list[tuple[int, bool]]           # (pages, is shared anonymous memory), numbered from 1
    counts: Counter[str]
    slots: int                              # address spaces at once, highest slot
    vmas: int
    pages: int                              # private pages at once
    cached: int                             # file pages in the end
    tables: int                             # page tables at once


@dataclass(eq=False)
class Live:
    """A space while it is being replayed."""

    slot: int
    presence: Presence
    brk: int
    users: int = 0
    moved: list[tuple[int, int, Mapping]] = field(default_factory=list)


class Translator:
    """Walks a lineage's steps and writes the programs."""

    def __init__(self, recording: Recording, lineage: Lineage, fault_around: int) -> None:
        self.recording = recording
        self.events = recording.events
        self.cache = Cache(fault_around)
        self.cpus: dict[tuple[int, int], int] = {}
        self.records: list[list[tuple[int, ...]]] = []
        self.counts: Counter[str] = Counter()
        self.files: dict[tuple[int, ...], int] = {}
        self.file_sizes: list[int] = []
        self.live: dict[Space, Live] = {}
        self.free_slots: list[int] = list(range(1, CONSTANTS["MAX_MM"]))
        self.highest_slot = 1
        self.peaks = {"vmas": 0, "pages": 0, "tables": 0}
        self.current: int | None = None
        self.ticket = 0
        self.fault_records: list[tuple[int, int]] = []
        self.call_records: list[tuple[int, int]] = []
        self.predicted: list[str] = []
        for step in lineage.steps:
            self._step(step)

    def translation(self) -> Translation:
        """The finished programs."""
        end = (OP["END"],) + (0,) * 13
        return Translation(
            programs=[np.array([*records, end], INSN) for records in self.records],
            fault_records=self.fault_records, call_records=self.call_records, predicted=self.predicted,
            files=[(max(1, size), number in self.cache.shmem) for number, size in enumerate(self.file_sizes, 1)],
            counts=self.counts, slots=self.highest_slot, cached=self.cache.frames(), **self.peaks,
        )

    # ---- records -------------------------------------------------------------------------------------------

    def _emit(
        self, op: str, *, addr: int = 0, length: int = 0, prot: int = 0, flags: int = 0, value: int = 0,
        aux: int = 0, count: int = 0, opf: int = 0,
    ) -> tuple[int, int]:
        """Adds a record to the current CPU's program; returns the CPU and the record's number."""
        assert self.current is not None
        records = self.records[self.current]
        records.append((OP[op], 0, 0, 0, opf, 0, prot, flags, addr, length, count, value, 0, aux))
        return self.current, len(records) - 1

    def _turn_to(self, cpu: int) -> None:
        """From here on records are CPU cpu's."""
        if self.current == cpu:
            return
        if self.current is not None:
            self.ticket += 1
            self._emit("NEXT", value=self.ticket, count=cpu)
        self.current = cpu
        self._emit("TURN", value=self.ticket)

    def _cpu_of(self, task: Task) -> int:
        key = (task.pid, task.tid)
        if key not in self.cpus:
            self.cpus[key] = self._new_cpu()
        return self.cpus[key]

    def _new_cpu(self) -> int:
        if len(self.records) >= CONSTANTS["MAX_CPU"]:
            raise ReplayError(f"more than {CONSTANTS['MAX_CPU']} threads: record a shorter run or fewer processes")
        self.records.append([])
        if len(self.records) == 1:              # CPU 0 finds itself in address space 1, which nobody wants
            self._turn_to(0)
            self._emit("EXIT")
        return len(self.records) - 1

    # ---- spaces --------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        self._turn_to(self._cpu_of(step.task))
        if step.what == "fault":
            self._fault(self.live[step.space], self.events[step.index], step.space.image)
        elif step.what == "call":
            self._call(self.live[step.space], self.events[step.index], self.recording.result(step.index))
        elif step.what == "vacate":
            self._vacate(self.live[step.space], self.events[step.index], self.recording.result(step.index))
        elif step.what == "exec":
            self._exec(step.space)
        elif step.what == "attach":
            self._attach(step.space)
        elif step.what == "leave":
            self._leave(step.space)
        elif step.what == "fork" and step.other is not None:
            self._fork(step.space, step.other)
        elif step.what == "bury" and step.other is not None:
            self._bury(step.other)

    def _slot(self) -> int:
        if not self.free_slots:
            raise ReplayError(f"more than {CONSTANTS['MAX_MM'] - 1} processes at once: record fewer")
        slot = heapq.heappop(self.free_slots)
        self.highest_slot = max(self.highest_slot, slot)
        return slot

    def _exec(self, space: Space) -> None:
        heap = page_up(space.image.heap or 0)
        live = self.live[space] = Live(self._slot(), Presence(self.cache), heap, users=1)
        self._emit("EXEC", value=live.slot, aux=heap)
        self.counts["address spaces"] += 1
        for run in space.image.runs():
            self._infer(live, run, run.start, run.end)

    def _attach(self, space: Space) -> None:
        live = self.live[space]
        live.users += 1
        self._emit("MM", value=live.slot)

    def _leave(self, space: Space) -> None:
        live = self.live[space]
        live.users -= 1
        self._emit("EXIT")
        if live.users == 0:
            self._measure()
            heapq.heappush(self.free_slots, live.slot)
            del self.live[space]

    def _fork(self, space: Space, child: Space) -> None:
        live = self.live[space]
        copy = self.live[child] = Live(self._slot(), live.presence.fork(), live.brk)
        self._emit("FORK", value=copy.slot)
        self.counts["forks"] += 1
        self._measure()

    def _bury(self, child: Space) -> None:
        """A copy whose process was never seen: a spare CPU takes it and gives it up."""
        before = self.current
        if (0, 0) not in self.cpus:
            self.cpus[0, 0] = self._new_cpu()
        self._turn_to(self.cpus[0, 0])
        self._attach(child)
        self._leave(child)
        assert before is not None
        self._turn_to(before)

    def _measure(self) -> None:
        """Notes how much is needed at once."""
        spaces = [live.presence for live in self.live.values()]
        now = {
            "vmas": sum(len(presence.maps) for presence in spaces),
            "pages": sum(presence.own for presence in spaces),
            "tables": sum(tables_of(presence.tables) for presence in spaces),
        }
        self.peaks = {name: max(peak, now[name]) for name, peak in self.peaks.items()}

    # ---- mappings ------------------------------------------------------------------------------------------

    def _file(self, key: tuple[int, ...], shmem: bool = False) -> int:
        """A file for mappings of this kind, offset and length: the same one in all processes."""
        if key not in self.files:
            self.file_sizes.append(0)
            self.files[key] = len(self.file_sizes)
            if shmem:
                self.cache.shmem.add(len(self.file_sizes))
        return self.files[key]

    def _map(self, live: Live, start: int, end: int, mapping: Mapping, offset: int = 0) -> tuple[int, int]:
        """Maps the file's page `offset` on at start, whatever was there."""
        live.presence.map(start, end, mapping)
        flags = MAP_FIXED | (MAP_SHARED if mapping.shared else MAP_PRIVATE) | (0 if mapping.file else MAP_ANONYMOUS)
        return self._emit("MMAP", addr=start, length=end - start, prot=mapping.prot, flags=flags, value=mapping.file,
                          aux=offset << PAGE_SHIFT, opf=MAY_FAIL)

    def _infer(self, live: Live, run: Run, start: int, end: int) -> None:
        """Maps [start, end) of a run that nobody recorded."""
        step = 1 << PAGE_SHIFT if run.kind == "page" else end - start
        for at in range(start, end, step):
            file = 0
            if run.kind != "anonymous":
                file = self._file((-1, at - run.start, run.end - run.start, run.prot))
            self._map(live, at, at + step, Mapping(run.prot, file, (at >> PAGE_SHIFT) if file else 0))
            self.counts["inferred mappings"] += 1

    def _fault(self, live: Live, event: Event, image: Image) -> None:
        address, _, error = event.args
        if address not in live.presence.maps:
            self._map_late(live, image, address)
        kind = EXEC if error & FETCH else WRITE if error & 2 else READ
        op = {EXEC: "FETCH", WRITE: "STORE", READ: "LOAD"}[kind]
        assert self.current is not None
        self.predicted.append(live.presence.access(address, kind, self.current))
        self._need(live, address)
        self.fault_records.append(self._emit(op, addr=address, value=1 if op == "STORE" else 0,
                                             opf=MAY_FAIL | COUNT))

    def _map_late(self, live: Live, image: Image, address: int) -> None:
        """Something that the image had mapped, but that a recorded call has taken away meanwhile."""
        run = image.run_at(address)
        if run is None:
            return
        for start, end in live.presence.maps.gaps(run.start, run.end):
            if start <= address < end:
                self._infer(live, run, start, end)

    def _need(self, live: Live, address: int) -> None:
        """The page's file must reach as far as this page and its fault-around window."""
        found = live.presence.maps.find(address)
        if found is None or not found[2].file:
            return
        _, end, mapping = found
        page = min((address >> PAGE_SHIFT) + AROUND_SLACK, (end >> PAGE_SHIFT) - 1) - mapping.shift
        sizes, number = self.file_sizes, mapping.file - 1
        sizes[number] = max(sizes[number], min(page + 1, FILE_PAGES))

    # ---- calls ---------------------------------------------------------------------------------------------

    def _call(self, live: Live, event: Event, result: int | None) -> None:
        if result is None:
            self.counts["calls without a result"] += 1
            return
        if result < 0:
            self.counts["failed calls"] += 1
            return
        record = getattr(self, "_" + event.call)(live, event, result)
        if record is not None:
            self.counts["calls"] += 1
            self.call_records.append(record)

    def _mmap(self, live: Live, event: Event, result: int) -> tuple[int, int]:
        _, length, prot, flags, fd, offset = event.args
        end = page_up(result + length)
        shared = flags & 0xF in (1, 3)                      # MAP_SHARED, MAP_SHARED_VALIDATE
        anonymous = flags & MAP_ANONYMOUS or fd & NO_FD == NO_FD
        file = 0
        if anonymous and shared:
            file = self._file((-2, len(self.files)), shmem=True)
        elif not anonymous:
            file = self._file((offset, end - result, prot, flags & 0xF))
        mapping = Mapping(prot & 7, file, (result >> PAGE_SHIFT) if file else 0, shared)
        return self._map(live, result, end, mapping)

    def _munmap(self, live: Live, event: Event, result: int) -> tuple[int, int]:
        return self._unmap(live, event.args[0], page_up(event.args[0] + event.args[1]))

    def _unmap(self, live: Live, start: int, end: int) -> tuple[int, int]:
        live.presence.unmap(start, end)
        return self._emit("MUNMAP", addr=start, length=end - start, opf=MAY_FAIL)

    def _mprotect(self, live: Live, event: Event, result: int) -> tuple[int, int]:
        start, length, prot = event.args
        live.presence.protect(start, page_up(start + length), prot & 7)
        return self._emit("MPROTECT", addr=start, length=length, prot=prot & 7, opf=MAY_FAIL)

    def _madvise(self, live: Live, event: Event, result: int) -> tuple[int, int] | None:
        start, length, advice = event.args
        if advice not in ADVICE:
            self.counts[f"madvise {advice} skipped"] += 1
            return None
        if advice == DONTNEED:
            live.presence.zap(start, start + length)
        elif advice in (DONTFORK, DOFORK):
            live.presence.copying(start, page_up(start + length), advice == DOFORK)
        return self._emit("MADVISE", addr=start, length=length, value=advice, opf=MAY_FAIL)

    def _brk(self, live: Live, event: Event, result: int) -> tuple[int, int] | None:
        if live.brk == 0:                                   # recorded from the middle: the heap is inferred
            live.brk = page_up(result)
        low, high = page_up(live.brk), page_up(result)
        base = page_up(live.base)
        if high < base:
            live.brk = max(high, base)
            return self._unmap(live, high, max(low, base))
        ...
        return None
