"""A trace's events put together: calls with their results, threads with their lives, children with their parents.

A call is an enter and the exit that follows it on the same thread; either may be missing, where recording began
or a thread was killed in between.  A thread number that clone returns 0 in begins a new life, even if another
thread had that number before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from shmm.cluster.replay.trace import EXEC, FAULT, FLUSH, KERNEL_FAULT, MAPPED, NEW_TASK, Event, Trace

CLONE_VM = 0x100
WRITE, FETCH, PRESENT = 2, 16, 1            # bits of an x86 page-fault error code
OWN_MM = 3                                  # tlb_flush's reason: local MM shootdown
CLONES = ("clone", "clone3", "fork", "vfork")


@dataclass(eq=False, slots=True)
class Task:
    """One life of a thread.  Indices are into the trace's events; flushes are not among them."""

    pid: int
    tid: int
    born: bool                              # its first event is clone's return in the child
    indices: list[int] = field(default_factory=list)
    born_at: int = -1                       # that event
    leaves_after: int = -1                  # the event after which it has left its address space

    @property
    def leader(self) -> bool:
        """Whether it is its process's first thread."""
        return self.pid == self.tid

    @property
    def first(self) -> int:
        """Index of its first event."""
        return self.indices[0]

    @property
    def last(self) -> int:
        """Index of its last event."""
        return self.indices[-1]


@dataclass(eq=False, slots=True)
class Birth:
    """A clone that made a child.  parent_exit: index of its exit in the parent, or None; child None: never seen."""

    enter: int
    shares: bool                            # the child runs in its parent's address space (until it execs)
    parent_exit: int | None = None
    child: Task | None = None


