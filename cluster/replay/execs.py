"""Execs that nobody recorded, inferred.  (Recordings of `shmm record` tell them: then nothing is inferred.)

The first thing that a new image does in user mode is to fetch its first instruction: a fault on a page that is not
present, by a process's first thread, after which no other thread of the process is ever seen again.  Of the faults that
look so, these start an image:

- those right after two flushes of the own TLB outside any call: execve has moved the new stack to its random place;
- those whose next call is brk(0) with a result that is not where the heap was (the dynamic loader's first call, and a
  static libc's), if the fault is not one that the old image explains, or the command has changed with it;
- those after which the old image is contradicted: pages fault as not present that it had made present, or everything
  that runs lies where it never ran.

A change of the command alone is no exec: threads rename themselves.  Without address randomisation only the
contradictions tell."""

from __future__ import annotations

from collections import defaultdict

from shmm.cluster.replay.image import PAGE_SHIFT
from shmm.cluster.replay.recording import FETCH, PRESENT, Recording, Task
from shmm.cluster.replay.space import REGION_SHIFT, Space
from shmm.cluster.replay.trace import EXEC, FAULT

LOOK_AHEAD = 40                             # events that a doubtful exec is judged by
ENOUGH = 3                                  # contradictions, or events in new places
MOVERS = frozenset({"munmap", "mprotect", "madvise", "mremap"})


class Execs:
    """Judges whether an event is the first of a new image."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.events = recording.events
        self.by_pid: dict[int, list[Task]] = defaultdict(list)
        for task in recording.tasks:
            self.by_pid[task.pid].append(task)

    def fetches_absent(self, i: int) -> bool:
        """Whether the event is the fetch of an instruction on a page that is not present, or a told exec."""
        event = self.events[i]
        if event.name == EXEC:
            return True
        return event.name == FAULT and event.args[2] & (FETCH | PRESENT) == FETCH

    def starts_image(self, task: Task, passed: int, comm: str, space: Space) -> bool:
        """Whether the thread's event number `passed` is a new image's first.

        comm: the thread's command until then; space: what it ran in."""
        i = task.indices[passed]
        if self.recording.tells_execs:
            return self.events[i].name == EXEC
        if not task.leader or not self.fetches_absent(i) or self._others_live_on(task, i):
            return False
        if i in self.recording.after_flushes:
            return True
        address = self.events[i].args[0]
        strange = not space.explains(address) or address >> PAGE_SHIFT in space.touched
        renamed = self.events[i].comm != comm
        loads = self._starts_with_brk(task, passed, space)
        if loads and (strange or renamed):
            return True
        plausible = strange or renamed or (loads and address not in space.mapped)
        return plausible and self._contradicted(task, passed, space, renamed and strange)

    def upcoming(self, task: Task, passed: int) -> list[int]:
        """The thread's next events, as long as they are surely of one image."""
        ahead = task.indices[passed : passed + LOOK_AHEAD]
        comm = self.events[ahead[0]].comm
        for n, j in enumerate(ahead[1:], 1):
            if self.events[j].comm != comm or j in self.recording.after_flushes:
                return ahead[:n]
        return ahead

    def _others_live_on(self, task: Task, i: int) -> bool:
        """An exec would have killed every other thread of the process."""
        return any(t.first < i < t.last for t in self.by_pid[task.pid] if t is not task)

    def _starts_with_brk(self, task: Task, passed: int, space: Space) -> bool:
        """Whether the thread's next call asks where the heap is, and learns that it is not where it was."""
        if space.brk is None and space.image.exec_seen:
            return False                    # this image has not asked yet
        for j in self.upcoming(task, passed):
            event = self.events[j]
            if event.name == "exit":
                return False
            if event.name == "enter":
                result = self.recording.result(j)
                return event.call == "brk" and event.args[0] == 0 and result not in (None, space.brk)
        return False

    def _contradicted(self, task: Task, passed: int, space: Space, likely: bool) -> bool:
        """Weighs what follows: for a new image, or for the old one."""
        new = old = again = 0
        regions: set[int] = set()
        for j in self.upcoming(task, passed):
            event = self.events[j]
            if event.name == "exit" and event.call == "mmap":
                regions.add(event.args[0] >> REGION_SHIFT)
            elif event.name == "enter" and event.call in MOVERS:
                if event.args[0] >> REGION_SHIFT in regions:
                    new += 1
                else:
                    old += space.explains(event.args[0])
            elif event.name == FAULT:
                address, ip, error = event.args
                if not error & PRESENT and address >> PAGE_SHIFT in space.touched:
                    again += 1
                elif ip and space.explains(ip) and ip >> REGION_SHIFT not in regions:
                    old += 1
                else:
                    new += 1
                    regions.update((address >> REGION_SHIFT, ip >> REGION_SHIFT))
        if likely:
            return old <= new + again
        return again >= max(ENOUGH, old) or (old == 0 and new >= ENOUGH)
