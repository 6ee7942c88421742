"""Scenarios: what two to four CPUs do at the same time, and the machine on which they do it.

A scenario's build(s) gets a Scene and fills it in:

    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)    # before exploring, one CPU after the other
    s.cpu[0].store(ARENA, 7, may_fail=True)         # explored
    s.cpu[1].munmap(ARENA, PAGE)

Every CPU is warm before its set-up begins: its free frames and VMAs have been used before and hold old contents, its
charges are paid in advance.  Without that, each explored run would begin with the refilling of lists, which is long and
has nothing to do with the scenario.  KEEPER, a mapping that nobody touches, keeps the upper page tables of the arena as
the neighbours of a real program do: a munmap frees at most the table of the 2 MiB it empties.
"""

from __future__ import annotations

import importlib
import mmap
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from shmm import _check
from shmm.layout import COUNTERS
from shmm.program import Program
from shmm.segment import Geometry, Segment

PAGE = 4096
NONE, READ, RW = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE, SHARED = mmap.MAP_PRIVATE, mmap.MAP_SHARED
FIXED = 0x10
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
ANON_FIXED = ANON | FIXED
SHARED_FIXED = SHARED | FIXED
MOVE_FIXED = 1 | 2                  # MREMAP_MAYMOVE, MREMAP_FIXED
GROWSDOWN = 0x100
DONTNEED, PAGEOUT, COLLAPSE = 4, 21, 25
TABLE = 512 * PAGE                  # what one page-table page maps
ARENA = 0x2000_0000_0000            # where scenarios map, a boundary of all tables
KEEPER = ARENA + (512 << 20)
FAR = 0x2080_0000_0000              # where warming up happens,
FAR_APART = 0x80_0000_0000          # each CPU in a place with tables of its own

VARIANTS: dict[str, dict[str, str | int]] = {
    "base": {"walk": "irq", "table_free": "ipi", "ipi": "mailbox"},
    "rcu": {"walk": "rcu", "table_free": "rcu", "ipi": "mailbox"},
    "signal": {"walk": "irq", "table_free": "ipi", "ipi": "signal"},
    "both": {"walk": "irq", "table_free": "rcu", "ipi": "mailbox"},
    "rt": {"walk": "irq", "table_free": "ipi", "ipi": "mailbox", "preempt_rt": 1},
    "latched": {"walk": "irq", "table_free": "ipi", "ipi": "mailbox", "vma_tree": "latched"},
}
MEMORIES = _check.MODELS
MAX_CPUS = 4
WARM_PAGES = 6                      # frames that have held something else, for each CPU
FRAMES_PER_CPU, VMAS_PER_CPU, RECORDS = 63 + 24, 24, 256


class ScenarioError(ValueError):
    """There is no such scenario, or it cannot be explored."""


class Programs(dict[int, Program]):
    """The CPUs' programs, made when they are first asked for."""

    def __missing__(self, cpu: int) -> Program:
        if not 0 <= cpu < MAX_CPUS:
            raise ScenarioError(f"there is no CPU {cpu}: a scenario has CPUs 0 to {MAX_CPUS - 1}")
        return self.setdefault(cpu, Program())


@dataclass
class Scene:
    """What a scenario's build() fills in."""

    setup: Programs = field(default_factory=Programs)           # run once, CPU 0 first
    cpu: Programs = field(default_factory=Programs)             # explored
    files: list[tuple[int, bool]] = field(default_factory=list)     # (pages, is shared memory), numbered from 1
    swap_pages: int = 0

    huge: int = 0                                               # huge pages

    @property
    def cpus(self) -> int:
        """How many CPUs there are."""
        return max(self.cpu, default=-1) + 1


@dataclass(frozen=True)
class Scenario:
    """A scenario that has been loaded."""

    name: str
    description: str
    variants: tuple[str, ...]
    build: Callable[[Scene], None]
    policy: Mapping[str, Any] = field(default_factory=dict)     # on top of the variant's
    never: tuple[str, ...] = ()         # counters that must not move, whatever the schedule

    def scene(self) -> Scene:
        """A fresh scene.  Raises ScenarioError if its CPUs are not 2 to 4 without gaps."""
        scene = Scene()
        self.build(scene)
        if scene.cpus < 2 or sorted(scene.cpu) != list(range(scene.cpus)) or max(scene.setup, default=0) >= scene.cpus:
            raise ScenarioError(f"scenario {self.name}: its CPUs must be 0, 1 and so on, 2 to {MAX_CPUS} of them")
        return scene


