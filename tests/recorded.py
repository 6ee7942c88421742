"""Traces made by hand: what perf script would have printed of a story told in a few words.

    story = Story()
    story.image("sh", 10, 0x55550000)           # a dynamic program starts
    story.fault("sh", 10, 0x55570000, "w")
    recorded = story.trace()
"""

from shmm.cluster.replay.lineage import Lineage
from shmm.cluster.replay.recording import Recording
from shmm.cluster.replay.trace import Trace, parse
from shmm.cluster.replay.translate import Translation, Translator

CODES = {"r": 0x4, "w": 0x6, "x": 0x14, "cow": 0x7}
ANON, FIXED, SHARED_ANON, PRIVATE_FILE = 0x22, 0x32, 0x21, 0x02


class Story:
    """Lines of a trace, a microsecond apart."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, comm: str, who: int | tuple[int, int], text: str) -> None:
        """who: a process's first thread, or (process, thread)."""
        pid, tid = who if isinstance(who, tuple) else (who, who)
        self.lines.append(f"{comm} {pid}/{tid} [000] {len(self.lines) * 1e-6:.9f}: {text}")

    def fault(self, comm, who, address: int, kind: str = "w", ip: int | None = None) -> None:
        """A page fault.  ip: None is the address itself of a fetch, and nothing known otherwise."""
        ip = address if kind == "x" else ip or 0
        self.line(comm, who, f"exceptions:page_fault_user: address={address:#x} ip={ip:#x} error_code={CODES[kind]:#x}")

    def enter(self, comm, who, call: str, **fields: int) -> None:
        """A call begins."""
        text = ", ".join(f"{name}: {value:#010x}" for name, value in fields.items())
        self.line(comm, who, f"syscalls:sys_enter_{call}: {text}")

    def exit(self, comm, who, call: str, result: int) -> None:
        """A call returns."""
        self.line(comm, who, f"syscalls:sys_exit_{call}: {result % 2**64:#x}")

    def call(self, comm, who, call: str, result: int, **fields: int) -> None:
        """Both."""
        self.enter(comm, who, call, **fields)
        self.exit(comm, who, call, result)

    def mmap(self, comm, who, at: int, length: int, prot: int = 3, flags: int = ANON, fd: int = 0xFFFFFFFF) -> None:
        """A mapping that came to `at`."""
        self.call(comm, who, "mmap", at, addr=0, len=length, prot=prot, flags=flags, fd=fd, off=0)

    def flush(self, comm, who) -> None:
        """A CPU flushes its own address space."""
        self.line(comm, who, "tlb:tlb_flush: pages:1 reason:local MM shootdown (3)")

    def image(self, comm, who, base: int, flushes: bool = True) -> None:
        """execve, as it shows: the stack is moved, the loader fetches, relocates itself and asks for the heap."""
        for _ in range(2 if flushes else 0):
            self.flush(comm, who)
        self.fault(comm, who, base, "x")
        self.fault(comm, who, base + 0x40000, "w", base)
        self.fault(comm, who, base + 0x20000, "r", base + 0x100)
        self.call(comm, who, "brk", base + 0x1000000, brk=0)

    def trace(self) -> Trace:
        """The parsed story."""
        trace = parse(self.lines)
        assert trace.unparsed == 0, trace.first_unparsed
        return trace


def lineage_of(trace: Trace) -> Lineage:
    """Its steps."""
    return Lineage(Recording(trace))


def translation_of(trace: Trace, fault_around: int = 16) -> Translation:
    """Its programs."""
    recording = Recording(trace)
    return Translator(recording, Lineage(recording), fault_around).translation()


def count(lineage: Lineage, what: str) -> int:
    """How many steps of a kind there are."""
    return sum(step.what == what for step in lineage.steps)
