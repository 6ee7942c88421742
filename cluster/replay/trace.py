"""Recorded traces: the text that `perf script` prints, as events.

A line names the command, the process and thread, perhaps the CPU, the time, the event and its fields:

    python3 18480/18480 [000]  3054.400074839:  exceptions:page_fault_user: address=0x7f24 ip=0x7f24 error_code=0x14

The spacing is perf's business: commands may hold blanks and slashes, the CPU or the time may be missing, the
group before the event may be missing, and the fields may follow a colon or stand in parentheses.  Where perf
prints one number instead of `pid/tid` it is taken for both.  Lines starting with `#` are perf's comments.

Recordings of `shmm record` also have faults in the kernel on user pages, the flags of clones, and what perf itself
notes (PERF_RECORD_...): which process runs a new image, which file was mapped where.  Others do without.
"""

from __future__ import annotations

import lzma
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

FAULT = "page_fault_user"
KERNEL_FAULT = "page_fault_kernel"
FLUSH = "tlb_flush"
NEW_TASK = "task_newtask"
EXEC = "exec"                               # perf: a process runs a new image
MAPPED = "mapped"                           # perf: something has been mapped
ANONYMOUS_MEMORY, FILE, SPECIAL, STACK = range(4)       # what

#: The system calls that change an address space, with their fields as the kernel's format files name them.
CALLS = {
    "mmap": ("addr", "len", "prot", "flags", "fd", "off"),
    "munmap": ("addr", "len"),
    "mprotect": ("start", "len", "prot"),
    "mremap": ("addr", "old_len", "new_len", "flags", "new_addr"),
    "brk": ("brk",),
    "madvise": ("start", "len_in", "behavior"),
    "mlock": ("start", "len"),
    "mlock2": ("start", "len", "flags"),
    "shmdt": ("shmaddr",),
    "clone": ("clone_flags",),
    "clone3": (),
    "fork": (),
    "vfork": (),
}

#: Fields that a recorder may leave out or not decode: absent, they read as 0.
OPTIONAL = frozenset({"flags", "fd", "off", "new_addr"})


class TraceError(ValueError):
    """The file cannot be read as a trace: one line that says why."""


@dataclass(slots=True)
class Event:
    """One line of a trace.

    name is one of the names above, or "enter" or "exit" of `call`.  args: of a fault address, instruction pointer and
    x86 error code; of an enter the call's arguments in the order of CALLS; of an exit the result, signed; of a flush
    the reason's number (3: this CPU flushes its own mm), -1 if it is missing; of a new task the clone's flags; of what
    was mapped start, length, prot, whether it is shared, what it is (FILE, ...), device, inode and byte offset.
    line counts from 1; time is in seconds."""

    line: int
    comm: str
    pid: int
    tid: int
    time: float
    name: str
    call: str
    args: tuple[int, ...]


@dataclass(slots=True)
class Trace:
    """A parsed file.  other: well-formed events that do not concern memory; unparsed: lines that are no event."""

    events: list[Event] = field(default_factory=list)
    cpus: set[str] = field(default_factory=set)     # numbers of the CPUs seen, if they were printed
    paired: bool = False                    # some line named a thread apart from its process
    other: int = 0
    unparsed: int = 0
    lost: int = 0                           # events that perf says it has lost
    first_unparsed: str | None = None

    @property
    def faults(self) -> int:
        """User page faults recorded."""
        return sum(event.name == FAULT for event in self.events)

    @property
    def kernel_faults(self) -> int:
        """Faults in the kernel recorded, also those on its own addresses."""
        return sum(event.name == KERNEL_FAULT for event in self.events)

    @property
    def flushes(self) -> int:
        """TLB flushes recorded."""
        return sum(event.name == FLUSH for event in self.events)

    @property
    def threads(self) -> int:
        """Threads that any event names."""
        return len({(event.pid, event.tid) for event in self.events})


