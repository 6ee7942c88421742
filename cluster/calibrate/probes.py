"""What is measured: each probe is a method of shmm/_calibrate, where its processes stand, and what its reports mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shmm._calibrate import Report

# Where the processes of a launch stand.
ONE, FAR_MEMORY, ALL, SAME_CORE = "one core", "one core, memory of another socket", "all cores", "two on one core"
EACH_DISTANCE, TWO_CORES = "a pair at each distance", "two cores"
# The memory that each has: none, a few pages in small pages, more than the caches hold.
NONE, PAGES, COLD = "none", "pages", "cold"

LONGEST_RUN = 1000              # own operations on a contended line before it goes: beyond that, nobody contended
LEAST_SHARE = 0.1               # of the operations, of either side
INTERRUPTED = 1.5               # times what an expedited membarrier costs that interrupts nobody

Reports = Sequence["Report"]


class Reading(NamedTuple):
    """A figure that every launch of a probe yields."""

    name: str
    unit: str
    how: str
    value: Callable[[Reports], float]


@dataclass(frozen=True)
class Probe:
    """A method, and the figures that come out of it."""

    method: str
    where: str
    readings: tuple[Reading, ...]
    memory: str = NONE
    sleepers: tuple[int, ...] = ()
    doubt: Callable[[Reports], str | None] = lambda reports: None   # why these reports cannot be believed


def value(number: int) -> Callable[[Reports], float]:
    """Role 0's value of this number."""
    return lambda reports: reports[0]["values"][number]


def ns(name: str, number: int, how: str) -> Reading:
    """Role 0's value of this number, in nanoseconds."""
    return Reading(name, "ns", how, value(number))


def less(name: str, a: int, b: int, how: str) -> Reading:
    """The difference of two of role 0's values, in nanoseconds."""
    return Reading(name, "ns", how, lambda reports: value(a)(reports) - value(b)(reports))


# ---- a contended line --------------------------------------------------------------------------------------------

def run_length(reports: Reports) -> float:
    """Own operations for each time that the line was lost."""
    return sum(report["ops"] for report in reports) / max(1, sum(report["losses"] for report in reports))


def share(reports: Reports) -> float:
    """The peer's share of the rate of operations, 0 to 1."""
    rates = [1 / report["values"][0] for report in reports]
    return rates[1] / sum(rates)


def each_operation(reports: Reports) -> float:
    """ns of one operation, both together."""
    return 1 / sum(1 / report["values"][0] for report in reports)


def kept(reports: Reports) -> float:
    """ns that a line stays, for a model in which a turn has 1 + kept // own operations (shmm.cluster.machines).

    own: what one costs on a line that nobody else wants; half of it is taken for what // cuts off."""
    own = sum(report["values"][1] for report in reports) / len(reports)
    return (run_length(reports) - 0.5) * own


def moved(reports: Reports) -> float:
    """ns from one holder to the next: a turn with the line, less the time that it is kept."""
    return run_length(reports) * each_operation(reports) - kept(reports)


def contended_doubt(reports: Reports) -> str | None:
    """Whether the peer was there."""
    run, peer = run_length(reports), share(reports)
    if run > LONGEST_RUN:
        return f"{run:.0f} own operations for each loss of the line: the peer was not running"
    if not LEAST_SHARE <= peer <= 1 - LEAST_SHARE:
        return f"the peer's share of the operations was {peer:.0%}"
    return None


# ---- others ------------------------------------------------------------------------------------------------------

def membarrier_doubt(reports: Reports) -> str | None:
    """Whether anybody was interrupted."""
    with_peer, without, *_ = reports[0]["values"]
    return "nobody was interrupted: the peer was not running" if with_peer < INTERRUPTED * without else None


def sleeper_doubt(reports: Reports) -> str | None:
    """Whether there was a sleeper to wake."""
    awake, wakes = reports[0]["losses"], reports[0]["ops"]
    return f"the sleeper was awake at {awake} of {wakes} wakes" if 10 * awake > wakes else None


