"""From a lineage's steps to programs: one per thread of the trace, run one event at a time in recorded order.

Consecutive events of a thread are one burst: TURN waits for the burst's ticket, NEXT hands the following ticket to
the thread whose burst comes next.  Address spaces live in slots that are used again once everybody has left them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.cluster.replay.calls import Calls, Live, Place
from shmm.cluster.replay.lineage import Lineage, Step
from shmm.cluster.replay.presence import Cache, Presence
from shmm.cluster.replay.recording import Recording, Task
from shmm.cluster.replay.space import Space, page_up
from shmm.layout import CONSTANTS
from shmm.program import INSN, OP

OWN_CPUS = 256                              # up to so many threads have a CPU each; of more, the dead hand theirs on


class ReplayError(ValueError):
    """A trace that cannot be replayed here: one line that says why."""


@dataclass(frozen=True)
class Translation:
    """Programs and what they were made from."""

    programs: list[NDArray[Any]]
    faults: list[Place]                     # each recorded fault's CPU and record
    expected: list[str]                     # what the model says of each (presence.py)
    calls: list[Place]                      # each replayed call's
    files: list[tuple[int, bool]]           # (pages, is shared anonymous memory), numbered from 1
    differed: Counter[str]                  # recorded faults that happen again for another reason
    counts: Counter[str]                    # what was inferred, translated and left out
    slots: int                              # address spaces: the highest slot
    vmas: int                               # mappings at once
    pages: int                              # private pages at once
    tables: int                             # page tables at once
    cached: int                             # file pages in the end


class Translator:
    """Walks the steps and writes the programs."""

    def __init__(self, recording: Recording, lineage: Lineage, fault_around: int) -> None:
        self.recording = recording
        self.lineage = lineage
        self.cache = Cache(fault_around)
        self.counts: Counter[str] = Counter()
        self.calls = Calls(self._emit, self.cache, self.counts)
        self.cpus: dict[object, int] = {}
        self.free_cpus: list[int] = []
        self.hand_on = len(recording.tasks) > OWN_CPUS
        self.records: list[list[tuple[int, ...]]] = []
        self.live: dict[Space, Live] = {}
        self.free_slots = list(range(1, CONSTANTS["MAX_MM"]))
        self.highest_slot = 1
        self.vmas = self.pages = self.tables = 0
        self.current = 0
        self.ticket = 0
        self.faults: list[Place] = []
        self.expected: list[str] = []
        self.replayed: list[Place] = []
        self.free_cpus.append(self._new_cpu())
        self._emit("TURN", value=0)
        self._emit("EXIT")                  # CPU 0 finds itself in address space 1, which nobody wants
        for step in lineage.steps:
            self._step(step)
        self._measure()

    def translation(self) -> Translation:
        """The finished programs."""
        end = (OP["END"],) + (0,) * (len(INSN.names or ()) - 1)
        return Translation(
            programs=[np.array([*records, end], INSN) for records in self.records],
            faults=self.faults, expected=self.expected, calls=self.replayed, files=self.calls.files.list(),
            differed=self.calls.differed, counts=self.counts, slots=self.highest_slot, vmas=self.vmas,
            pages=self.pages, tables=self.tables, cached=self.cache.frames(),
        )

    # ---- records and CPUs ----------------------------------------------------------------------------------

    def _emit(
        self, op: str, *, addr: int = 0, length: int = 0, prot: int = 0, flags: int = 0, value: int = 0,
        aux: int = 0, count: int = 0, opf: int = 0,
    ) -> Place:
        """Adds a record to the current CPU's program."""
        records = self.records[self.current]
        records.append((OP[op], 0, 0, 0, opf, 0, prot, flags, addr, length, count, value, 0, aux))
        return self.current, len(records) - 1

    def _turn_to(self, cpu: int) -> None:
        """From here on records are CPU cpu's."""
        if cpu != self.current:
            self.ticket += 1
            self._emit("NEXT", value=self.ticket, count=cpu)
            self.current = cpu
            self._emit("TURN", value=self.ticket)

    def _cpu_of(self, task: Task | None) -> int:
        """The thread's CPU; None: the spare one that takes copies which nobody runs."""
        key = task if task is None or self.hand_on else (task.pid, task.tid)
        if key not in self.cpus:
            self.cpus[key] = heapq.heappop(self.free_cpus) if self.free_cpus else self._new_cpu()
        return self.cpus[key]

    def _new_cpu(self) -> int:
        if len(self.records) >= CONSTANTS["MAX_CPU"]:
            limit = CONSTANTS["MAX_CPU"]
            raise ReplayError(f"more than {limit} threads at once: record a shorter run or fewer processes")
        self.records.append([])
        return len(self.records) - 1

    # ---- steps ---------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        self._turn_to(self._cpu_of(step.task))
        getattr(self, "_" + step.what)(step)
        if self.hand_on and step.what == "leave" and step.index == step.task.leaves_after:
            heapq.heappush(self.free_cpus, self.cpus.pop(step.task))

    def _fault(self, step: Step) -> None:
        event = self.recording.events[step.index]
        place, expected = self.calls.fault(self.live[step.space], event, step.space.image, self.current)
        self.faults.append(place)
        self.expected.append(expected)
        if step.index in self.lineage.huge:
            self.calls.huge(self.live[step.space], event.args[0], self.current)

    def _kernel_fault(self, step: Step) -> None:
        """The kernel has touched user memory: here the program does, which no report counts."""
        event = self.recording.events[step.index]
        self.calls.fault(self.live[step.space], event, step.space.image, self.current)
        self.counts["kernel-mode faults"] += 1
        if step.index in self.lineage.huge:
            self.calls.huge(self.live[step.space], event.args[0], self.current)

    def _mapped(self, step: Step) -> None:
        self.calls.mapped(self.live[step.space], self.recording.events[step.index], self.lineage.cold(step.index))
        self.counts["mappings of execs"] += 1

    def _call(self, step: Step) -> None:
        event, result = self.recording.events[step.index], self.recording.result(step.index)
        place = self.calls.call(self.live[step.space], event, result, self.lineage.cold(step.index),
                                self.recording.mapped.get(step.index))
        if place is not None:
            self.replayed.append(place)

    def _remap(self, step: Step) -> None:
        event, result = self.recording.events[step.index], self.recording.result(step.index)
        assert result is not None
        place = self.calls.remap(self.live[step.space], event, result)
        if place is not None:
            self.replayed.append(place)

    def _vacate(self, step: Step) -> None:
        result = self.recording.result(step.index)
        assert result is not None
        self.calls.vacate(self.live[step.space], self.recording.events[step.index], result)

    def _exec(self, step: Step) -> None:
        image = step.space.image
        heap = page_up(image.heap or 0)
        live = self.live[step.space] = Live(self._slot(), Presence(self.cache), heap, heap, users=1)
        self._emit("EXEC", value=live.slot, aux=heap)
        self.counts["address spaces"] += 1
        for run in image.runs():
            self.calls.infer(live, run, run.start, run.end)

    def _attach(self, step: Step) -> None:
        live = self.live[step.space]
        live.users += 1
        self._emit("MM", value=live.slot)

    def _leave(self, step: Step) -> None:
        live = self.live[step.space]
        live.users -= 1
        self._emit("EXIT")
        if live.users == 0:
            self._measure()
            heapq.heappush(self.free_slots, live.slot)
            del self.live[step.space]

    def _fork(self, step: Step) -> None:
        assert step.other is not None
        live = self.live[step.space]
        copy = Live(self._slot(), live.presence.fork(), live.base, live.brk)
        self.live[step.other] = copy
        self._emit("FORK", value=copy.slot)
        self.counts["forks"] += 1
        self._measure()

    def _bury(self, step: Step) -> None:
        """A copy whose process was never seen: a spare CPU takes it and gives it up."""
        assert step.other is not None
        before = self.current
        self._turn_to(self._cpu_of(None))
        taken = Step("attach", step.task, step.other, step.index)
        self._attach(taken)
        self._leave(taken)
        self._turn_to(before)

    # ---- room ----------------------------------------------------------------------------------------------

    def _slot(self) -> int:
        if not self.free_slots:
            limit = CONSTANTS["MAX_MM"] - 1
            raise ReplayError(f"more than {limit} processes at once: record fewer, or a part of the run")
        slot = heapq.heappop(self.free_slots)
        self.highest_slot = max(self.highest_slot, slot)
        return slot

    def _measure(self) -> None:
        """Notes what is needed at once; called before anything goes away."""
        spaces = [live.presence for live in self.live.values()]
        self.vmas = max(self.vmas, sum(presence.most_maps for presence in spaces))
        self.pages = max(self.pages, sum(presence.most_own for presence in spaces))
        self.tables = max(self.tables, sum(presence.table_pages() for presence in spaces))
