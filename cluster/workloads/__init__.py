"""What the tasks of a run do: one small file per workload, and the name of the file is the workload's.

A workload keeps the name of the benchmark whose meaning it has.  Its file holds

    description            one line, for --list
    build(task)            the Program of one task
    files(cpus, pages)     optional: the files it maps, their sizes in pages; task.files are their numbers
    frames(cpus, pages)    optional: frames that all tasks hold together at most; cpus * pages otherwise
    vmas(cpus, pages)      optional: mappings that exist at once; 4 per task otherwise
    memsize                optional: bytes that a task maps in the original; 128 MiB otherwise
    finite                 optional: True if the programs end by themselves
"""

from __future__ import annotations

import importlib
import mmap
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from shmm.program import Program

PAGE = 4096
NONE = 0
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
PRIVATE, SHARED = mmap.MAP_PRIVATE, mmap.MAP_SHARED
FIXED = 0x10
DONTNEED = 4
MEMSIZE = 128 << 20
STACK = 8 << 20

__all__ = ["ANON", "DONTNEED", "FIXED", "MEMSIZE", "PAGE", "PRIVATE", "RW", "SHARED", "Program", "Task",
           "WorkloadError", "available", "load"]


class WorkloadError(ValueError):
    """There is no such workload, or it does not take these arguments."""


@dataclass(frozen=True)
class Task:
    """One task of a run, as a workload's build() sees it."""

    cpu: int                    # its number, 0 ..
    cpus: int                   # how many tasks there are
    pages: int                  # pages that each task maps
    files: tuple[int, ...] = ()  # the numbers of the files that files() asked for
    args: tuple[str, ...] = ()  # the words of --workload-args

    @property
    def bytes(self) -> int:
        """Bytes that each task maps."""
        return self.pages * PAGE

    def thread(self) -> Program:
        """A program that begins with what starting a thread does: a stack is mapped, with a guard page.

        Nothing touches it, but it matters: in an empty address space each munmap would free all page tables up
        to the top one, where a real process has neighbours that keep them."""
        program = Program()
        program.mmap(0, STACK + PAGE, NONE, ANON, dst=1)
        program.mprotect(PAGE, STACK, RW, base=1)
        return program

    def no_args(self) -> None:
        """Refuses arguments, for a workload that takes none."""
        if self.args:
            raise WorkloadError(f"this workload takes no arguments, found {' '.join(self.args)!r}")


def available() -> dict[str, str]:
    """The workloads' names and descriptions."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: load(name).description for name in names}


def load(name: str) -> ModuleType:
    """The workload's module.  Raises WorkloadError if there is none."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise WorkloadError(f"there is no workload {name!r}; there are {', '.join(sorted(names))}")
    return importlib.import_module(f"{__name__}.{name}")
