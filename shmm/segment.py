"""The shared-memory segment that holds a machine: created, attached, looked at, and cleaned up after.

    with Segment.create(Geometry.for_run(cpus=4, pages=16384), scheme="spf") as segment:
        segment.address             # what the native engine works on
        segment.view("cpu")         # NumPy record array of the CPUs, in place
        segment.path                # what another process attaches to

The name disappears from /dev/shm as soon as the object exists, so that a killed run leaves nothing behind;
other processes reach it through /proc/<pid>/fd/<fd>.  Every failure is a SegmentError of one line.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import stat
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import posix_ipc  # type: ignore[import-not-found,import-untyped,unused-ignore]
from numpy.typing import NDArray

from shmm import _fast
from shmm.layout import ABI, CONSTANTS, DTYPES
from shmm.nodes import node_fields
from shmm.policy import resolve_policy

SHM_DIR: Final = Path("/dev/shm")
PAGE: Final = CONSTANTS["PAGE_SIZE"]
HEADER: Final = DTYPES["seg_t"]
TABLE_PAGES: Final = 512                # data pages that one page of a page table maps
MAP_NORESERVE: Final = 0x4000           # mmap has no name for it
FRAMES_PER_CPU: Final = CONSTANTS["PCP_HIGH"] + 63 + 15     # its free list, one of another node, its LRU batch
SLOTS_PER_CPU: Final = 2200           # VMAs in a CPU's cache or waiting for a grace period (at most 2000)

# Array -> its dtype and the header's fields that say where it begins and how many there are.
VIEWS: Final[dict[str, tuple[np.dtype[Any], str, str]]] = {
    "cpu": (DTYPES["cpu_t"], "cpu_off", "ncpu"),
    "mm": (DTYPES["mm_t"], "mm_off", "nmm"),
    "vma": (DTYPES["vma_t"], "vma_off", "nvma"),
    "anon": (DTYPES["anon_vma_t"], "anon_off", "nanon"),
    "file": (DTYPES["file_t"], "file_off", "nfile"),
    "cache": (np.dtype("u4"), "cache_off", "ncache"),
    "swap": (DTYPES["swap_slot_t"], "swap_off", "nswap"),
    "frame": (DTYPES["frame_t"], "frame_off", "frame_end"),
    "insn": (DTYPES["shmm_insn_t"], "program_off", "ninsn"),
    "result": (np.dtype("i8"), "result_off", "ninsn"),
}
_NAME = re.compile(r"(?:sem\.)?shmm-(\d+)-(\d+)-(?:(\d+)-)?\w+")


class SegmentError(OSError):
    """A segment that cannot be made, attached or closed; the message names the cause and the next step."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