LINE = re.compile(
    r"\s*(?P<comm>\S.*?)\s+(?P<pid>\d+)(?:/\s*(?P<tid>\d+))?\s+"
    r"(?:\[(?P<cpu>\d+)\]\s+)?"
    r"(?:(?P<time>\d+\.\d+):\s+)?"
    r"(?:\d+\s+)?"                                         # the sampling period, where it was asked for
    r"(?:[\w-]+:)?(?P<event>[A-Za-z_]\w*)(?P<open>:\s|\()\s*(?P<fields>.*)"
)
FAULT_FIELDS = re.compile(r"address=(?:0x)?([0-9a-f]+)\b.*?\bip=(\S+).*?\berror_code=(0x[0-9a-f]+|\d+)")
FIELD = re.compile(r"(\w+)\s*[:=]\s*(-?(?:0x[0-9a-fA-F]+|\d+))")
NUMBER = re.compile(r"(-?(?:0x[0-9a-fA-F]+|\d+))")
REASON = re.compile(r"reason:.*\((\d+)\)")
NEW_TASK_FLAGS = re.compile(r"clone_flags=([0-9a-f]+)\b")
RECORD = re.compile(
    r"\s*(?P<comm>\S.*?)\s+(?P<pid>\d+)(?:/\s*(?P<tid>\d+))?\s+(?:\[(?P<cpu>\d+)\]\s+)?(?:(?P<time>\d+\.\d+):\s+)?"
    r"PERF_RECORD_(?P<what>[A-Z0-9_]+)(?P<rest>.*)"
)
MMAP2 = re.compile(
    r"\s*-?\d+/-?\d+:\s+\[(0x[0-9a-f]+)\((0x[0-9a-f]+)\)\s+@\s+(0x[0-9a-f]+|0)\s+"
    r"(?:([0-9a-f]+):([0-9a-f]+)\s+(\d+)\s+\d+|<[^>]*>)\]:\s+([r-])([w-])([x-])([ps])\s*(.*)"
)
LOST = re.compile(r"(\d+)\s*$")
WORD = 1 << 64


#: How to read an event: its name, its call, and what makes its fields' text into arguments (None: it cannot).
Decoder = tuple[str, str, Callable[[str], tuple[int, ...] | None]]


def signed(value: int) -> int:
    """A 64-bit result word as the C long it is."""
    value &= WORD - 1
    return value - WORD if value >> 63 else value


def fault_args(fields: str) -> tuple[int, ...] | None:
    """Address, instruction pointer and error code."""
    found = FAULT_FIELDS.match(fields)
    if found is None:
        return None
    address, ip, error = found.groups()
    try:
        where = int(ip, 16)
    except ValueError:                                     # older kernels print a symbol here
        where = 0
    return int(address, 16), where, int(error, 0)


def enter_args(call: str, fields: str) -> tuple[int, ...] | None:
    """The call's arguments by name, as unsigned words."""
    names = CALLS[call]
    found = {name: value for name, value in FIELD.findall(fields)}
    out = []
    for name in names:
        value = found.get(name)
        if value is None:
            if name not in OPTIONAL:
                return None
            value = "0"
        out.append(int(value, 0) & (WORD - 1))
    return tuple(out)


def exit_args(fields: str) -> tuple[int, ...] | None:
    """The result, which perf prints bare or as ret=; some versions append what it means."""
    found = NUMBER.search(fields)
    return (signed(int(found.group(1), 0)),) if found else None


def flush_args(fields: str) -> tuple[int, ...]:
    """The reason's number."""
    found = REASON.search(fields)
    return (int(found.group(1)) if found else -1,)


def new_task_args(fields: str) -> tuple[int, ...] | None:
    """The clone's flags."""
    found = NEW_TASK_FLAGS.search(fields)
    return (int(found.group(1), 16),) if found else None


def mapped_args(rest: str) -> tuple[int, ...] | None:
    """What was mapped where."""
    found = MMAP2.match(rest)
    if found is None:
        return None
    start, length, offset, major, minor, inode, r, w, x, shared, name = found.groups()
    prot = (r != "-") | (w != "-") << 1 | (x != "-") << 2
    device = int(major or "0", 16) << 20 | int(minor or "0", 16)
    what = FILE if int(inode or 0) else STACK if name == "[stack]" else SPECIAL if name.startswith("[v") \
        else ANONYMOUS_MEMORY
    return int(start, 16), int(length, 16), prot, shared == "s", what, device, int(inode or 0), int(offset, 16)