def available() -> list[str]:
    """The scenarios' names."""
    package = importlib.import_module("shmm.scenarios")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name: str) -> Scenario:
    """The scenario of this name.  Raises ScenarioError if there is none."""
    names = available()
    if name not in names:
        raise ScenarioError(f"there is no scenario {name!r}; there are {', '.join(names)}")
    module: Any = importlib.import_module(f"shmm.scenarios.{name}")
    return Scenario(name, module.__doc__.strip().splitlines()[0], getattr(module, "variants", ("base",)), module.build,
                    getattr(module, "policy", {}), getattr(module, "never", ()))


class Stage:
    """A scenario ready to be explored: its machine, its programs and an explorer.  One at a time in a process.

        with Stage(load("fault_munmap"), "spf", "base", "sc") as stage:
            stage.explorer.begin("dfs", 2)
    """

    def __init__(self, scenario: Scenario, scheme: str, variant: str, memory: str) -> None:
        self.scenario, self.scheme, self.variant, self.memory = scenario, scheme, variant, memory
        self.scene = scenario.scene()
        self.programs = [self.scene.cpu[cpu].array() for cpu in range(self.scene.cpus)]

    def __enter__(self) -> Self:
        policy: dict[str, Any] = {"scheme": self.scheme, **VARIANTS[self.variant], **self.scenario.policy}
        self.segment = Segment.create(geometry(self.scene), **policy, paranoid=1, fault_around=1, rcu_poll_every=1)
        try:
            self._prepare()
            self.explorer = _check.Explorer(self.segment.address, self.memory)
            self.explorer.forbid([COUNTERS.index(name) for name in self.scenario.never])
        except BaseException:
            self.segment.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.explorer.close()
        self.segment.__exit__(kind, error, trace)

    def _prepare(self) -> None:
        """Warms the CPUs up, runs the set-up, and puts the explored programs in place."""
        cpus = [_check.Cpu(self.segment.address, cpu) for cpu in range(self.scene.cpus)]
        for pages, shmem in self.scene.files:
            cpus[0].file_new(pages, shmem)
        for cpu in cpus:
            must(cpu.exec(1) if cpu.id == 0 else cpu.attach(1), f"CPU {cpu.id} has no address space")
        must(cpus[0].mmap(KEEPER, PAGE, NONE, ANON_FIXED) - KEEPER, "there is no room for the keeper")
        for cpu in cpus:
            warm_up(cpu)
        for number in sorted(self.scene.setup):
            self._load([(number, self.scene.setup[number].array())])
            must(cpus[number].run(), f"scenario {self.scenario.name}: CPU {number}'s set-up fails")
        for cpu in cpus:
            cpu.rcu_drain()
        self._load(list(enumerate(self.programs)))

    def _load(self, programs: list[tuple[int, Any]]) -> None:
        """Writes programs into the segment, one after the other; their END records are not operations."""
        at = 0
        for cpu, records in programs:
            self.segment.view("insn")[at:at + len(records)] = records
            self.segment.view("cpu")["program_first"][cpu] = at
            self.segment.view("cpu")["program_len"][cpu] = len(records) - 1
            at += len(records)


def must(result: int, message: str) -> None:
    """Raises ScenarioError unless the result is 0."""
    if result:
        raise ScenarioError(f"{message} ({result})")


def geometry(scene: Scene) -> Geometry:
    """As small as it can be: everything in a segment costs the explorer."""
    n = scene.cpus
    pages = sum(pages for pages, _ in scene.files)
    return Geometry(ncpu=n, nmm=4, nvma=1 + VMAS_PER_CPU * n, nanon=1 + VMAS_PER_CPU * n, nfile=2 + len(scene.files),
                    ncache=2 + pages, nframe=1 + FRAMES_PER_CPU * n + pages, ninsn=RECORDS,
                    nswap=1 + scene.swap_pages if scene.swap_pages else 0, nhuge=scene.huge)


def warm_up(cpu: _check.Cpu) -> None:
    """Fills the CPU's lists with things used before."""
    # the first place has tables of its own, which are freed too; at the second, only the pages are, so that they come
    # first in the list and the next frame holds old contents
    for place in (FAR + cpu.id * FAR_APART, KEEPER + PAGE):
        must(cpu.mmap(place, WARM_PAGES * PAGE, RW, ANON_FIXED) - place, f"CPU {cpu.id} cannot map")
        cpu.touch(place, WARM_PAGES * PAGE)
        must(cpu.munmap(place, WARM_PAGES * PAGE), f"CPU {cpu.id} cannot unmap")
        cpu.rcu_drain()
