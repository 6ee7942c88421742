"""Runs: a job executed on a crew's CPUs, measured, checked and torn down; run_point does one measured point.

    with Cluster(config, job) as cluster:
        cluster.run(0.2)                        # warms up
        measurement = cluster.run(2.0)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from shmm.cluster import fate, results
from shmm.cluster.config import Config, Job
from shmm.cluster.crew import POLL, SETTLE_SECONDS, START_SECONDS, ClusterError, Crew, Interrupted, never
from shmm.cluster.measurement import Measurement, Snapshot
from shmm.cluster.sizing import job_for
from shmm.segment import Segment

STOP_SECONDS = 4.0
INTERRUPTED_STOP_SECONDS = 0.4
STALL_POLLS = 100           # looks in a row that find no counter moved, before the run counts as stuck

Progress = Callable[[int, float, int], None]    # which run this is, its seconds and operations so far


class Cluster(Crew):
    """A machine whose CPUs run the job, as often as asked."""

    def __init__(
        self, config: Config, job: Job, *, interrupted: Callable[[], bool] = never,
        progress: Progress | None = None, at_rest: Callable[[Segment], None] | None = None,
    ) -> None:
        """progress: told how far a run is.  at_rest: gets the segment when the programs of a run have ended
        and nothing is torn down yet."""
        super().__init__(config, job, interrupted)
        self.progress = progress
        self.at_rest = at_rest
        self.runs = 0

    def run(self, seconds: float | None) -> Measurement:
        """Runs the programs from their beginning in a fresh address space, for so many seconds (None: until
        they end), and looks whether all is well afterwards.

        Raises Interrupted with the Measurement so far as its result."""
        self._prepare()
        before = self._snapshot()
        self.everyone("run", START_SECONDS, "come to the gate")
        opened = time.monotonic()
        self.open_gate()
        replies = self._watch(before, opened, seconds)
        at_stop = self._snapshot()
        self.segment.view("seg")["stop"] = 1
        measurement = Measurement.between(before, at_stop, at_stop.clock if self.job.clocked else at_stop.time - opened)
        interrupted = self.interrupted()
        try:
            waiting = set(range(self.cpus)) - set(replies)
            patience = INTERRUPTED_STOP_SECONDS if interrupted else STOP_SECONDS
            replies |= self.collect(waiting, patience, "stop", interruptible=False)
        except (ClusterError, Interrupted) as error:
            if interrupted or isinstance(error, Interrupted):
                raise Interrupted(measurement) from None
            raise
        self._conclude(measurement, before, replies, opened)
        try:
            self._tear_down(measurement)
        except Interrupted:
            raise Interrupted(measurement) from None
        return measurement

    def warm_up(self, seconds: float) -> None:
        """A run that is not measured: fills the host's page tables, caches and this machine's free lists."""
        try:
            self.run(seconds)
        except Interrupted:
            raise Interrupted from None
        self.runs = 0

    def _prepare(self) -> None:
        """An empty address space that all CPUs run."""
        self._reset_control()
        self._must_succeed(self.call({0: ("exec",)}, STOP_SECONDS, "exec"), "exec")
        others = {cpu: ("attach",) for cpu in range(1, self.cpus) if not self.job.places_itself(cpu)}
        self._must_succeed(self.call(others, STOP_SECONDS, "attach"), "attach")

    def _reset_control(self) -> None:
        """Fresh run control, seeded random numbers."""
        head, cpus = self.segment.view("seg"), self.segment.view("cpu")
        for field in ("stop", "ready", "finished", "barrier_count", "turn", "clock_since", "clock_ns"):
            head[field] = 0
        head["barrier_parties"] = self.cpus
        cpus["failed_pc"] = 0
        for cpu in range(self.cpus):
            cpus["rng"][cpu] = seed_of(self.config.seed, self.runs, cpu)
        self.runs += 1

    def _must_succeed(self, replies: dict[int, int], what: str) -> None:
        for cpu, result in replies.items():
            if result < 0:
                raise ClusterError(f"CPU {cpu} could not {what} address space 1: {os.strerror(-result)}")

    def _watch(self, before: Snapshot, opened: float, seconds: float | None) -> dict[int, Any]:
        """Returns the replies so far when time is over, all programs have ended, one failed, or on Ctrl-C."""
        replies: dict[int, Any] = {}
        waiting = set(range(self.cpus))
        activity, still = -1, 0
        while waiting and not self.interrupted():
            left = POLL if seconds is None else opened + seconds - time.monotonic()
            if left <= 0 or any(reply[0] < 0 for reply in replies.values()):
                break
            self.receive(waiting, replies, min(POLL, left))
            seen, ops = self._activity(before)
            still = still + 1 if seen == activity else 0
            activity = seen
            if still > STALL_POLLS:
                raise ClusterError(self._stuck(waiting))
            if self.progress is not None:
                self.progress(self.runs, time.monotonic() - opened, ops)
        return replies

    def _activity(self, before: Snapshot) -> tuple[int, int]:
        """The sum of all counters, which changes as long as anything moves, and the operations of this run.

        A function of its own: a view that lives on in a traceback keeps the segment from being unmapped."""
        counters = self.segment.view("cpu")["counter"]
        return int(counters.sum()), int(counters[:, 0].sum()) - int(before.counters[:, 0].sum())

    def _stuck(self, waiting: set[int]) -> str:
        where = "; ".join(f"CPU {cpu} is {fate.doing(self.segment, cpu)}" for cpu in sorted(waiting)[:4])
        return (f"nothing has moved for {STALL_POLLS * POLL:.0f} s: {where}; "
                f"{fate.lock_state(self.segment, 1)}")

    def _conclude(
        self, measurement: Measurement, before: Snapshot, replies: dict[int, Any], opened: float,
    ) -> None:
        """Completes the measurement with what is exact only now that all CPUs rest."""
        rest = Measurement.between(before, self._snapshot(), measurement.seconds)
        measurement.counters, measurement.shootdowns = rest.counters, rest.shootdowns
        measurement.host_faults = sum(reply[3] for reply in replies.values())
        if all(reply[0] == 0 for reply in replies.values()):        # each came to its end by itself
            if not self.job.clocked:
                measurement.seconds = max(reply[2] for reply in replies.values()) / 1e9 - opened
            measurement.ops = rest.ops
        measurement.violations = tuple(
            fate.failure(self.segment, cpu) for cpu, reply in sorted(replies.items()) if reply[0] < 0
        )

    def _tear_down(self, measurement: Measurement) -> None:
        """Checks the machine at rest, leaves the address spaces, and counts the frames that stay behind."""
        if self.at_rest is not None:
            self.at_rest(self.segment)
        self.everyone("drain", STOP_SECONDS, "finish what it deferred")
        broken = self.call({0: ("check",)}, SETTLE_SECONDS, "check the invariants")[0]
        measurement.violations += tuple(broken)
        self.everyone("exit", STOP_SECONDS * 2, "leave its address space")
        in_use = self.settle()
        measurement.frames_leaked = in_use - self.frames_at_rest

    def _snapshot(self) -> Snapshot:
        """Counters at one instant, or nearly: a launcher that was preempted while it copied tries again."""
        cpus = self.segment.view("cpu")
        takes = []
        for _ in range(5):
            start = time.monotonic()
            counters = cpus["counter"].astype(np.int64)
            clock = self._clock()
            end = time.monotonic()
            takes.append((end - start, (start + end) / 2, counters, clock))
            if end - start < 0.0005:
                break
        _, taken, counters, clock = min(takes, key=lambda take: take[0])
        return Snapshot(taken, counters, cpus["shootdown_hist"].astype(np.int64).sum(axis=0), clock)

    def _clock(self) -> float:
        """Seconds that the program's own clock has run."""
        head = self.segment.view("seg")
        since = int(head["clock_since"])
        return (int(head["clock_ns"]) + (time.monotonic_ns() - since if since else 0)) / 1e9


