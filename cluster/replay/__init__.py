"""`replay`: what a recorded program did to its address spaces, done again, and compared fault by fault.

    trace.py      reads the text that perf script printed
    recording.py  joins calls with their results, threads with their lives, children with their parents
    lineage.py    infers forks, execs and address spaces
    image.py      infers what execve mapped
    calls.py      turns calls and faults into records of programs
    translate.py  one program per thread, one event at a time in recorded order
    remaps.py     mremap
    hugepages.py  infers which faults mapped a huge page
    presence.py   a model of what will be present, which explains the differences

Only faults are recorded, not accesses that found their page present; so a replay can miss a fault (its page is
already there) but takes an extra one only if one access faults twice.  A fault is missing where the recorded kernel
had less in its page tables than we do: two threads faulted at the same instant (events happen one after the other
here), pages were reclaimed, or something that was not recorded unmapped them.

Events are replayed one at a time, so speculation never meets a concurrent writer: attempts abort only for what they
find (no anon_vma yet, no page table, a file), never because a sequence count moved.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.cluster import options, results, session, topology
from shmm.cluster.config import RECORDS_PER_LINE, Config, Job
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.launch import run_point
from shmm.cluster.replay import table as replay_table
from shmm.cluster.replay import trace
from shmm.cluster.replay.calls import Place
from shmm.cluster.replay.lineage import Lineage
from shmm.cluster.replay.presence import FAULTS, MISSING
from shmm.cluster.replay.recording import Recording
from shmm.cluster.replay.translate import ReplayError, Translation, Translator
from shmm.layout import CONSTANTS
from shmm.program import OP
from shmm.segment import FRAMES_PER_CPU, SLOTS_PER_CPU, Geometry, Segment, SegmentError

SCHEMA = "shmm.replay/1"
FLUSHES = ("nr_tlb_local_flush_one", "nr_tlb_local_flush_all", "nr_tlb_remote_flush", "nr_tlb_remote_flush_received")
NOT_MAPPED = "not mapped in replay"
BEYOND = "beyond the part of a huge file that is replayed"
UNEXPLAINED = "unexplained"


@dataclass(frozen=True)
class ReplayConfig(Config):
    """A run's configuration, and how many pages a read fault on a file maps around it."""

    fault_around: int = 16

    def segment_policy(self, shared_core: bool) -> dict[str, str | int | bool]:
        """A run's policies and fault-around."""
        return super().segment_policy(shared_core) | {"fault_around": self.fault_around}


@dataclass(frozen=True)
class ReplayJob(Job):
    """A translation as a job: every program finds its address space itself, and the need of memory is known."""

    room: Geometry | None = None

    def geometry(self) -> Geometry:
        """What the model found necessary."""
        return self.room or super().geometry()

    def places_itself(self, cpu: int) -> bool:
        """Yes: also where a program begins by waiting for its turn."""
        return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The replay command's options."""
    parser.add_argument("trace", metavar="FILE", help="perf script's output, plain or .xz")
    options.add_run_options(parser, workloads=False)
    parser.add_argument("--fault-around", type=power_of_two, default=16, metavar="N",
                        help="pages that a read fault on a file maps around it, 1 for none (default: 16)")
    parser.set_defaults(parser=parser)


def power_of_two(text: str) -> int:
    """A power of two from 1 to 512."""
    value = int(text) if text.isdigit() else 0
    if value not in [1 << bit for bit in range(10)]:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1, 2, 4, ... 512")
    return value


def main(args: argparse.Namespace) -> int:
    """Replays a trace under each scheme, prints the report and returns the exit status."""
    options.check(args, args.parser)
    try:
        recorded = trace.read(args.trace)
        translation = translate(recorded, args.fault_around)
    except trace.TraceError as error:
        print(f"shmm: {error}", file=sys.stderr)
        return session.USAGE
    except ReplayError as error:
        print(f"shmm: {args.trace}: {error}", file=sys.stderr)
        return session.ENVIRONMENT
    name = os.path.basename(args.trace)
    document, status = replay_all(args, name, recorded, translation)
    session.report(document, replay_table.show, args.json)
    if status == session.OK and any(run["violations"] or run["frames_leaked"] for run in document["runs"]):
        status = session.VIOLATION
    return status


def translate(recorded: trace.Trace, fault_around: int = 16) -> Translation:
    """The programs that do what was recorded.  Raises ReplayError if they do not fit this machine."""
    recording = Recording(recorded)
    return Translator(recording, Lineage(recording), fault_around).translation()


def replay_all(
    args: argparse.Namespace, name: str, recorded: trace.Trace, translation: Translation,
) -> tuple[dict[str, Any], int]:
    """The document of all schemes' replays, and the exit status."""
    job = job_of(name, translation)
    runs: list[dict[str, Any]] = []
    error, status = None, session.OK
    with session.interruptible() as interrupted:
        try:
            for scheme in args.scheme:
                print(f"replaying {name}, {scheme} ...", file=sys.stderr)
                config = ReplayConfig(
                    **asdict(options.base_config(args, scheme=scheme, workload="replay", cpus=len(job.programs),
                                                 repeats=args.repeats or 1)),
                    fault_around=args.fault_around,
                )
                runs.append(replay_once(config, job, recorded, translation, interrupted))
        except Interrupted:                 # a partial run has no result for every fault: it is not compared
            error, status = f"interrupted after {len(runs)} of {len(args.scheme)} schemes", session.INTERRUPTED
        except ClusterError as failed:
            error, status = str(failed), session.VIOLATION
        except SegmentError as failed:
            error, status = f"{failed}; replay a shorter recording", session.ENVIRONMENT
        except OSError as failed:
            error, status = f"this machine cannot run it: {failed}; see `shmm doctor`", session.ENVIRONMENT
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "trace": about(name, recorded, translation),
        "host": topology.host(),
        "warnings": warnings(runs, recorded),
        "runs": runs,
    }
    if error is not None:
        document["error"] = error
    if status == session.INTERRUPTED:
        document["interrupted"] = True
    return document, status