@dataclass(frozen=True)
class Geometry:
    """How many of everything a segment holds.  Slot 0 of each array is unused and is counted."""

    ncpu: int
    nmm: int
    nvma: int
    nanon: int
    nfile: int
    ncache: int
    nframe: int
    ninsn: int
    nswap: int = 0
    nhuge: int = 0          # huge pages, on top of nframe

    def __post_init__(self) -> None:
        limits = {"ncpu": (1, CONSTANTS["MAX_CPU"]), "nmm": (2, CONSTANTS["MAX_MM"]), "nswap": (0, 2**32 - 1)}
        for name, value in asdict(self).items():
            low, high = (0, CONSTANTS["MAX_HUGE"]) if name == "nhuge" else limits.get(name, (2, 2**32 - 1))
            if not low <= value <= high:
                raise ValueError(f"geometry: {name} is {value}, must be in {low}..{high}")

    @classmethod
    def for_run(
        cls, cpus: int, pages: int, *, mms: int = 1, vmas: int = 1024, regions: int | None = None,
        files: int = 64, file_pages: int = 0, insns: int = 4096, swap_pages: int = 0, huge: int = 0,
    ) -> Geometry:
        """Room for a run that has at most so many things at once, and for what the machine itself holds.

        pages: data pages of 4 KiB of all CPUs together, private copies after a fork included.
        file_pages: pages of all files together, shared anonymous mappings included.
        mms: address spaces; vmas: mappings of all address spaces together.
        regions: stretches of address space far (gigabytes) apart, each of which needs page tables of its own;
        by default one per CPU and some.
        insns: records of all programs together.
        swap_pages: pages that can be swapped out at once; 0: there is no swap.
        huge: huge pages of 512 data pages each, set aside on top of the others.
        """
        regions = cpus + 8 if regions is None else regions
        tables = mms * (4 * regions + 4) + 2 * (-(-(pages + file_pages) // TABLE_PAGES)) + 4 * regions
        slots = 1 + vmas + cpus * SLOTS_PER_CPU
        return cls(
            ncpu=cpus, nmm=1 + mms, nvma=slots, nanon=slots, nfile=1 + files, ncache=2 + file_pages,
            nframe=1 + pages + file_pages + tables + cpus * FRAMES_PER_CPU, ninsn=max(2, insns),
            nswap=1 + swap_pages if swap_pages else 0, nhuge=huge,
        )

    @property
    def size(self) -> int:
        """Bytes that a segment of this geometry needs, in whole pages of the host."""
        host_page = os.sysconf("SC_PAGE_SIZE")
        return -(-_fast.segment_size(asdict(self)) // host_page) * host_page


def _header_fields(geometry: Geometry, nnode: int = 1, cpu_node: Any = b"", **policy: Any) -> dict[str, int | bytes]:
    return {**resolve_policy(**policy), **node_fields(geometry.ncpu, nnode, cpu_node)}


class Segment:
    """One mapping of a segment in this process."""

    def __init__(self, fd: int, size: int) -> None:
        """Takes over fd, an object of `size` bytes that holds or will hold a segment: see create, attach.

        fd -1: memory of this process alone, see private."""
        flags = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._map = mmap.mmap(fd, size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        self.fd = fd
        self._close_fd = weakref.finalize(self, os.close, fd) if fd >= 0 else lambda: None
        self._address = int(np.frombuffer(self._map, np.uint8, 1).ctypes.data)
        self._views: dict[str, weakref.ref[NDArray[Any]]] = {}

    @classmethod
    def create(cls, geometry: Geometry, **policy: Any) -> Segment:
        """A formatted segment.  policy: see policy.py; and nnode and cpu_node, see node_fields.

        Raises SegmentError if /dev/shm is missing or too small, ValueError for a policy that is refused."""
        fields = _header_fields(geometry, **policy)
        fd = _new_object(geometry.size)
        try:
            segment = cls(fd, geometry.size)
        except BaseException:
            os.close(fd)
            raise
        return segment._format(geometry, fields)

    @classmethod
    def private(cls, geometry: Geometry, **policy: Any) -> Segment:
        """The same in memory of this process alone, which takes only what is touched of it: for CPUs that are fibers.

        Raises SegmentError if the host does not give so many addresses, ValueError as create does."""
        fields = _header_fields(geometry, **policy)
        try:
            segment = cls(-1, geometry.size)
        except OSError as error:
            raise SegmentError(f"no {_mib(geometry.size)} of addresses for a segment ({error.strerror}): ask for fewer "
                               "CPUs or a smaller --size", error.errno) from None
        return segment._format(geometry, fields)

    def _format(self, geometry: Geometry, fields: dict[str, int | bytes]) -> Segment:
        start = process_start(os.getpid()) or 0
        _fast.segment_create(self.address, asdict(geometry), fields, ABI, os.getpid(), start)
        return self

    @classmethod
    def attach(cls, target: str | os.PathLike[str] | int) -> Segment:
        """Maps a segment that another process made: its path (see `path`) or a descriptor, which stays yours.

        Raises SegmentError for anything but a whole segment of this user, this version and this build."""
        try:
            fd = os.dup(target) if isinstance(target, int) else os.open(target, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise SegmentError(f"cannot open segment {target}: {error.strerror}", error.errno) from None
        name = f"descriptor {target}" if isinstance(target, int) else os.fspath(target)
        try:
            return cls(fd, _recognise(fd, name))
        except BaseException:
            os.close(fd)
            raise

    @property
    def address(self) -> int:
        """Where the segment is mapped in this process."""
        if self._map.closed:
            raise SegmentError("the segment is closed")
        return self._address

    @property
    def size(self) -> int:
        """Bytes mapped."""
        return len(self._map)

    @property
    def path(self) -> str:
        """Where another process of this user attaches, as long as this one lives and the segment is open."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def view(self, name: str) -> NDArray[Any]:
        """An array over the segment itself, of the records named; writes go through.

        seg is a single record (0-dimensional), result holds signed 64-bit words, memory the frames' bytes,
        one row of 4096 per frame; cpu, mm, vma, anon, file, cache, swap, frame and insn are indexed by number.
        Drop every view before close()."""
        known = self._views[name]() if name in self._views else None
        if known is None:
            known = self._make_view(name)
            self._views[name] = weakref.ref(known)
        return known

    def _make_view(self, name: str) -> NDArray[Any]:
        if self._map.closed:
            raise SegmentError("the segment is closed")
        if name == "seg":
            return np.frombuffer(self._map, HEADER, 1).reshape(())
        head = self.view("seg")
        if name == "memory":
            frames = int(head["frame_end"])
            flat = np.frombuffer(self._map, np.uint8, frames * PAGE, int(head["memory_off"]))
            return flat.reshape(frames, PAGE)
        if name not in VIEWS:
            raise ValueError(f"a segment has no {name!r}, choose from seg, {', '.join(VIEWS)}, memory")
        dtype, offset, count = VIEWS[name]
        return np.frombuffer(self._map, dtype, int(head[count]), int(head[offset]))

    def close(self) -> None:
        """Unmaps.  Raises SegmentError while views of it are alive; closing twice is fine."""
        if self._map.closed:
            return
        try:
            self._map.close()
        except BufferError:
            alive = [name for name, view in self._views.items() if view() is not None]
            named = f" ({', '.join(alive)})" if alive else ""
            raise SegmentError(f"views of the segment{named} are alive: drop them, then close") from None
        self._close_fd()
        self.fd = -1

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        # after an error the traceback's frames may hold views, and what went wrong matters more
        with suppress(*(() if error is None else (SegmentError,))):
            self.close()


def object_name() -> str:
    """A fresh name for a POSIX shared-memory object or semaphore, from which clean() can tell whose it is."""
    pid = os.getpid()
    return f"/shmm-{os.geteuid()}-{pid}-{process_start(pid) or 0}-{secrets.token_hex(6)}"


def process_start(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none (or only its zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def leftovers() -> list[Path]:
    """Shared-memory objects and semaphores of this user whose process is dead."""
    found = []
    for path in sorted(SHM_DIR.iterdir() if SHM_DIR.is_dir() else ()):
        match = _NAME.fullmatch(path.name)
        if match is None or int(match[1]) != os.geteuid():
            continue
        started = process_start(int(match[2]))
        if started is None or (match[3] is not None and int(match[3]) != started):
            found.append(path)
    return found


def clean() -> list[Path]:
    """Removes the leftovers; returns what was removed."""
    removed = []
    for path in leftovers():
        try:
            path.unlink()
        except FileNotFoundError:
            continue                        # somebody else cleaned at the same time
        removed.append(path)
    return removed


def _new_object(size: int) -> int:
    """The descriptor of a nameless zeroed object of this size whose pages really exist."""
    try:
        room = os.statvfs(SHM_DIR)
    except OSError as error:
        raise SegmentError(f"there is no {SHM_DIR}: mount a tmpfs there", error.errno) from None
    free = room.f_bavail * room.f_frsize
    if size > free:
        raise _no_room(size, free)
    try:
        shm = posix_ipc.SharedMemory(object_name(), posix_ipc.O_CREX, mode=0o600)
    except (posix_ipc.Error, OSError) as error:
        raise SegmentError(f"cannot create a shared-memory object in {SHM_DIR}: {error}") from None
    try:
        # before it has any size: a kill from here on leaves nothing; it may be gone if somebody just cleaned
        with suppress(posix_ipc.ExistentialError):
            shm.unlink()
        os.fchmod(shm.fd, 0o600)            # whatever the umask is
        os.ftruncate(shm.fd, size)
        os.posix_fallocate(shm.fd, 0, size)     # or the first touch of a missing page would be a SIGBUS
    except OSError as error:
        shm.close_fd()
        if error.errno == errno.ENOSPC:
            raise _no_room(size, free) from None
        raise SegmentError(f"cannot make a segment of {_mib(size)}: {error.strerror}", error.errno) from None
    return int(shm.fd)


def _no_room(size: int, free: int) -> SegmentError:
    return SegmentError(
        f"the segment needs {_mib(size)}, {SHM_DIR} has {_mib(free)} free: run with fewer CPUs or pages, or "
        "enlarge it (mount -o remount,size=..., in a container --shm-size)", errno.ENOSPC,
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _recognise(fd: int, what: str) -> int:
    """The size of the segment behind fd; raises SegmentError if it is not one that this build can use."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise SegmentError(f"{what} is not a shmm segment: it is not a regular file", errno.EINVAL)
    if status.st_uid != os.geteuid():
        raise SegmentError(
            f"{what} belongs to another user: found uid {status.st_uid}, expected {os.geteuid()}",
            errno.EACCES,
        )
    raw = os.pread(fd, HEADER.itemsize, 0)
    head = np.frombuffer(raw.ljust(HEADER.itemsize, b"\0"), HEADER, 1)[0]
    size = int(head["size"])
    _expect(what, "is not a shmm segment: magic", int(head["magic"]), CONSTANTS["MAGIC"], "#x")
    _expect_whole(what, len(raw), HEADER.itemsize, max(size, HEADER.itemsize))
    _expect(what, "was made by another version of shmm: layout version", int(head["version"]),
            CONSTANTS["VERSION"], "d")
    _expect(what, "was made by another build of shmm: ABI", int(head["abi"]), ABI, "#018x")
    _expect_whole(what, status.st_size, size)
    counts = {name: int(head[name]) for name in Geometry.__dataclass_fields__}
    _expect(what, "has a damaged header: size", size, _fast.segment_size(counts), "d")
    return size


def _expect_whole(what: str, found: int, least: int, expected: int | None = None) -> None:
    if found < least:
        raise SegmentError(
            f"{what} is truncated: found {found} bytes, expected {expected or least}", errno.EINVAL
        )


def _expect(what: str, problem: str, found: int, expected: int, form: str) -> None:
    if found != expected:
        raise SegmentError(f"{what} {problem} found {found:{form}}, expected {expected:{form}}", errno.EINVAL)
