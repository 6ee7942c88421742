"""A machine to try things on from Python: every CPU executed by the calling process, one call at a time.

    from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE

    with Machine(cpus=4, scheme="spf") as m:
        a = m.mmap(None, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        m.write(a, b"hello", cpu=1)
        print(m.read(a, 5, cpu=2), m.maps())
        m.munmap(a, 1 << 20, cpu=3)
        m.read(a, 5)                    # SegmentationFault

Nothing is concurrent here; for CPUs that race, `shmm.cluster` runs programs in a process each.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, NoReturn

from shmm import _fast
from shmm.layout import CONSTANTS, COUNTERS
from shmm.maps import format_maps
from shmm.segment import PAGE, Geometry, Segment, SegmentError

Access = Literal["read", "write"]

KINDS: Final = ("free", "anonymous", "file", "table", "zero")      # frame_t.kind
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class FaultError(Exception):
    """An access that a program would have died of.  Attributes: address, access ("read" or "write")."""

    signal = "fault"

    def __init__(self, address: int, access: Access) -> None:
        super().__init__(address, access)
        self.address = address
        self.access = access

    def __str__(self) -> str:
        return f"{self.signal}: {self.access} at {self.address:#x}"


class SegmentationFault(FaultError):
    """SIGSEGV: nothing is mapped at the address, or its protection forbids the access."""

    signal = "segmentation fault"


class BusError(FaultError):
    """SIGBUS: the page lies past the end of the mapped file."""

    signal = "bus error"


class Machine:
    """Emulated CPUs that run one address space: threads of a process, with CPU 0 the first.

    Every operation takes the CPU that executes it as `cpu` and raises OSError with the kernel's errno where
    the system call would fail.  Leaving the `with` block ends the address spaces and raises RuntimeError if a
    frame was lost on the way.
    """

    def __init__(
        self, cpus: int = 4, scheme: str = "spf", *, memory: str | int = "64MiB", walk: str = "irq",
        table_free: str = "ipi", ipi: str = "mailbox", address_spaces: int = 8, swap: str | int = 0,
        huge_pages: int = 0, **policy: Any,
    ) -> None:
        """memory: for data pages, in bytes or as 64MiB; page tables come on top.  address_spaces: how many
        may exist at once.  swap: room for what madvise(MADV_PAGEOUT) puts out, a size like memory.  huge_pages: set
        aside on top of memory, for thp="always" and MADV_COLLAPSE.  The policies are those of
        shmm.policy.resolve_policy, with stack_growth and thp_align on, as in Linux; nnode and cpu_node are
        Segment.create's.

        Raises ValueError for what makes no machine, SegmentError if /dev/shm is too small."""
        if ipi == "signal":
            raise ValueError("ipi signal interrupts processes, but here all CPUs are one: use shmm.cluster")
        pages = parse_size(memory) // PAGE
        if pages < 1:
            raise ValueError(f"memory {memory!r} is less than a page of {PAGE} bytes")
        geometry = Geometry.for_run(cpus, pages, mms=address_spaces, vmas=8192, files=255,
                                    swap_pages=parse_size(swap) // PAGE, huge=huge_pages)
        geometry = replace(geometry, ncache=4096 + 4 * pages)  # files may be larger than memory
        self.segment = Segment.create(
            geometry, scheme=scheme, walk=walk, table_free=table_free, ipi=ipi,
            **{"stack_growth": 1, "thp_align": 1} | policy
        )
        self._cpus = [_fast.Cpu(self.segment.address, number) for number in range(cpus)]
        self.mm = 1                         # the address space's number
        self._origin = self                 # the machine whose CPUs these are, and in it:
        self._children: dict[int, Machine] = {}     # what fork() returned, by address space
        self._running = [1] * cpus          # the address space that each CPU runs, 0: none,
        self._threads = [1] * cpus          # and that of the CPU's own thread
        _checked(self._cpus[0].exec(1))
        for other in self._cpus[1:]:
            _checked(other.attach(1))

    # ---- system calls --------------------------------------------------------------------------------------

    def mmap(
        self, addr: int | None, length: int, prot: int, flags: int, *, cpu: int = 0, file: int = 0,
        offset: int = 0,
    ) -> int:
        """Maps `length` bytes and returns where.  prot and flags: constants of Python's mmap module.
        file: what file() returned, 0 with MAP_ANONYMOUS; offset: bytes into it."""
        return _checked(self._cpu(cpu).mmap(addr or 0, length, prot, flags, file, offset))

    def munmap(self, addr: int, length: int, *, cpu: int = 0) -> None:
        """Unmaps; when it returns no CPU can reach the pages any more."""
        _checked(self._cpu(cpu).munmap(addr, length))

    def mprotect(self, addr: int, length: int, prot: int, *, cpu: int = 0) -> None:
        """Changes the protection of what is mapped there."""
        _checked(self._cpu(cpu).mprotect(addr, length, prot))

    def madvise(self, addr: int, length: int, advice: int, *, cpu: int = 0) -> None:
        """madvise(2); advice: a constant of Python's mmap module, such as MADV_DONTNEED."""
        _checked(self._cpu(cpu).madvise(addr, length, advice))

    def numa(self, addr: int, length: int, *, cpu: int = 0) -> None:
        """A scan for NUMA balancing comes by: the next access to each page of the range is a hint fault, which moves
        the page to the node of the CPU that takes it."""
        _checked(self._cpu(cpu).numa(addr, length))

    def mremap(
        self, addr: int, old: int, new: int, flags: int, new_addr: int | None = None, *, cpu: int = 0,
    ) -> int:
        """Resizes or moves the mapping of `old` bytes to `new` bytes and returns where it is.
        flags: 1 MREMAP_MAYMOVE, 2 MREMAP_FIXED, 4 MREMAP_DONTUNMAP; new_addr: for the latter two."""
        return _checked(self._cpu(cpu).mremap(addr, old, new, flags, new_addr or 0))

    # ---- userfaultfd ---------------------------------------------------------------------------------------

    def userfault(self, addr: int, length: int, *, missing: bool = True, wp: bool = False, cpu: int = 0) -> None:
        """Registers the range: faults on missing pages, on write-protected ones, or both are answered by the program;
        with neither it is registered no longer.

        As no CPU runs beside another here, an access that needs an answer raises OSError (EAGAIN).  Its message is
        there to be read; once it is answered, try again."""
        _checked(self._cpu(cpu).userfault(addr, length, missing + 2 * wp))

    def uffd_read(self, *, cpu: int = 0) -> tuple[int, int, int] | None:
        """The oldest message that nobody has read: (page's address, CONSTANTS["VM_UFFD_MISSING"] or
        CONSTANTS["VM_UFFD_WP"], CPU); None if there is none."""
        return self._cpu(cpu).uffd_read()

    def uffd_copy(self, addr: int, length: int, byte: int = 0, *, wp: bool = False, cpu: int = 0) -> None:
        """UFFDIO_COPY of pages that hold nothing but `byte`, write-protected or not."""
        _checked(self._cpu(cpu).uffdio(CONSTANTS["UFFDIO_COPY"], addr, length, byte, 2 * wp))

    def uffd_zeropage(self, addr: int, length: int, *, cpu: int = 0) -> None:
        """UFFDIO_ZEROPAGE."""
        _checked(self._cpu(cpu).uffdio(CONSTANTS["UFFDIO_ZEROPAGE"], addr, length))

    def uffd_writeprotect(self, addr: int, length: int, on: bool = True, *, cpu: int = 0) -> None:
        """UFFDIO_WRITEPROTECT, or the end of it."""
        what = "UFFDIO_WRITEPROTECT" if on else "UFFDIO_UNPROTECT"
        _checked(self._cpu(cpu).uffdio(CONSTANTS[what], addr, length))

    def uffd_wake(self, addr: int, length: int, *, cpu: int = 0) -> None:
        """UFFDIO_WAKE: whoever waits there takes its fault again."""
        _checked(self._cpu(cpu).uffdio(CONSTANTS["UFFDIO_WAKE"], addr, length))

    def brk(self, addr: int = 0, *, cpu: int = 0) -> int:
        """Moves the end of the heap to addr and returns where it is; 0 only asks."""
        end = _checked(self._cpu(cpu).brk(addr))
        if addr and end != addr:            # the system call itself answers with the old end
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return end

    def file(self, npages: int, *, shmem: bool = False, capacity: int | None = None, cpu: int = 0) -> int:
        """A new file of zeroes, `npages` pages long, to map; shmem: as memory rather than as a file; capacity: the most
        pages that truncate() may let it have, if that is more."""
        number = self._cpu(cpu).file_new(npages, shmem, capacity)
        if number == 0:
            raise OSError(errno.ENFILE, "no room for another file: make the machine with more memory")
        return number

    def truncate(self, file: int, nbytes: int, *, cpu: int = 0) -> None:
        """ftruncate(2): what lies beyond is unmapped everywhere and lost, private copies included.  EFBIG beyond the
        file's capacity."""
        _checked(self._cpu(cpu).truncate(file, nbytes & (2**64 - 1)))

    # ---- accesses ------------------------------------------------------------------------------------------

    def read(self, addr: int, n: int, *, cpu: int = 0) -> bytes:
        """n bytes at addr, as loads of this CPU.  Raises SegmentationFault or BusError."""
        result = self._cpu(cpu).read(addr, n)
        if isinstance(result, tuple):
            _raise_fault(*result, "read")
        return result

    def write(self, addr: int, data: bytes, *, cpu: int = 0) -> None:
        """Stores data at addr.  What lies before a page that refuses has been written."""
        result = self._cpu(cpu).write(addr, data)
        if result is not None:
            _raise_fault(*result, "write")

    def touch(self, addr: int, length: int, *, write: bool = True, cpu: int = 0) -> int:
        """One store (or load) in every page of the range; returns the number of page faults taken."""
        result = self._cpu(cpu).touch(addr, length, write)
        if isinstance(result, tuple):
            _raise_fault(*result, "write" if write else "read")
        return result

    # ---- a secondary MMU -----------------------------------------------------------------------------------

    def notifier(self, registers: bool = True, *, cpu: int = 0) -> None:
        """A secondary MMU (as KVM's is one) registers with the CPU's address space, or unregisters.  The machine
        must have been made with mmu_notifier=True."""
        _checked(self._cpu(cpu).notifier(registers))

    def secondary_read(self, addr: int, *, cpu: int = 0) -> int:
        """The byte at addr, as the secondary MMU finds it.  Raises OSError, or SegmentationFault or BusError."""
        return self._secondary(cpu, addr, None, "read")

    def secondary_write(self, addr: int, byte: int, *, cpu: int = 0) -> None:
        """Stores a byte through the secondary MMU."""
        self._secondary(cpu, addr, byte, "write")

    def _secondary(self, cpu: int, addr: int, value: int | None, access: Access) -> int:
        result = self._cpu(cpu).secondary(addr, value)
        return result if result >= 0 else _raise_fault(result, addr, access)

    def gup(self, addr: int, *, cpu: int = 0) -> int:
        """The byte at addr, read through a page that get_user_pages_fast has pinned.  OSError: nothing to pin."""
        return _checked(self._cpu(cpu).gup(addr))

    # ---- address spaces ------------------------------------------------------------------------------------

    def fork(self, *, cpu: int = 0) -> Machine:
        """A copy-on-write copy of the address space that this CPU runs, as a Machine of its own.

        The child has one thread, which runs on whatever CPU its operations name, and the same segment: memory, files
        and counters are common.  It ends when it is closed, at the latest with the machine it came from."""
        executor, origin = self._cpu(cpu), self._origin
        free = sorted(set(range(1, len(self.segment.view("mm")))) - set(self._in_use()))
        if not free:
            raise ValueError("all address spaces are in use: make the machine with more address_spaces")
        _checked(executor.fork(free[0]))
        child = Machine.__new__(Machine)
        child.segment, child._cpus, child._origin, child.mm = self.segment, self._cpus, origin, free[0]
        child._children, child._running, child._threads = {}, [], [0]       # 0: the thread has not begun
        if free[0] in origin._children:     # its address space has ended without it
            origin._children[free[0]]._cpus = []
        origin._children[free[0]] = child
        return child

    def attach(self, mm: int | Machine, *, cpu: int = 0) -> None:
        """The CPU's thread leaves its address space and becomes one of address space mm (a number, or what fork()
        returned); whose last thread leaves ends."""
        if self._origin is not self:
            raise ValueError("attach moves a CPU's own thread: call it on the machine that has the CPUs")
        slot = mm.mm if isinstance(mm, Machine) else mm
        _checked(self._cpu(cpu).attach(slot))
        self._running[cpu] = self._threads[cpu] = slot

    # ---- what there is to see ------------------------------------------------------------------------------

    def maps(self, mm: int | Machine | None = None) -> str:
        """The address space, or another one, as /proc/PID/maps shows it."""
        self._alive()
        other = mm.mm if isinstance(mm, Machine) else mm
        return format_maps(self.segment, self.mm if other is None else other)

    def counters(self) -> dict[str, int]:
        """Every counter, summed over the CPUs."""
        self._alive()
        sums = self.segment.view("cpu")["counter"].sum(axis=0, dtype="i8")
        return dict(zip(COUNTERS, sums.tolist(), strict=True))

    def check(self) -> list[str]:
        """The invariants that do not hold, in words; empty is fine."""
        self._alive()
        return _fast.check(self.segment.address)

    # ---- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends every address space and unmaps the machine; of what fork() returned, its own address space alone.

        Raises RuntimeError naming lost frames, SegmentError while views of the segment are alive."""
        if self._origin is not self:
            self._end_child()
            return
        lost = self._shut_down() if self._cpus else ""
        with suppress(*((SegmentError,) if lost else ())):      # a leak says more than a view
            self.segment.close()
        if lost:
            raise RuntimeError(lost)

    def _shut_down(self) -> str:
        """Exits on every CPU; says which frames were lost, or nothing."""
        for child in list(self._children.values()):
            child._end_child()
        for number, cpu in enumerate(self._cpus):
            self._cpu(number)
            cpu.exit()
        for mm in self._in_use():           # forked, and never run by anyone
            self._cpus[0].attach(mm)
            self._cpus[0].exit()
        self._cpus = []
        _fast.settle(self.segment.address)
        count = _fast.frames_in_use(self.segment.address)
        if count == 0:
            return ""
        frames = self.segment.view("frame")
        used = frames["kind"].nonzero()[0][1:5]         # the first is the zero page
        named = ", ".join(
            f"{int(n)} ({KINDS[int(frames['kind'][n])]}, {int(frames['refs'][n])} references)" for n in used
        )
        return f"{count} frames leaked: {named}{', ...' if count > len(used) else ''}"

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        # the error that is on its way says more than a leak, or than the views that its frames hold
        with suppress(*((RuntimeError, SegmentError) if error else ())):
            self.close()

    def _in_use(self) -> list[int]:
        """The address spaces that exist."""
        return [int(mm) for mm in self.segment.view("mm")["in_use"].nonzero()[0]]

    def _alive(self) -> None:
        if not self._cpus:
            raise ValueError("the machine is closed")

    def _cpu(self, number: int) -> _fast.Cpu:
        """The CPU, running a thread of this machine's."""
        self._alive()
        if not 0 <= number < len(self._cpus):
            raise ValueError(f"there is no CPU {number}: the machine has 0..{len(self._cpus) - 1}")
        running, own = self._origin._running, self._origin is self
        slot = self._threads[number] if own else self.mm
        if running[number] != slot or not self._threads[0]:
            _checked(self._cpus[number].switch(slot, not self._threads[0]))
            running[number] = slot
            if not own:
                self._threads[0] = slot
        return self._cpus[number]

    def _end_child(self) -> None:
        """The thread of a forked machine exits."""
        if not self._cpus:
            return
        unused = self.mm in self._in_use() and not self.segment.view("mm")[self.mm]["users"]
        if self._threads[0] or unused:
            self._cpu(0).exit()
            self._origin._running[0] = 0
        self._cpus = []
        del self._origin._children[self.mm]


def parse_size(size: str | int) -> int:
    """Bytes from 64MiB, 64M, 1.5GiB or 4096.  Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(size).strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{size!r} is not a size: write 64MiB, 1GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _checked(result: int) -> int:
    """The result of a system call; a negative one becomes the OSError it stands for."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _raise_fault(number: int, address: int, access: Access) -> NoReturn:
    """What a failed access becomes."""
    if number == -errno.EFAULT:
        raise SegmentationFault(address, access)
    if number == -CONSTANTS["SIGBUS"]:
        raise BusError(address, access)
    if number == -errno.EAGAIN:
        raise OSError(errno.EAGAIN, f"{access} at {address:#x} waits for userfaultfd: answer it (uffd_copy, "
                      "uffd_zeropage, uffd_writeprotect), then try again")
    raise OSError(-number, f"{os.strerror(-number)}: {access} at {address:#x}")