def parse_record(trace: Trace, number: int, line: str) -> None:
    """Reads a line of what perf itself noted."""
    found = RECORD.match(line)
    if found is None:
        reject(trace, line)
        return
    comm, pid, tid, _, time, what, rest = found.groups()
    name = ""
    args: tuple[int, ...] | None = None
    if what == "COMM" and rest.startswith(" exec:"):
        name, args = EXEC, ()
    elif what == "MMAP2":
        name, args = MAPPED, mapped_args(rest)
        if args is None:
            reject(trace, line)
    elif what in ("LOST", "LOST_SAMPLES"):
        lost = LOST.search(rest)
        trace.lost += int(lost.group(1)) if lost else 1
    if args is not None and int(pid):
        trace.events.append(Event(number, comm, int(pid), int(tid or pid), float(time or 0), name, "", args))


def decoder(name: str) -> Decoder | None:
    """How to read an event of this name: (name, call, its fields' reader), or None if memory is not its matter."""
    if name in (FAULT, KERNEL_FAULT):
        return name, "", fault_args
    if name == NEW_TASK:
        return NEW_TASK, "", new_task_args
    if name == FLUSH:
        return FLUSH, "", flush_args
    for kind, prefix in (("enter", "sys_enter_"), ("exit", "sys_exit_")):
        call = name.removeprefix(prefix)
        if call != name and call in CALLS:
            if kind == "exit":
                return kind, call, exit_args
            return kind, call, partial(enter_args, call)
    return None


def parse(lines: Iterable[str]) -> Trace:
    """Reads a trace's lines.  Lines that are no event are counted and the first is kept."""
    trace = Trace()
    decoders: dict[str, Decoder | None] = {}
    append, match = trace.events.append, LINE.match
    for number, line in enumerate(lines, 1):
        if "PERF_RECORD_" in line:
            parse_record(trace, number, line)
            continue
        found = match(line)
        if found is None:
            if line.strip() and not line.lstrip().startswith("#"):
                reject(trace, line)
            continue
        comm, pid, tid, cpu, time, name, opened, fields = found.groups()
        if name not in decoders:
            decoders[name] = decoder(name)
        known = decoders[name]
        if known is None:
            trace.other += 1
            continue
        args = known[2](fields[:-1] if opened == "(" and fields.endswith(")") else fields)
        if args is None:
            reject(trace, line)
            continue
        trace.cpus.add(cpu)
        trace.paired = trace.paired or tid is not None
        append(Event(number, comm, int(pid), int(tid or pid), float(time or 0), known[0], known[1], args))
    trace.cpus.discard(None)
    return trace


def reject(trace: Trace, line: str) -> None:
    """Counts a line that is no event."""
    trace.unparsed += 1
    if trace.first_unparsed is None:
        text = line.strip()
        trace.first_unparsed = text if len(text) <= 160 else text[:157] + "..."


def read(path: str | os.PathLike[str]) -> Trace:
    """Reads a trace file, plain or xz-compressed (told by its first bytes, not its name).

    Raises TraceError (one line) if it cannot be read or holds no memory event."""
    try:
        with open(path, "rb") as file:
            compressed = file.read(6) == b"\xfd7zXZ\0"
        opener: Callable[..., Any] = lzma.open if compressed else open
        with opener(path, "rt", errors="replace") as text:
            trace = parse(text)
    except (lzma.LZMAError, EOFError) as error:
        raise TraceError(f"{path}: damaged or truncated xz file ({error}); fetch or record it again") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None
    if not trace.events:
        quoted = f"; its first line is {trace.first_unparsed!r}" if trace.first_unparsed else ""
        raise TraceError(f"{path}: no memory event in it{quoted}; expected the output of perf script with "
                         "page_fault_user and sys_enter/sys_exit events")
    return trace
