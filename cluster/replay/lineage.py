"""Which address space each event of a trace belongs to: steps, in recorded order, with the forks in between.

exec   see execs.py.
fork   clone without CLONE_VM.  The copy is made where the first write fault on a present page by another thread
       shows that pages are shared already, at the latest where the child or the call returns.
vfork  clone with CLONE_VM, and clone3, whose flags are not recorded (glibc makes threads and spawned processes with
       it): the child runs in its parent's address space until it execs.  A clone3 whose parent returns while the
       child still runs the same image was a fork.  vfork(2) itself is not recorded: a process that appears from
       nowhere shares the space of one with the same command, whose addresses it uses and which rests meanwhile.

A call takes effect where it makes room (munmap, mprotect, madvise) at its enter, and where it takes room (mmap, brk)
at its exit: no thread can use the new mapping before, and none the old one after.  mremap does both (remaps.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from shmm.cluster.replay.execs import Execs
from shmm.cluster.replay.hugepages import HugePages
from shmm.cluster.replay.image import PAGE_SHIFT, WINDOW, Image
from shmm.cluster.replay.recording import FETCH, PRESENT, WRITE, Birth, Recording, Task
from shmm.cluster.replay.space import NO_FILE, READ_WRITE, REGION_SHIFT, Space, arrival, departure, page_up
from shmm.cluster.replay.trace import FAULT, FILE, KERNEL_FAULT, MAPPED, STACK, Event

TASK_SIZE = 0x7FFFFFFFF000
LOWEST = 0x10000                            # vm.mmap_min_addr: nothing is ever mapped below
ANONYMOUS = 0x20
DONTNEED, REMOVE = 4, 9
AT_ENTER = frozenset({"munmap", "mprotect", "madvise", "mlock", "mlock2", "shmdt"})
COLD = 8                                    # a file is cold if one in so many windows was incomplete


@dataclass(slots=True)
class Step:
    """One thing to replay at an event: "exec" (a fresh space), "attach", "leave", "fork" (other: the child's space),
    "bury" (other: a copy that is never seen used), "fault", "kernel_fault", "mapped" (by execve, or a call that is not
    recorded), "call", "remap" (a whole mremap), or "vacate": what another mremap moves away from."""

    what: str
    task: Task
    space: Space
    index: int
    other: Space | None = None


class Lineage:
    """The steps of a recording, in order."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.events = recording.events
        self.execs = Execs(recording)
        self.steps: list[Step] = []
        self.images: list[Image] = []
        self.space_of: dict[Task, Space] = {}
        self.comm_of: dict[Task, str] = {}
        self.passed: Counter[Task] = Counter()                  # how many events of it have been dealt with
        self.forked: dict[Task, Space] = {}
        self.windows: Counter[int] = Counter()                  # mmap's enter -> fault-around windows seen used,
        self.conflicts: Counter[int] = Counter()                # and absent pages read in windows used before
        self.huge = HugePages(self.events)
        self._follow()

    def cold(self, mmap: int) -> bool:
        """Whether many pages of that mapping were not in the page cache when their neighbours were mapped."""
        return self.conflicts[mmap] * COLD >= max(1, self.windows[mmap])

    def _follow(self) -> None:
        forks: dict[int, list[Birth]] = defaultdict(list)
        ends: dict[int, list[Task]] = defaultdict(list)
        for task in self.recording.tasks:
            ends[task.leaves_after].append(task)
        for i, event in enumerate(self.events):
            if i in self.recording.asides:
                continue
            for birth in forks.pop(i, ()):
                self._fork(birth, i)
            task = self.recording.task_of[i]
            self._find_space(task, i)
            self.comm_of[task] = event.comm
            self.passed[task] += 1
            self._event(task, self.space_of[task], i, event)
            made = self.recording.births.get(i)
            at = self._copied_at(made, task) if made is not None and not made.shares else None
            if made is not None and at is not None:
                forks[at].append(made)
            for gone in ends.pop(i, ()):
                self._leave(gone, i)

    # ---- how a thread comes to its space -------------------------------------------------------------------

    def _find_space(self, task: Task, i: int) -> None:
        if task not in self.space_of:
            self._place(task, i)
        elif self.execs.starts_image(task, self.passed[task], self.comm_of[task], self.space_of[task]):
            self._leave(task, i)
            self._start(task, i, True)

    def _start(self, task: Task, i: int, exec_seen: bool) -> None:
        image = Image(exec_seen)
        self.images.append(image)
        self.space_of[task] = Space(image)
        self.steps.append(Step("exec", task, self.space_of[task], i))

    def _leave(self, task: Task, i: int) -> None:
        if task in self.space_of:
            self.steps.append(Step("leave", task, self.space_of.pop(task), i))

    def _place(self, task: Task, i: int) -> None:
        """A thread's first event."""
        birth = self.recording.born_of.get(task)
        space = self.forked.pop(task, None)
        if space is None and birth is not None:
            space = self.space_of.get(self.recording.task_of[birth.enter])
        if space is None:
            space = self._sibling_space(task) or self._vfork_parent(task, i)
        if space is None:
            self._start(task, i, self.execs.fetches_absent(i))
        else:
            self.space_of[task] = space
            self.steps.append(Step("attach", task, space, i))

    def _sibling_space(self, task: Task) -> Space | None:
        """The space of its process, if that is known already."""
        for other in self.execs.by_pid[task.pid]:
            if other in self.space_of:
                return self.space_of[other]
        return None

    def _vfork_parent(self, task: Task, i: int) -> Space | None:
        """The space that a process from nowhere borrows."""
        fault = next((self.events[j] for j in self.execs.upcoming(task, 0) if self.events[j].name == FAULT), None)
        if fault is None:
            return None
        until = self._runs_until(task)
        best: tuple[int, Space] | None = None
        for other, space in self.space_of.items():
            seen = self.passed[other]
            rests = seen == len(other.indices) or other.indices[seen] >= until
            if self.comm_of[other] == self.events[i].comm and rests and self._borrows(fault, space):
                last = other.indices[seen - 1]
                if best is None or last > best[0]:
                    best = last, space
        return best[1] if best else None

    def _borrows(self, fault: Event, space: Space) -> bool:
        """Whether a process whose first fault is this one may run in that space."""
        address, ip, error = fault.args
        if not space.explains(address) or (ip and not space.explains(ip)):
            return False
        if not error & PRESENT and address >> PAGE_SHIFT in space.touched:
            return False                    # it would have found its page
        return error & (FETCH | PRESENT) != FETCH or address in space.mapped

    def _runs_until(self, task: Task) -> int:
        """The event before which a new process has started an image of its own, as far as can be told early."""
        for j in task.indices[1:]:
            if j in self.recording.after_flushes or self.events[j].comm != self.events[task.first].comm:
                return j
        return task.last

    # ---- fork ----------------------------------------------------------------------------------------------

    def _copied_at(self, birth: Birth, parent: Task) -> int | None:
        """The event before which the parent's space has been copied; None if nothing shows that it ever was."""
        ends = [at for at in (birth.parent_exit, birth.child.first if birth.child else None) if at is not None]
        if not ends:
            return None
        space = self.space_of[parent]
        for j in range(birth.enter + 1, min(ends)):
            event = self.events[j]
            if event.name == FAULT and event.args[2] & (WRITE | PRESENT) == WRITE | PRESENT:
                other = self.recording.task_of[j]
                if other is not parent and self.space_of.get(other) is space:
                    return j
        return min(ends)

    def _fork(self, birth: Birth, i: int) -> None:
        parent = self.recording.task_of[birth.enter]
        space = self.space_of.get(parent)
        if space is None:
            return
        child = space.fork()
        self.steps.append(Step("fork", parent, space, i, child))
        if birth.child is not None:
            self.forked[birth.child] = child
        else:
            self.steps.append(Step("bury", parent, space, i, child))

    # ---- what an event does --------------------------------------------------------------------------------

    def _event(self, task: Task, space: Space, i: int, event: Event) -> None:
        if event.name == FAULT:
            self._fault(task, space, i, event, "fault")
        elif event.name == KERNEL_FAULT:
            if LOWEST <= event.args[0] < TASK_SIZE:
                self._fault(task, space, i, event, "kernel_fault")
        elif event.name == MAPPED:
            self._mapped(task, space, i, event)
        elif event.name == "enter":
            result = self.recording.result(i)
            if event.call in AT_ENTER:
                self._call(task, space, i, event, result)
            elif event.call == "mremap" and result is not None and result >= 0 and self._disturbed(i):
                self.steps.append(Step("vacate", task, space, i))
                space.unmap(*departure(event, result))
        elif i in self.recording.enters and event.call in ("mmap", "brk", "mremap"):
            enter = self.recording.enters[i]
            self._call(task, space, enter, self.events[enter], event.args[0])

    def _disturbed(self, enter: int) -> bool:
        """Whether another thread's call begins or ends while that one lasts."""
        _, leave = self.recording.results[enter]
        return any(event.name in ("enter", "exit") for event in self.events[enter + 1 : leave])

    def _mapped(self, task: Task, space: Space, i: int, event: Event) -> None:
        """Something that no recorded call has mapped: execve, or shmat.  A stack grows under faults, so all of it is
        there from the beginning, as an inferred mapping."""
        start, length, prot, _, what, *_ = event.args
        if what == STACK:
            space.image.note_range(start, start + length)
            return
        space.map(start, start + length, prot, i if what == FILE else NO_FILE)
        self.steps.append(Step("mapped", task, space, i))

    def _fault(self, task: Task, space: Space, i: int, event: Event, what: str) -> None:
        address, ip, error = event.args
        if LOWEST <= address < TASK_SIZE:
            self._evidence(space, address, error)
        self.huge.fault(space, i)
        space.regions.update((address >> REGION_SHIFT, ip >> REGION_SHIFT))
        space.touched.add(address >> PAGE_SHIFT)
        self.steps.append(Step(what, task, space, i))

    def _evidence(self, space: Space, address: int, error: int) -> None:
        """What a fault says about mappings that nobody recorded, and about the page cache."""
        page = address >> PAGE_SHIFT
        found = space.mapped.find(address)
        if found is None:
            space.image.note_fault(address, error, page in space.touched)
        if error & (PRESENT | WRITE):
            return
        start, _, (mmap, _) = found or (0, 0, (NO_FILE, 0))
        window = space.windows.setdefault((page // WINDOW, start), set())
        window.add(page)
        if found is None:
            space.image.note_window(window)
        else:
            self.windows[mmap] += len(window) == 1
            self.conflicts[mmap] += len(window) > 1

    def _call(self, task: Task, space: Space, enter: int, event: Event, result: int | None) -> None:
        """result None: its exit was not recorded, as of a thread that was killed in it."""
        whole = event.call == "mremap" and result is not None and result >= 0 and not self._disturbed(enter)
        self.steps.append(Step("remap" if whole else "call", task, space, enter))
        if result is not None and result >= 0:
            self._take_effect(space, enter, event, result)

    def _take_effect(self, space: Space, enter: int, event: Event, result: int) -> None:
        call, args = event.call, event.args
        end = page_up(args[0] + args[1]) if len(args) > 1 else 0
        if call == "mmap":
            space.map(result, page_up(result + args[1]), args[2], NO_FILE if args[3] & ANONYMOUS else enter)
        elif call == "munmap":
            space.unmap(args[0], end)
        elif call == "mremap":
            found = space.mapped.find(args[0])
            space.unmap(*departure(event, result))
            space.map(*arrival(event, result), found[2][1] if found else READ_WRITE)
        elif call == "brk":
            space.set_brk(result)
        elif call == "shmdt":
            found = space.mapped.find(args[0])
            if found is not None:
                space.unmap(found[0], found[1])
        elif call in ("mprotect", "madvise"):
            for low, high in space.mapped.gaps(args[0], end):
                space.image.note_range(low, high)
            if call == "mprotect":
                space.mapped.update(args[0], end, lambda value: (value[0], args[2]))
            elif DONTNEED <= args[2] <= REMOVE:
                space.forget(args[0], end)
            else:
                self.huge.advise(space, args[0], end, args[2])