def run_point(
    config: Config, job: Job | None = None, *, interrupted: Callable[[], bool] = never,
    progress: Progress | None = None, at_rest: Callable[[Segment], None] | None = None,
) -> dict[str, Any]:
    """Measures one point and returns its entry of "runs" of the schema shmm.run/1.

    job: what to execute instead of the named workload.  Programs that end by themselves are not warmed up,
    and run to their end.  Raises ClusterError if a worker dies, Interrupted with the entry so far (or None),
    SegmentError if the memory is not there, WorkloadError for a workload that does not exist."""
    job = job or job_for(config)
    measured: list[Measurement] = []
    seconds = None if job.finite else config.seconds
    with Cluster(config, job, interrupted=interrupted, progress=progress, at_rest=at_rest) as cluster:
        try:
            if not job.finite and config.warmup_seconds > 0:
                cluster.warm_up(config.warmup_seconds)
            for _ in range(config.repeats):
                measured.append(cluster.run(seconds))
                if measured[-1].violations:
                    break
        except Interrupted as stopped:
            measured += [stopped.result] if stopped.result else []
            partial = results.entry(config, job, measured, pins=cluster.pins, interrupted=True)
            raise Interrupted(partial if measured else None) from None
    return results.entry(config, job, measured, pins=cluster.pins)


def seed_of(seed: int, run: int, cpu: int) -> int:
    """A 64-bit start for a CPU's random numbers, never 0 (splitmix64 of the three)."""
    x = (seed * 0x9E3779B97F4A7C15 + (run << 32) + cpu + 1) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return (x ^ (x >> 31)) | 1
