"""Whether this machine can run it: each check is one line, ok, warn or fail, with what to do about it.

Imports nothing of the native engine before a check has looked at it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

OK, WARN, FAIL = "ok", "warn", "fail"
STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
MIB = 1 << 20
PER_CPU = 4 * MIB               # the least that one more CPU needs: 2 MiB to map and its free lists

Finding = tuple[str, str]


def main() -> int:
    """Prints the findings; exit status 0, or 3 if something would keep a run from working."""
    out = Console(highlight=False, soft_wrap=True)
    failed = False
    for name, verdict, text in findings():
        failed |= verdict == FAIL
        out.print(f"[{STYLES[verdict]}]{verdict:4}[/] {name + ':':14} ", end="")
        out.print(text, markup=False)
    return 3 if failed else 0


def findings() -> Iterator[tuple[str, str, str]]:
    """(what was looked at, verdict, text) of every check; a check that breaks is a failure of its own."""
    for check in CHECKS:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            verdict, text = check()
        except Exception as error:
            verdict, text = FAIL, f"the check itself failed: {type(error).__name__}: {error}"
        yield name, verdict, text


def check_system() -> Finding:
    """Linux?"""
    text = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform != "linux":
        return FAIL, f"{text}: needs Linux (futex, /dev/shm, prctl)"
    return OK, text


def check_python() -> Finding:
    """A CPython that is new enough?"""
    text = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info < (3, 11) or platform.python_implementation() != "CPython":
        return FAIL, f"{text}: needs CPython 3.11 or newer"
    return OK, text


def check_packages() -> Finding:
    """The packages that a run needs."""
    from importlib import metadata

    found, missing = [], []
    for package in ("multiprocess", "numpy", "posix-ipc", "rich"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return FAIL, f"missing {', '.join(missing)}: python -m pip install {' '.join(missing)}"
    return OK, ", ".join(found)


def check_engine() -> Finding:
    """Is the native engine built, from these sources, with this layout?"""
    remedy = "build it with `python -m pip install -e .` in the checkout (needs a C compiler)"
    try:
        from shmm import _fast
    except ImportError as error:
        return FAIL, f"the native engine cannot be loaded ({error}): {remedy}"
    from shmm.layout import ABI

    missing = [name for name in ("Cpu", "settle", "check", "frames_in_use") if not hasattr(_fast, name)]
    if missing:
        return FAIL, f"{_fast.__file__} lacks {', '.join(missing)}: {remedy}"
    if newer := _newer_sources(Path(_fast.__file__)):
        return WARN, f"{', '.join(newer[:3])} changed since it was built: {remedy}"
    return OK, f"ABI {ABI:016x}, {_fast.__file__}"


def _newer_sources(built: Path) -> list[str]:
    """In a checkout: the sources that changed after the engine was built."""
    if not (built.parent.parent / "setup.py").exists():
        return []
    sources = [path for kind in ("*.h", "*.pxd", "*.pyx", "*.pxi") for path in built.parent.rglob(kind)]
    return sorted(path.name for path in sources if path.stat().st_mtime > built.stat().st_mtime)


def check_shared_memory() -> Finding:
    """How many CPUs fit into /dev/shm."""
    try:
        room = os.statvfs("/dev/shm")
    except OSError as error:
        return FAIL, f"no /dev/shm ({error.strerror}): mount -t tmpfs tmpfs /dev/shm"
    size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    cpus = min(1024, free // PER_CPU)
    text = f"/dev/shm: {free // MIB} MiB free of {size // MIB} MiB, enough for {cpus} CPUs"
    if free < 2 * PER_CPU:
        return FAIL, f"{text}: enlarge it (mount -o remount,size=2G /dev/shm, or docker run --shm-size=2g)"
    if free < 2048 * MIB:
        return WARN, f"{text} with 2 MiB each; runs as large as the originals want 2 GiB"
    return OK, text


def check_memory() -> Finding:
    """How much memory is left."""
    from shmm.cluster.sizing import memory_available

    free = memory_available() // MIB
    text = f"{free} MiB available"
    return (WARN, f"{text}: use --size 2M") if free < 1024 else (OK, text)


def check_cores() -> Finding:
    """Cores, and whether something else is using them."""
    from shmm.cluster.topology import usable_cores

    cores, load = usable_cores(), os.getloadavg()[0]
    text = f"{cores} usable, load {load:.2f}"
    if load > cores / 2:
        return WARN, f"{text}: something else is running, figures will scatter"
    if cores < 2:
        return WARN, f"{text}: CPUs never run at the same time, so nothing contends"
    return OK, f"{text}; more CPUs than cores are time-shared"


def check_processes() -> Finding:
    """Whether enough processes and files may be open."""
    import resource

    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    text = f"{_limit(processes)} processes, {_limit(descriptors)} open files"
    if 0 <= descriptors < 512 or 0 <= processes < 128:
        return WARN, f"{text}: raise them (ulimit -n, ulimit -u) for 64 CPUs"
    return OK, text


def _limit(value: int) -> str:
    return "any number of" if value < 0 else str(value)


def check_death_signal() -> Finding:
    """A grandchild must die with its parent."""
    from shmm.cluster.worker import die_with_parent

    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            _die_before_child(reader, writer, die_with_parent)
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(parent, 0)
    ended = _closed_within(reader, 2.0)
    os.close(reader)
    if not ended:
        return FAIL, "prctl(PR_SET_PDEATHSIG) does not work: a killed launcher would leave its workers behind"
    return OK, "workers die with their launcher (PR_SET_PDEATHSIG)"


def _die_before_child(reader: int, writer: int, die_with_parent: Callable[[None], None]) -> None:
    """Forks a child that holds the pipe open, and is killed once that has asked to die with its parent."""
    if os.fork() == 0:
        signal.alarm(5)                             # whatever happens, this process ends
        die_with_parent(None)
        os.write(writer, b"!")
        signal.pause()
    os.close(writer)
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _closed_within(reader: int, seconds: float) -> bool:
    import select

    ready, _, _ = select.select([reader], [], [], seconds)
    return bool(ready) and os.read(reader, 1) == b""


def check_futex() -> Finding:
    """Whether a sleeper can be woken."""
    numbers = {"x86_64": 202, "aarch64": 98}
    number = numbers.get(platform.machine())
    if number is None:
        return WARN, f"not tried on {platform.machine()}"
    word = ctypes.c_uint32(1)
    libc = ctypes.CDLL(None, use_errno=True)
    woken = libc.syscall(number, ctypes.byref(word), 1, 1, None, None, 0)      # FUTEX_WAKE, nobody waits
    if woken != 0:
        return FAIL, f"futex: {os.strerror(ctypes.get_errno())}: is the system call filtered (seccomp)?"
    return OK, "works"


def check_semaphores() -> Finding:
    """Whether the start gate works."""
    import posix_ipc

    from shmm.segment import object_name

    semaphore = posix_ipc.Semaphore(object_name(), posix_ipc.O_CREX, mode=0o600)
    semaphore.unlink()
    semaphore.release()
    semaphore.acquire(1)
    semaphore.close()
    return OK, "POSIX semaphores work"


def check_host_kernel() -> Finding:
    """Whether programs can be executed on the machine's own kernel, for --engine host."""
    try:
        from shmm.host import Host
    except ImportError as error:
        return WARN, f"the host engine cannot be loaded ({error}): build it with `python -m pip install -e .`"
    from shmm.program import Program

    program = Program()
    program.load(0, expect=-errno.EFAULT)           # a SIGSEGV that is caught
    with Host() as host:
        outcome = host.execute(program)
    if outcome.status != "done":
        return WARN, f"--engine host does not work here: {outcome.message}"
    return OK, f"{platform.release()} executes programs (--engine host), each in an address space of " \
               f"{len(outcome.maps)} mappings"


def check_leftovers() -> Finding:
    """What dead runs have left in /dev/shm."""
    from shmm.segment import leftovers

    found = leftovers()
    if found:
        return WARN, f"{len(found)} of dead runs, such as {found[0]}: remove them with `shmm clean`"
    return OK, "nothing of dead runs in /dev/shm"


def check_recording() -> Finding:
    """Whether `shmm record` can work; nothing else needs it."""
    from shmm.cluster.record import obstacles

    obstacle = obstacles.find()
    if obstacle is not None:
        return WARN, f"`shmm record` cannot work here: {obstacle}"
    return OK, f"`shmm record` has perf and the tracepoints in {obstacles.tracefs()}"


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_system, check_python, check_packages, check_engine, check_shared_memory, check_memory, check_cores,
    check_processes, check_death_signal, check_futex, check_semaphores, check_host_kernel, check_leftovers,
    check_recording,
)