PROBES = (
    Probe("pingpong", EACH_DISTANCE, (ns("transfer, ping-pong", 0, "half a round trip of compare-and-exchange"),)),
    Probe("handshake", EACH_DISTANCE, (
        ns("transfer, handshake", 0, "one timed load of a line the peer has just written, less the clock's cost"),)),
    Probe("contended", EACH_DISTANCE, (
        Reading("transfer, contended", "ns", "fetch_add by two: a turn with the line, less the time it is kept", moved),
        Reading("contended operation", "ns", "fetch_add by two, machine-wide", each_operation),
        Reading("run length", "ops", "own operations for each loss of the line", run_length),
        Reading("line kept", "ns", "run length less a half, times an own-line fetch_add", kept),
        Reading("peer's share", "%", "of the operations", lambda reports: 100 * share(reports)),
    ), doubt=contended_doubt),
    Probe("clock", ONE, (Reading("clock, one core", "GHz", "a chain of dependent one-cycle instructions", value(0)),)),
    Probe("clock", ALL, (Reading("clock, all cores", "GHz", "the same on every core of a socket: the slowest",
                                 lambda reports: min(report["values"][0] for report in reports)),)),
    Probe("load", ONE, (
        ns("load", 0, "a load from the first-level cache that the next load waits for"),
        ns("access", 1, "a third of: a dependent load, a test, a counter"),
    )),
    Probe("rmw", ONE, (ns("fetch_add, own line", 0, "one after the other"),)),
    Probe("fence", ONE, (ns("fence", 0, "a store and a full fence"),)),
    Probe("pause", ONE, (ns("pause", 0, "one after the other"),)),
    Probe("syscall", ONE, (ns("system call", 0, "getppid"),)),
    Probe("timer", ONE, (
        ns("cycle counter, step", 0, "greatest common divisor of its values"), ns("cycle counter, read", 1, "ordered"),
        ns("clock, step", 2, "least difference of CLOCK_MONOTONIC"), ns("clock, read", 3, "clock_gettime"),
    )),
    Probe("memory", ONE, (ns("memory", 0, "dependent loads at random places, more than the caches hold"),), COLD),
    Probe("memory", FAR_MEMORY, (ns("memory, remote", 0, "the same, first touched from another socket"),), COLD),
    Probe("clear", ONE, (ns("clear, hot", 0, "4 KiB in the cache"), ns("clear, cold", 1, "4 KiB in memory")), COLD),
    Probe("copy", ONE, (ns("copy, hot", 0, "4 KiB in the cache"), ns("copy, cold", 1, "4 KiB from memory")), COLD),
    Probe("bandwidth", ALL, (Reading("clear, all cores", "GB/s", "every core of a socket clears its own memory",
                                     lambda reports: sum(report["values"][0] for report in reports)),), COLD),
    Probe("fault", ONE, (
        ns("fault", 0, "an anonymous page's first write, huge pages off"),
        ns("fault, its clearing", 1, "clearing the same pages again"),
        less("fault without clearing", 0, 1, "difference"),
        ns("fault, read", 2, "an anonymous page's first read: the page of zeros"),
    ), PAGES),
    Probe("signal", TWO_CORES, (
        ns("signal, round trip", 0, "to a busy process, until its handler's answer is seen"),
        ns("kill", 1, "the call alone"), ns("kill, blocked", 2, "of the own process, which blocks it"),
        less("kill, interrupting", 1, 2, "difference"),
    )),
    Probe("membarrier", TWO_CORES, (
        ns("membarrier", 0, "expedited, one peer running"), ns("membarrier, no peer", 1, "expedited, none registered"),
        less("interrupt, round trip", 0, 1, "difference: one interrupt and its acknowledgement"),
    ), doubt=membarrier_doubt),
    Probe("futex_pair", TWO_CORES, (
        ns("wake", 0, "futex_wake of a sleeper on another core: the call"),
        ns("wake to run", 1, "from the beginning of the call until the sleeper runs"),
    ), sleepers=(1,), doubt=sleeper_doubt),
    Probe("handoff", SAME_CORE, (ns("handoff", 0, "two on one core wake each other and sleep: each change"),)),
)
