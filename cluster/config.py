"""What a run is asked for (Config) and what its CPUs will execute (Job)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from shmm._fast import Cpu
from shmm.program import OP
from shmm.segment import Geometry, Segment, SegmentError

SCHEMES = ("mmap_lock", "spf")
HOST = "host"                   # an engine, and what it calls the one scheme that its kernel has
ENGINES = ("native", "sim", HOST)
SECONDS = {"native": 2.0, "sim": 0.002, HOST: 2.0}        # measured by default, on the engine's clock
IPIS = {"native": "mailbox", "sim": "signal", HOST: ""}   # a simulated CPU has a core: requests interrupt it
START_METHODS = ("fork", "forkserver")
RECORDS_PER_LINE = 8            # result words of 8 bytes on a line of 64


@dataclass(frozen=True)
class Config:
    """One point of a measurement: one scheme, one workload, one number of CPUs."""

    scheme: str = "spf"
    workload: str = "page_fault1"
    workload_args: tuple[str, ...] = ()
    cpus: int = 1
    engine: str = "native"
    machine: str | None = None          # sim: the name or file of the machine that is simulated; None: host
    figures: tuple[tuple[str, float], ...] = ()     # sim: figures of the machine that differ: ("line.remote", 200.0)
    exact: bool = False                 # sim: no lookahead
    seconds: float = 0.0                # measured, of each repeat, 0: SECONDS; programs that end by themselves just end
    repeats: int = 1
    warmup: float | None = None         # seconds before the first repeat; None: seconds / 10, at most 0.2
    seed: int = 1
    size: int | None = None             # bytes that each task maps; None: as in the original, if they fit
    force_speculation: bool = False     # speculate even while one CPU alone runs the address space
    zero: bool = True                   # a fresh page is cleared; without, faults alone are measured
    paranoid: bool = False              # check every TLB entry at its use, and invariants while running
    walk: str = "irq"
    table_free: str = "ipi"
    ipi: str = ""                       # empty: IPIS
    thp: str = "never"                  # huge pages: never, madvise, always
    vma_free: str = "auto"
    vma_tree: str = "rbtree"
    preempt_rt: bool = False            # spinlocks sleep, and none may be waited for with interrupts off
    start_method: str = "fork"
    pin: bool | None = None             # None: if there are enough cores

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", self.seconds or SECONDS[self.engine])
        object.__setattr__(self, "ipi", self.ipi or IPIS[self.engine])
        if self.engine == HOST:
            object.__setattr__(self, "scheme", HOST)

    @property
    def warmup_seconds(self) -> float:
        """The warm-up's length in seconds."""
        return min(0.2, self.seconds / 10) if self.warmup is None else self.warmup

    def policies(self) -> dict[str, str | bool]:
        """What decides how the memory manager works, by the names of the command line."""
        return {"scheme": self.scheme, "walk": self.walk, "table_free": self.table_free, "ipi": self.ipi,
                "force_speculation": self.force_speculation, "zero": self.zero, "paranoid": self.paranoid,
                "thp": self.thp, "vma_free": self.vma_free, "vma_tree": self.vma_tree, "preempt_rt": self.preempt_rt}

    def segment_policy(self, shared_core: bool) -> dict[str, Any]:
        """The same, as Segment.create takes it."""
        return {"scheme": self.scheme, "walk": self.walk, "table_free": self.table_free, "ipi": self.ipi,
                "vma_free": self.vma_free, "vma_tree": self.vma_tree, "preempt_rt": self.preempt_rt,
                "force_speculation": self.force_speculation, "zeroing": self.zero,
                "paranoid": self.paranoid, "thp": self.thp, "shared_core": shared_core,
                "queued_spinlocks": 0 if shared_core else 1}


@dataclass(frozen=True)
class Job:
    """Programs for the CPUs of one machine, and the room that they need.

    A CPU runs address space 1 with the others, unless its program begins with MM or EXEC."""

    name: str
    programs: Sequence[NDArray[Any]]    # one per CPU, as Program.array() makes them
    frames: int                         # data frames that all programs hold at once, at most
    files: Sequence[tuple[int, bool]] = ()     # (pages, is shared anonymous memory), numbered from 1
    vmas: int = 1024                    # mappings at once, of all address spaces
    regions: int | None = None          # see Geometry.for_run
    mms: int = 1
    swap_pages: int = 0
    huge: int = 0                       # huge pages, on top of the data frames
    finite: bool = False                # the programs end by themselves
    bytes_per_cpu: int = 0              # what one task maps, and in the original; for the report
    original_bytes: int = 0
    notes: tuple[str, ...] = field(default=())

    def geometry(self) -> Geometry:
        """Room for all of it."""
        return Geometry.for_run(
            len(self.programs), self.frames, mms=self.mms, vmas=self.vmas, regions=self.regions,
            files=len(self.files) + 1, file_pages=sum(pages for pages, _ in self.files),
            insns=self.insns() + 1, swap_pages=self.swap_pages, huge=self.huge,
        )

    def places_itself(self, cpu: int) -> bool:
        """Whether the CPU's program chooses its address space itself."""
        program = self.programs[cpu]
        return len(program) > 0 and int(program[0]["op"]) in (OP["MM"], OP["EXEC"])

    @property
    def clocked(self) -> bool:
        """Whether the programs say what is measured."""
        return any((program["op"] == OP["CLOCK"]).any() for program in self.programs)

    def starts(self) -> list[int]:
        """Where each program's records begin.

        No two CPUs' result words share a cache line, for they are written often."""
        starts, at = [], 0
        for program in self.programs:
            starts.append(at)
            at += -(-len(program) // RECORDS_PER_LINE) * RECORDS_PER_LINE
        return starts

    def insns(self) -> int:
        """Records that all programs take, laid out so."""
        ends = (start + len(program) for start, program in zip(self.starts(), self.programs, strict=True))
        return max(ends, default=0)

    def write(self, segment: Segment, cpu_of: Callable[[int, int], Cpu]) -> None:
        """Writes files and programs into a fresh segment.  cpu_of: the engine's Cpu(address, number).

        Raises SegmentError if a file cannot be made."""
        creator = cpu_of(segment.address, 0)
        for number, (pages, shmem) in enumerate(self.files, 1):
            made = creator.file_new(pages, shmem)
            if made != number:
                raise SegmentError(f"file {number} of {pages} pages could not be made: ask for a smaller --size")
        records, cpus = segment.view("insn"), segment.view("cpu")
        for cpu, (start, program) in enumerate(zip(self.starts(), self.programs, strict=True)):
            records[start : start + len(program)] = program
            cpus["program_first"][cpu], cpus["program_len"][cpu] = start, len(program)
