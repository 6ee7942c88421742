"""shmm: a laboratory for address-space concurrency.

Worker processes act as CPUs that share one memory descriptor: page tables and a tree of VMAs laid out in
POSIX shared memory.  Page faults, mmap, munmap and TLB shootdowns run for real, under the classical mmap lock
or speculatively without it.

    Machine             emulated CPUs to drive by hand from Python; an access that would kill a program raises
                        SegmentationFault or BusError, both FaultError
    Program             builds what a CPU does, for any executor
    Segment             the shared memory itself: create, attach, look at
    Host                the machine's own kernel, as an executor of programs
    shmm.cluster        runs programs on CPUs that race, a process each; also `python -m shmm.cluster`

A first session:

    from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
    from shmm import Machine

    with Machine(cpus=2, scheme="spf") as m:
        a = m.mmap(None, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        m.write(a, b"hello", cpu=0)
        print(m.read(a, 5, cpu=1), m.counters()["spf_success"])
        print(m.maps(), end="")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmm.host import Host
    from shmm.machine import BusError, FaultError, Machine, SegmentationFault
    from shmm.program import Program
    from shmm.segment import Segment

__all__ = ["BusError", "FaultError", "Host", "Machine", "Program", "Segment", "SegmentationFault"]

_HOME = {"Host": "host", "Program": "program", "Segment": "segment"}


def __getattr__(name: str) -> object:
    # On demand, so that importing a part of the package does not load NumPy: it starts threads, which a
    # launcher must be able to prevent before its first fork.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'machine')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