class Recording:
    """The events of a trace and what belongs together among them."""

    def __init__(self, trace: Trace) -> None:
        self.events: list[Event] = trace.events
        self.results: dict[int, tuple[int, int]] = {}       # enter -> (result, index of the exit)
        self.enters: dict[int, int] = {}                    # exit -> enter
        self.tasks: list[Task] = []                         # in order of their first event
        self.task_of: dict[int, Task] = {}                  # event -> task
        self.after_flushes: set[int] = set()                # events right after two or more flushes of the own mm
        self.tells_execs = any(event.name == EXEC for event in self.events)
        self.clone_flags: dict[int, int] = {}               # enter -> flags, where they were recorded
        self.mapped: dict[int, tuple[int, ...]] = {}        # an mmap's enter -> what perf says that it mapped
        self.asides: set[int] = set()                       # events that belong to a call and are no step of their own
        self._pair()
        self.births: dict[int, Birth] = {}                  # enter -> birth
        self.born_of: dict[Task, Birth] = {}
        self._match_children(trace.paired)
        self._end_lives()

    def _pair(self) -> None:
        alive: dict[int, Task] = {}
        pending: dict[int, int] = {}
        flushes: Counter[int] = Counter()
        unborn = self._faults_before_birth()
        for i, event in enumerate(self.events):
            tid = event.tid
            if event.name == FLUSH:
                flushes[tid] += event.args[0] == OWN_MM
            if self._aside(event, pending.get(tid)):
                self.asides.add(i)
                continue
            if flushes.pop(tid, 0) >= 2:
                self.after_flushes.add(i)
            task = alive.get(tid)
            born = event.name == "exit" and event.call in CLONES and event.args[0] == 0
            birth = unborn.get(i, i if born else -1)        # of the life that the event belongs to, if it begins here
            if task is None or task.pid != event.pid or birth > task.born_at:
                task = alive[tid] = Task(event.pid, tid, birth >= 0, born_at=birth)
                self.tasks.append(task)
                pending.pop(tid, None)
            task.indices.append(i)
            self.task_of[i] = task
            if event.name == "enter":
                pending[tid] = i
            elif event.name == "exit" and not born:
                enter = pending.pop(tid, None)
                if enter is not None and self.events[enter].call == event.call:
                    self.results[enter] = (event.args[0], i)
                    self.enters[i] = enter

    def _faults_before_birth(self) -> dict[int, int]:
        """Faults of the kernel's in a child that has not returned from clone yet -> that return."""
        out: dict[int, int] = {}
        births: dict[int, int] = {}                         # thread -> its next event, if that is its birth
        for i in range(len(self.events) - 1, -1, -1):
            event = self.events[i]
            if event.name == KERNEL_FAULT:
                if event.tid in births:
                    out[i] = births[event.tid]
            elif event.name == "exit" and event.call in CLONES and event.args[0] == 0:
                births[event.tid] = i
            elif event.name not in (FLUSH, NEW_TASK, MAPPED):
                births.pop(event.tid, None)
        return out

    def _aside(self, event: Event, enter: int | None) -> bool:
        """Whether the event only tells more about a call.  enter: of the call that its thread is in."""
        if event.name == NEW_TASK and enter is not None and self.events[enter].call in CLONES:
            self.clone_flags[enter] = event.args[0]
        if event.name == MAPPED and enter is not None and self.events[enter].call == "mmap":
            self.mapped.setdefault(enter, event.args)
        return event.name in (FLUSH, NEW_TASK) or (event.name == MAPPED and enter is not None)

    # ---- children and parents ------------------------------------------------------------------------------

    def _match_children(self, paired: bool) -> None:
        """First by the number that clone returned, then (other pid namespaces, lost exits) in order."""
        born: dict[int, list[Task]] = defaultdict(list)
        for task in self.tasks:
            if task.born:
                born[task.tid].append(task)
        clones = [i for i, event in enumerate(self.events) if event.name == "enter" and event.call in CLONES]
        for i in clones:
            result, at = self.results.get(i, (None, None))
            if result is not None and result < 0:
                continue
            self.births[i] = birth = Birth(i, self._shares(i), at)
            child = next((task for task in born.get(result or 0, ()) if task.first > i), None)
            if child is not None and child not in self.born_of:
                self._join(birth, child)
        for child in (task for lives in born.values() for task in lives if task not in self.born_of):
            unclaimed = self._unclaimed_birth(child)
            if unclaimed is not None:
                self._join(unclaimed, child)
        if paired:
            for birth in self.births.values():
                birth.shares = birth.shares and not self._was_fork(birth)

    def _shares(self, enter: int) -> bool:
        """Whether that clone's child runs in the same address space.  Of clone3 the flags may not be known: it does,
        unless what follows contradicts it."""
        event = self.events[enter]
        if enter in self.clone_flags:
            return bool(self.clone_flags[enter] & CLONE_VM)
        return event.call in ("clone3", "vfork") or (event.call == "clone" and bool(event.args[0] & CLONE_VM))

    def _join(self, birth: Birth, child: Task) -> None:
        birth.child = child
        self.born_of[child] = birth

    def _unclaimed_birth(self, child: Task) -> Birth | None:
        """The oldest clone without a child that may have made this one: its command is the child's too."""
        start = self.events[child.born_at]
        for i, birth in self.births.items():
            if i > child.first:
                return None
            event = self.events[i]
            if birth.child is None and event.call == start.call and event.comm == start.comm:
                return birth
        return None

    def _was_fork(self, birth: Birth) -> bool:
        """clone3's flags are not recorded.  A child process that runs on after its parent has returned is no vfork."""
        child = birth.child
        if self.events[birth.enter].call != "clone3" or child is None or birth.parent_exit is None:
            return False
        if birth.enter in self.clone_flags:
            return False                    # they say so themselves
        if not child.leader or len(child.indices) < 2 or child.indices[1] < birth.parent_exit:
            return False
        event = self.events[child.indices[1]]
        starts_image = event.name == FAULT and event.args[2] & FETCH and not event.args[2] & PRESENT
        return event.comm == self.events[child.first].comm and not starts_image

    # ---- lives ---------------------------------------------------------------------------------------------

    def _end_lives(self) -> None:
        """A thread leaves its address space after its last event; a process's first thread stays to the end."""
        lives: dict[int, Task] = {}
        for task in self.tasks:
            task.leaves_after = task.last
            if task.leader:
                lives[task.pid] = task
            elif task.pid in lives:
                leader = lives[task.pid]
                leader.leaves_after = max(leader.leaves_after, task.last)

    def result(self, enter: int) -> int | None:
        """What the call that was entered there returned; None if that was not recorded."""
        found = self.results.get(enter)
        return found[0] if found else None