def about(name: str, recorded: trace.Trace, translation: Translation) -> dict[str, Any]:
    """What the trace holds and what was made of it."""
    out = {
        "name": name, "events": len(recorded.events), "threads": recorded.threads, "faults": recorded.faults,
        "tlb_flushes": recorded.flushes, "cpus": len(recorded.cpus), "calls": len(translation.calls),
        "inferred": {what: count for what, count in sorted(translation.counts.items()) if count},
        "differed": dict(translation.differed.most_common()), "kernel_faults": recorded.kernel_faults,
        "lost_events": recorded.lost, "other_events": recorded.other, "unparsed": recorded.unparsed,
    }
    if recorded.first_unparsed is not None:
        out["first_unparsed"] = recorded.first_unparsed
    return out


def job_of(name: str, translation: Translation) -> ReplayJob:
    """The job, and a machine of the size that the model found necessary."""
    cpus = len(translation.programs)
    need = translation.pages + translation.cached + translation.tables
    slots = 1 + 2 * translation.vmas + cpus * SLOTS_PER_CPU
    insns = sum(len(program) + RECORDS_PER_LINE for program in translation.programs)
    file_pages = sum(pages for pages, _ in translation.files)
    room = Geometry(
        ncpu=cpus, nmm=1 + translation.slots, nvma=slots, nanon=slots, nfile=len(translation.files) + 2,
        ncache=file_pages + 2, nframe=need + need // 8 + 1024 + cpus * FRAMES_PER_CPU, ninsn=insns,
    )
    return ReplayJob(
        name=name, programs=translation.programs, frames=need, files=translation.files, vmas=translation.vmas,
        mms=translation.slots, finite=True, room=room,
    )


def replay_once(
    config: ReplayConfig, job: ReplayJob, recorded: trace.Trace, translation: Translation,
    interrupted: Callable[[], bool],
) -> dict[str, Any]:
    """Runs the programs once and returns the entry of "runs"."""
    outcome: dict[str, Any] = {}

    def at_rest(segment: Segment) -> None:
        outcome.update(compare(segment, translation))

    run = run_point(config, job, interrupted=interrupted, at_rest=at_rest)
    run["policies"]["fault_around"] = config.fault_around
    counters = run["counters"]
    return run | outcome | {
        "recorded_tlb_flushes": recorded.flushes,
        "tlb_flushes": sum(counters[name] for name in FLUSHES),
    }


def compare(segment: Segment, translation: Translation) -> dict[str, Any]:
    """What came of every fault and call, read from the result words."""
    taken = result_words(segment, translation.faults)
    missing, failed = Counter[str](), Counter[str]()
    for result, expected in zip(taken.tolist(), translation.expected, strict=True):
        if result < 0 and expected == FAULTS:       # its page was there when it was recorded
            missing[BEYOND if result == -CONSTANTS["SIGBUS"] else NOT_MAPPED] += 1
        elif result < 0:
            failed[expected] += 1
        elif result == 0:
            missing[expected if expected in MISSING else UNEXPLAINED] += 1
    calls = result_words(segment, translation.calls)
    return {
        "recorded_faults": len(taken),
        "replayed_faults": len(taken) - sum(missing.values()),
        "missing_faults": dict(missing.most_common()),
        "extra_faults": int(np.maximum(taken - 1, 0).sum()),
        "failed_accesses": dict(failed.most_common()),
        "failed_calls": int(refused(translation, calls)),
    }


def result_words(segment: Segment, places: list[Place]) -> NDArray[np.int64]:
    """The result of each record."""
    if not places:
        return np.zeros(0, np.int64)
    where = np.array(places, np.int64)
    first = segment.view("cpu")["program_first"].astype(np.int64)
    words: NDArray[np.int64] = segment.view("result")[first[where[:, 0]] + where[:, 1]]
    return words


def refused(translation: Translation, calls: NDArray[np.int64]) -> int:
    """Calls that had succeeded when they were recorded, and did not here.  A brk that fails returns the old end."""
    records = [translation.programs[cpu][record] for cpu, record in translation.calls]
    return sum(
        int(result < 0 or (record["op"] == OP["BRK"] and result != int(record["addr"])))
        for record, result in zip(records, calls.tolist(), strict=True)
    )


def warnings(runs: list[dict[str, Any]], recorded: trace.Trace) -> list[str]:
    """What a reader must know."""
    out = []
    if recorded.unparsed:
        out.append(f"{recorded.unparsed} lines are no event of perf script; the first is: {recorded.first_unparsed}")
    if recorded.lost:
        out.append(f"perf lost {recorded.lost} events when it recorded this: faults may be missing or fail for that")
    if not runs:
        return out
    out.append("events are replayed one at a time in recorded order: speculation never meets a concurrent writer, so "
               "no sequence count can abort it, and seconds are no measure of a scheme")
    if 0 < len(recorded.cpus) < recorded.threads:
        out.append(f"TLB flushes: the recorded threads shared {len(recorded.cpus)} CPUs, here each has one of its own, "
                   "so that a flush which was local there may need other CPUs here")
    refusals = max(run["failed_calls"] for run in runs)
    if refusals:
        out.append(f"{refusals} calls that had succeeded when recorded failed in the replay")
    if any(run["counters"]["faults_oom"] for run in runs):
        out.append("the replay ran out of page frames: its need was underestimated, and some faults failed for that")
    return out + [text for text in results.warnings(runs) if text.startswith("--")]
