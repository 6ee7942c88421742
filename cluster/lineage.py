"""Which address space each event of a trace belongs to: the execs and forks that nobody recorded, inferred.

A thread's events are followed in recorded order and become steps.  What has to be inferred, and from what:

exec   The first thing that a new image does in user mode is to fetch its first instruction, a fault on a page that
       is not present.  Such a fault of a process's first thread starts a new image if no other thread of the process
       lives on, and
       - the command changed just before (and the fault is not one that the old image explains: a thread may rename
         itself), or
       - the next call is brk(0) and its result is not where the heap was: the dynamic loader's and libc's first call, or
       - what follows contradicts the old image: pages fault as not present that it had made present, or everything
         that runs lies where the old image never ran.
fork   clone without CLONE_VM.  The copy is made where the first write fault on a present page of another thread
       shows that pages are already shared, at the latest where the child or the call returns.
vfork  clone with CLONE_VM, and clone3 (whose flags are not recorded; glibc makes threads and spawned processes
       with it): the child runs in its parent's address space until it execs.  A clone3 whose parent returns while
       the child still runs the same image was a fork.  vfork(2) itself is not recorded: a process that appears from
       nowhere shares the space of one with the same command whose addresses it uses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from shmm.cluster.image import WINDOW, Image
from shmm.cluster.intervals import Intervals
from shmm.cluster.recording import FETCH, PRESENT, WRITE, Birth, Recording, Task
from shmm.cluster.trace import FAULT, FLUSH, Event

PAGE_SHIFT = 12
PAGE = 1 << PAGE_SHIFT
REGION_SHIFT = 21
TASK_SIZE = 0x7FFFFFFFF000
LOWEST = 0x10000                            # vm.mmap_min_addr: nothing is ever mapped below
COLD = 8                                    # a file is cold if one in so many windows was incomplete
LOOK_AHEAD = 40                             # events that a doubtful exec is judged by
ANONYMOUS = 0x20
RW = 3
DONTNEED, FREE, REMOVE = 4, 8, 9


def page_up(address: int) -> int:
    return (address + PAGE - 1) & -PAGE


@dataclass(eq=False, slots=True)
class Space:
    """One address space, and what is known of it up to the event that is looked at."""

    image: Image
    mapped: Intervals[tuple[int, int]] = field(default_factory=Intervals)   # by recorded calls: (file's mmap, prot)
    regions: set[int] = field(default_factory=set)      # 2 MiB regions that were touched or run in
    touched: set[int] = field(default_factory=set)      # pages that faulted here and have not been unmapped
    # fault-around windows (number, mapping's start): the pages that were read while absent
    windows: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    brk: int | None = None

    def fork(self) -> Space:
        """A copy, as it was seen from the parent; file pages are not copied, so nothing counts as touched."""
        return Space(self.image, self.mapped.copy(), set(self.regions), brk=self.brk)

    def forget(self, start: int, end: int) -> None:
        """The pages of [start, end) are not present any more."""
        first, last = start >> PAGE_SHIFT, page_up(end) >> PAGE_SHIFT
        if last - first < len(self.touched):
            self.touched.difference_update(range(first, last))
        else:
            self.touched = {page for page in self.touched if not first <= page < last}
        self.windows = {key: left for key, pages in self.windows.items()
                        if (left := {page for page in pages if not first <= page < last})}

    def map(self, start: int, end: int, prot: int, mmap: int = -1) -> None:
        """mmap: the event that mapped a file there."""
        self.forget(start, end)
        self.mapped.set(start, end, (mmap, prot))

    def unmap(self, start: int, end: int) -> None:
        self.forget(start, end)
        self.mapped.clear(start, end)

    def explains(self, address: int) -> bool:
        """Whether this space is known to have something there."""
        return address in self.mapped or address >> REGION_SHIFT in self.regions


@dataclass(slots=True)
class Step:
    """One thing to replay: "exec" (a fresh space), "attach", "leave", "fork" (other is the child's space),
    "fault" or "call" at that event, or "vacate": what an mremap moves away from, before its result is known."""

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
        self.steps: list[Step] = []
        self.images: list[Image] = []
        self.space_of: dict[Task, Space] = {}
        self.comm_of: dict[Task, str] = {}
        self.forked: dict[Task, Space] = {}
        self.windows: Counter[int] = Counter()                  # mmap's enter -> fault-around windows seen used,
        self.conflicts: Counter[int] = Counter()                # and absent pages read in windows used before
        self.followers: dict[Task, int] = {}                    # how many events of it have been passed
        self.by_pid: dict[int, list[Task]] = defaultdict(list)
        for task in recording.tasks:
            self.by_pid[task.pid].append(task)
        self._follow()

    def _follow(self) -> None:
        forks: dict[int, list[Birth]] = defaultdict(list)
        ends: dict[int, list[Task]] = defaultdict(list)
        for task in self.recording.tasks:
            ends[task.leaves_after].append(task)
        for i, event in enumerate(self.events):
            if event.name == FLUSH:
                continue
            for birth in forks.pop(i, ()):
                self._fork(birth, i)
            task = self.recording.task_of[i]
            if task not in self.space_of:
                self._place(task, i)
            elif self._execs(task, i):
                self._leave(task, i)
                self._start(task, i)
            self.comm_of[task] = event.comm
            self.followers[task] = self.followers.get(task, 0) + 1
            self._event(task, self.space_of[task], i, event)
            birth = self.recording.births.get(i)
            if birth is not None and not birth.shares:
                at = self._copied_at(birth, task)
                if at is not None:
                    forks[at].append(birth)
            for gone in ends.pop(i, ()):
                self._leave(gone, i)

    # ---- how a thread comes to its space -------------------------------------------------------------------

    def _start(self, task: Task, i: int) -> None:
        image = Image(exec_seen=task in self.comm_of or self._looks_like_start(task, i))
        self.images.append(image)
        self.space_of[task] = Space(image)
        self.steps.append(Step("exec", task, self.space_of[task], i))

    def _attach(self, task: Task, space: Space, i: int) -> None:
        self.space_of[task] = space
        self.steps.append(Step("attach", task, space, i))

    def _leave(self, task: Task, i: int) -> None:
        if task in self.space_of:
            self.steps.append(Step("leave", task, self.space_of.pop(task), i))

    def _place(self, task: Task, i: int) -> None:
        """A thread's first event."""
        birth = self.recording.born_of.get(task)
        parent = self.recording.task_of[birth.enter] if birth else None
        if task in self.forked:
            self._attach(task, self.forked.pop(task), i)
        elif parent is not None and parent in self.space_of:
            self._attach(task, self.space_of[parent], i)
        else:
            space = self._sibling_space(task) or self._vfork_parent(task, i)
            if space is not None:
                self._attach(task, space, i)
            else:
                self._start(task, i)

    def _sibling_space(self, task: Task) -> Space | None:
        """A thread of a process that is already known."""
        if task.leader and not self.recording.born_of.get(task):
            siblings = [t for t in self.by_pid[task.pid] if t in self.space_of and not t.leader]
        else:
            siblings = [t for t in self.by_pid[task.pid] if t in self.space_of]
        return self.space_of[siblings[0]] if siblings else None

    def _vfork_parent(self, task: Task, i: int) -> Space | None:
        """The space that a process from nowhere borrows: one with its command that explains its first fault."""
        fault = self._next_fault(task, i)
        if fault is None:
            return None
        address, ip, error = fault.args
        fetches_first = error & FETCH and not error & PRESENT
        until = self._runs_until(task)
        best: tuple[int, Space] | None = None
        for other, space in self.space_of.items():
            if self.comm_of.get(other) != self.events[i].comm or other.pid == task.pid:
                continue
            if any(i < j < until for j in other.indices[self.followers[other] : self.followers[other] + 1]):
                continue                        # vfork holds the parent until the child has gone its way
            known = space.explains(address) and (space.explains(ip) or ip == 0)
            contradicts = not error & PRESENT and address >> PAGE_SHIFT in space.touched
            if not known or contradicts or (fetches_first and address not in space.mapped):
                continue
            seen = other.indices[self.followers[other] - 1]
            if best is None or seen > best[0]:
                best = seen, space
        return best[1] if best else None

    def _runs_until(self, task: Task) -> int:
        """The event before which a new process has started an image of its own, as far as can be told early."""
        for j in task.indices[1:]:
            if j in self.recording.after_flushes or self.events[j].comm != self.events[task.first].comm:
                return j
        return task.last

    def _next_fault(self, task: Task, i: int) -> Event | None:
        for j in self._upcoming(task, i):
            if self.events[j].name == FAULT:
                return self.events[j]
        return None

    def _upcoming(self, task: Task, i: int) -> list[int]:
        """The thread's next events, from i on, as long as they are surely of one image."""
        done = self.followers.get(task, 0)
        out = []
        for j in task.indices[done : done + LOOK_AHEAD]:
            if j > i and (self.events[j].comm != self.events[i].comm or j in self.recording.after_flushes):
                break
            out.append(j)
        return out

    # ---- fork ----------------------------------------------------------------------------------------------

    def _copied_at(self, birth: Birth, parent: Task) -> int | None:
        """The event before which the parent's space has been copied; None if the copy is never seen used."""
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
        if parent not in self.space_of:
            return
        space = self.space_of[parent]
        child = space.fork()
        self.steps.append(Step("fork", parent, space, i, child))
        if birth.child is not None:
            self.forked[birth.child] = child
        else:
            self.steps.append(Step("bury", parent, space, i, child))

    # ---- exec ----------------------------------------------------------------------------------------------

    def _execs(self, task: Task, i: int) -> bool:
        """Whether the thread has started a new image just before event i."""
        event = self.events[i]
        if not task.leader or not self._looks_like_start(task, i):
            return False
        space = self.space_of[task]
        address = event.args[0]
        if any(t.last > i for t in self.by_pid[task.pid] if t is not task and t.first < i):
            return False                        # exec would have killed it
        if i in self.recording.after_flushes:
            return True                         # the new stack has been moved to its place
        fresh = not space.explains(address)
        refault = address >> PAGE_SHIFT in space.touched
        renamed = event.comm != self.comm_of[task]
        loads = self._starts_with_brk(task, i, space)
        if loads and (fresh or refault or renamed):
            return True
        plausible = fresh or refault or renamed or (loads and address not in space.mapped)
        return plausible and self._judge(task, i, space, renamed and (fresh or refault))

    def _looks_like_start(self, task: Task, i: int) -> bool:
        """The fetch of an instruction on a page that is not present."""
        event = self.events[i]
        if event.name != FAULT:
            return False
        _, _, error = event.args
        return bool(error & FETCH) and not error & PRESENT

    def _starts_with_brk(self, task: Task, i: int, space: Space) -> bool:
        """Whether the thread's next call asks where the heap is, and learns that it is not where it was."""
        if space.brk is None and space.image.exec_seen:
            return False                        # this image has not asked yet
        for j in self._upcoming(task, i):
            event = self.events[j]
            if event.name == "exit":
                return False
            if event.name == "enter":
                result = self.recording.result(j)
                return event.call == "brk" and event.args[0] == 0 and result is not None and result != space.brk
        return False

    def _judge(self, task: Task, i: int, space: Space, likely: bool) -> bool:
        """Weighs what follows: for a new image, or for the old one."""
        new, old, again = 0, 0, 0
        regions: set[int] = set()
        for j in self._upcoming(task, i):
            event = self.events[j]
            if event.name == "enter" and event.call in ("munmap", "mprotect", "madvise", "mremap"):
                region = event.args[0] >> REGION_SHIFT
                new, old = (new + 1, old) if region in regions else (new, old + space.explains(event.args[0]))
            elif event.name == "exit" and event.call == "mmap":
                regions.add(event.args[0] >> REGION_SHIFT)
            elif event.name == FAULT:
                address, ip, error = event.args
                if not error & PRESENT and address >> PAGE_SHIFT in space.touched:
                    again += 1
                elif space.explains(ip) and ip >> REGION_SHIFT not in regions and ip:
                    old += 1
                else:
                    new += 1
                    regions.update((address >> REGION_SHIFT, ip >> REGION_SHIFT))
        if likely:
            return old <= new + again
        return again >= max(3, old) or (old == 0 and new >= 3)

    # ---- what an event does to what is known ------------------------------------------------------------------

    def _event(self, task: Task, space: Space, i: int, event: Event) -> None:
        if event.name == FAULT:
            self._fault(task, space, i, event)
        elif event.name == "enter":
            result = self.recording.result(i)
            if event.call in ("munmap", "mprotect", "madvise"):
                self._call(task, space, i, event, result)
            elif event.call == "mremap" and result is not None and result >= 0:
                self.steps.append(Step("vacate", task, space, i))
                vacate(space, event, result)
        elif i in self.recording.enters and event.call in ("mmap", "brk", "mremap"):
            enter = self.recording.enters[i]
            self._call(task, space, enter, self.events[enter], event.args[0])

    def _fault(self, task: Task, space: Space, i: int, event: Event) -> None:
        address, ip, error = event.args
        if LOWEST <= address < TASK_SIZE:
            self._evidence(space, address, error)
        space.regions.update((address >> REGION_SHIFT, ip >> REGION_SHIFT))
        space.touched.add(address >> PAGE_SHIFT)
        self.steps.append(Step("fault", task, space, i))

    def _evidence(self, space: Space, address: int, error: int) -> None:
        """What a fault says about mappings that nobody recorded, and about the page cache."""
        page = address >> PAGE_SHIFT
        found = space.mapped.find(address)
        if found is None:
            space.image.note_fault(address, error, page in space.touched)
        if error & (PRESENT | WRITE):
            return
        start, _, (mmap, _) = found or (0, 0, (-1, 0))
        window = space.windows.setdefault((page // WINDOW, start), set())
        window.add(page)
        if found is None:
            space.image.note_windows(window)
        else:
            self.windows[mmap] += len(window) == 1
            self.conflicts[mmap] += len(window) > 1

    def cold(self, mmap: int) -> bool:
        """Whether many pages of that mapping were not in the page cache when their neighbours were mapped."""
        return self.conflicts[mmap] * COLD >= max(1, self.windows[mmap])

    def _call(self, task: Task, space: Space, enter: int, event: Event, result: int | None) -> None:
        """result None: its exit was not recorded, as of a thread that was killed in it."""
        self.steps.append(Step("call", task, space, enter))
        if result is None or result < 0:
            return
        call, args = event.call, event.args
        if call == "mmap":
            anonymous = args[3] & ANONYMOUS
            space.map(result, page_up(result + args[1]), args[2], -1 if anonymous else enter)
        elif call == "munmap":
            space.unmap(args[0], page_up(args[0] + args[1]))
        elif call == "mremap":
            low, high = arrival(event, result)
            found = space.mapped.find(args[0])
            space.map(low, high, found[2][1] if found else RW)
        elif call == "brk":
            self._brk(space, result)
        else:
            for low, high in space.mapped.gaps(args[0], page_up(args[0] + args[1])):
                space.image.note_range(low, high, args[2] if call == "mprotect" else None)
            if call == "mprotect":
                space.mapped.update(args[0], page_up(args[0] + args[1]), lambda value: (value[0], args[2]))
            elif args[2] in (DONTNEED, FREE, REMOVE):
                space.forget(args[0], args[0] + args[1])

    def _brk(self, space: Space, result: int) -> None:
        if space.brk is None:
            if space.image.heap is None:
                space.image.heap = result
            space.brk = space.image.heap
        low, high = page_up(space.brk), page_up(result)
        if low < high:
            space.map(low, high, RW)
        else:
            space.unmap(high, low)
        space.brk = result


def arrival(event: Event, result: int) -> tuple[int, int]:
    """The stretch that an mremap newly maps: all of the new place, or what it grew by in place."""
    old, old_len, new_len = event.args[0], page_up(event.args[1]), page_up(event.args[2])
    return (result + min(old_len, new_len) if result == old else result), result + new_len


def departure(event: Event, result: int) -> tuple[int, int]:
    """The stretch that an mremap gives up: all of the old place, or what it shrank by in place."""
    old, old_len, new_len = event.args[0], page_up(event.args[1]), page_up(event.args[2])
    return (old + new_len if result == old else old), old + old_len


def vacate(space: Space, event: Event, result: int) -> None:
    low, high = departure(event, result)
    space.unmap(low, high)
