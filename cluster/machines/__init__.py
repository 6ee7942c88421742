"""Named machines: how long everything takes on them, each figure with where it comes from.

A machine is a TOML file: its cores, their clock, and figures such as `hit = {ns = 0.8, source = "estimate: ..."}`.  A
source begins with what it is worth: published (somebody measured it there), measured (here, by `shmm calibrate`),
specification (the maker says so), estimate (with the reasoning).  Those of a machine that somebody changed on the
way (Machine.with_figures) begin with "varied".

    [line]    a cache line is used, or comes from somewhere else
    [page]    4 KiB are cleared or copied; bandwidth is what one socket can clear, all its CPUs together
    [kernel]  trap and syscall are bare entries and exits; exception is an anonymous fault without its accesses to the
              memory manager's shared structures and without the clearing, trap included
    [ipi]     the sender's part for each target, the way, entry and exit of the handler
    [sleep]   going to sleep in futex_wait, the waker's part for each sleeper, from there until the sleeper runs
    [smt]     what a busy sibling costs          [spin]    one turn of a waiting loop

How a contended line is meant, for whoever fits these figures: a core that waits gets the line one transfer (cluster,
socket or remote) after it could be taken, and keeps it for `retention` at least; what it does with the line in that
time is hits.  The figures of the cores are those at the clock with one busy core of a socket; Machine.slowdowns()
says how much slower it gets.

What the kernel does in a fault beside locks, page tables, lists and clearing is one lump, kernel.exception, and nobody
publishes it.  All files have the same, in cycles, from the one such fault that was measured for this project: an
anonymous write fault of Linux 6.18 in a KVM guest on an EPYC (`shmm calibrate`), 1090 ns or 3900 cycles less clearing,
of which a quarter is taken to be the guest's nested page tables.

A source with "0.6 of" channels takes a usual share of what they could carry, for stores.  What sources name:

    core-to-core-latency  github.com/nviennot/core-to-core-latency: CAS ping-pong, half a round trip
    hierarchy-bench       github.com/travisdowns/concurrency-hierarchy-bench: threads on one counter
    Clements              github.com/aclements/thesis: logs of sharing.c (one line) and memscan.c (memory)
    AnandTech             reviews 14694 (Rome), 15578 (Graviton2) and 17032 (Tensor): latency of memory
    Intel                 "Memory Latencies on Xeon E5-4600 and E7-4800", 2014: Memory Latency Checker
    lastweek.io           lastweek.io/notes/xperf: from user space into the page-fault handler and back
    Torvalds              Google+, April 2014: a page fault and its return take a Haswell 715 and 330 cycles
    clear_pages           Linux's "x86/clear_page: introduce clear_pages()" and "folio_zero_user: clear pages
                          sequentially": clearing by one CPU, 4 KiB at a time
    ipi_benchmark         LKML, an unnamed x86 machine: 1.24 us one way, 1.79 us with the answer
    LATR                  Kumar et al., ASPLOS 2018: an IPI takes up to 2.7 us on 2 sockets, 6.6 us on 8
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from shmm.cluster.machines.files import dumps, parse
from shmm.cluster.machines.model import FIGURES, Figure, Machine, MachineError, Seat

__all__ = ["FIGURES", "HOST", "Figure", "Machine", "MachineError", "Seat", "dumps", "host_path", "load", "names"]

HOST = "host"               # the machine that `shmm calibrate` measures: a file of the user's


def names() -> tuple[str, ...]:
    """The machines that come with this project; `host` is none of them."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))


def host_path() -> Path:
    """Where the calibrated machine `host` is kept: $XDG_DATA_HOME/shmm/host.toml, which need not exist."""
    data = os.environ.get("XDG_DATA_HOME", "")
    # a relative one is to be ignored, says the specification of these directories
    root = Path(data) if os.path.isabs(data) else Path(os.path.expanduser("~/.local/share"))
    return root / "shmm" / f"{HOST}.toml"


def load(name_or_path: str) -> Machine:
    """A machine: a shipped one or `host` by its name; with a "/" or ".toml" in it, the one in that file.

    Raises MachineError, one line that says what is wrong and what to do, for an unknown name, a file that cannot be
    read or is no TOML, keys that are unknown or missing, units, values and sources that cannot be."""
    if "/" in name_or_path or ".toml" in name_or_path:
        return _read(Path(name_or_path))
    if name_or_path == HOST:
        return _read(host_path(), "machine host is not calibrated yet: run `shmm calibrate`")
    if name_or_path not in names():
        raise MachineError(f"there is no machine {name_or_path!r}; there are {', '.join(names())}, and {HOST} once "
                           f"calibrated; a file needs a / or .toml in its name")
    return _read(Path(__file__).parent / f"{name_or_path}.toml")


def _read(path: Path, missing: str | None = None) -> Machine:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if missing and isinstance(error, FileNotFoundError):
            raise MachineError(missing) from None
        raise MachineError(f"machine file {path}: {error.strerror}: give another file, or one of the machines "
                           f"{', '.join(names())}") from None
    except ValueError as error:                     # no UTF-8, or no TOML
        raise MachineError(f"machine file {path}: not TOML: {error}: correct it there") from None
    return parse(document, str(path))
