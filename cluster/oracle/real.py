"""The host's side: programs executed on this machine's kernel (shmm.host), their outcomes in the oracle's form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shmm import host
from shmm.cluster.oracle.outcome import FILE, Area, Outcome, Start, View
from shmm.layout import CONSTANTS
from shmm.program import OP

LOAD = OP["LOAD"]
POPULATES = [OP[name] for name in ("MMAP", "MADVISE", "MPROTECT", "MREMAP", "BRK")]
MEMFD = "/memfd:file (deleted)"                # how maps names the files of a program
TASK_SIZE = CONSTANTS["TASK_SIZE"]


class Real:
    """A Host, and what all programs begin with there."""

    def __init__(self, cpus: int = 1) -> None:
        """Raises host.HostError if this machine cannot execute programs."""
        self.host = host.Host(cpus=cpus)
        start = self.host.start
        known = {area.start: bool(has) for area, has in zip(start.maps, start.anon_vma, strict=True)}
        self.start = Start(tuple(named(start.maps, known)), start.mmap_base, start.start_brk, start.start_brk, True)

    def execute(self, program: NDArray[Any], files: Sequence[tuple[int, bool]]) -> Outcome:
        """Runs the program.  Raises host.HostError if it could not be run to its end."""
        out = self.host.execute(program, files=files)
        if out.status != "done":
            raise host.HostError(out.message)
        loads = (program["op"] == LOAD) & (out.results >= 0)
        loaded = np.where(loads, out.loaded.astype(np.int64), -1).tolist()
        results = out.results.tolist()
        views = {slot: view(space) for slot, space in out.spaces.items()}
        here = views.pop(out.running, View([], {}, {}))
        populated = int(out.faults[np.isin(program["op"], POPULATES)].sum())
        return Outcome(results, loaded, here.areas, here.pages, here.absent, views, populated)

    def close(self) -> None:
        """Ends the process that executes programs."""
        self.host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()


def view(space: Any) -> View:
    """An address space in the oracle's form."""
    pages = {address: space.contents.get(address) for address in space.residency}
    absent = {address: page for address, page in space.contents.items() if address not in space.residency}
    return View(list(named(space.maps)), pages, absent)


def named(maps: Iterable[Any], anon: dict[int, bool] | None = None) -> Iterable[Area]:
    """The areas, without what lies outside of a program's reach."""
    objects: dict[tuple[Any, int], int] = {}
    for area in maps:
        if area.end > TASK_SIZE:
            continue                            # the vsyscall page
        number = objects.setdefault((area.dev, area.inode), len(objects) + 1) if area.inode else 0
        path = FILE if area.path == MEMFD else area.path
        yield Area(area.start, area.end, area.perms, area.offset, path, number, bool(anon and anon.get(area.start)))
