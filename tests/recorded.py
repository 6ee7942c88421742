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
STACK = 0x7FFF00000000
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

    # ---- what only `shmm record` records ---------------------------------------------------------------------------

    def exec(self, comm, who) -> None:
        """perf tells that a new image runs."""
        self.line(comm, who, f"PERF_RECORD_COMM exec: {comm}:{who}/{who}")

    def mapped(self, comm, who, at: int, length: int, prot: str = "r-xp", inode: int = 7, offset: int = 0,
               name: str = "/x") -> None:
        """perf tells what was mapped.  inode 0: no file."""
        self.line(comm, who, f"PERF_RECORD_MMAP2 {who}/{who}: [{at:#x}({length:#x}) @ {offset:#x} fe:00 {inode} 0]: "
                             f"{prot} {name}")

    def told(self, comm, who, base: int) -> None:
        """execve, as perf tells it: a file's text and data, and a stack."""
        self.exec(comm, who)
        self.mapped(comm, who, STACK, 0x21000, "rw-p", 0, 0, "[stack]")
        self.mapped(comm, who, base, 0x20000)
        self.mapped(comm, who, base + 0x20000, 0x10000, "rw-p", offset=0x20000)

    def kernel_fault(self, comm, who, address: int, kind: str = "w") -> None:
        """A fault in the kernel on a user page."""
        self.line(comm, who, f"exceptions:page_fault_kernel: address={address:#x} ip=_copy_to_user "
                             f"error_code={CODES[kind] & ~4:#x}")

    def new_task(self, comm, who, flags: int) -> None:
        """The flags of a clone."""
        self.line(comm, who, f"task:task_newtask: pid=1 comm={comm} clone_flags={flags:x} oom_score_adj=0")

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
