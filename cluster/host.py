"""Runs on this machine's own kernel: the job's programs as threads of a fresh process, one per CPU (shmm.host).

run_point does one measured point, as launch.run_point does on emulated CPUs, and reports it in the same form.  There is
one scheme, called host: whatever this kernel does.  Transparent huge pages are off, as they must be for pages to be
faults; each repeat is a process of its own, and what it leaves behind is nothing."""

from __future__ import annotations

import os
import platform
import select
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from shmm.cluster import fate, results, topology
from shmm.cluster.config import Config, Job
from shmm.cluster.crew import POLL, START_SECONDS, ClusterError, Interrupted, never
from shmm.cluster.launch import STOP_SECONDS, Progress, seed_of
from shmm.cluster.measurement import Measurement
from shmm.cluster.sizing import job_for, memory_available
from shmm.cluster.words import size
from shmm.cluster.workloads import PAGE, WorkloadError
from shmm.host import Host, HostError
from shmm.layout import COUNTERS, DTYPES, OPS
from shmm.program import OP

LONGEST = 7 * 86400.0           # seconds, of programs that end by themselves
SPARE = 16 << 30                # address space beyond what the job maps


def check(job: Job) -> None:
    """Raises WorkloadError for a job that would not mean on a real kernel what it means on an emulated one."""
    for program in job.programs:
        if (program["op"] == OP["PROBE"]).any():
            raise WorkloadError(f"{job.name} traps into the kernel as a uprobe does, which a program cannot do by "
                                "itself: --engine host has no PROBE to measure")
        if (program["op"] == OP["NUMA"]).any():
            raise WorkloadError(f"{job.name} asks for NUMA hint faults, which --engine host cannot: its kernel scans when "
                                "it likes")
        if np.isin(program["op"], [OP[name] for name in ("MM", "EXEC", "FORK", "EXIT")]).any():
            raise WorkloadError(f"{job.name} changes address spaces: on --engine host all CPUs are threads of one")


def needed_bytes(job: Job) -> int:
    """Memory that the job's tasks hold at once, at most."""
    return PAGE * (job.frames + sum(pages for pages, _ in job.files))


class HostRun:
    """The process that executes a job, as often as asked."""

    def __init__(self, config: Config, job: Job, interrupted: Callable[[], bool], progress: Progress | None) -> None:
        self.config, self.job, self.interrupted, self.progress = config, job, interrupted, progress
        self.cpus = len(job.programs)
        self.pins = topology.pins(self.cpus, config.pin)
        self.runs = 0
        needed, free = needed_bytes(job), memory_available()
        if needed > free * 9 // 10:
            raise MemoryError(f"{job.name} on {self.cpus} CPUs needs {size(needed >> 20 << 20)} of real memory, "
                              f"{size(free >> 20 << 20)} are available: use --size 2M")
        try:
            self.host = Host(cpus=self.cpus, records=job.insns() + self.cpus, limit=4 * needed + SPARE)
        except HostError as error:
            raise OSError(str(error)) from None
        self.control = self.host.control

    def run(self, seconds: float | None) -> Measurement:
        """Runs the programs from their beginning for so many seconds (None: until they end).

        Raises Interrupted with the Measurement so far as its result, ClusterError if the process died."""
        try:
            return self._run(seconds)
        except HostError as error:
            raise ClusterError(str(error)) from None

    def _run(self, seconds: float | None) -> Measurement:
        seeds = [seed_of(self.config.seed, self.runs, cpu) for cpu in range(self.cpus)]
        self.runs += 1
        longest = START_SECONDS + STOP_SECONDS + (LONGEST if seconds is None else seconds)
        self.host.prepare(self.job.programs, files=self.job.files, exact=False, seconds=longest, seed=seeds,
                          threaded=True, cores=self.pins)
        try:
            self.host.order(b"r")
            self._come_to_the_gate()
            opened = time.monotonic()
            self.control.go()
            interrupted = self._watch(opened, seconds)
            measurement = self._at_stop(opened)
            self.control.stop()
            self.host.answer(b"r", STOP_SECONDS, "stop")
            self._conclude(measurement, opened)
        finally:
            self.host.release()
        if interrupted:
            raise Interrupted(measurement)
        return measurement

    def _come_to_the_gate(self) -> None:
        until = time.monotonic() + START_SECONDS
        while self.control.ready < self.cpus:
            if self._over() or time.monotonic() > until:
                self._must_live()
                raise ClusterError(f"{self.control.ready} of {self.cpus} threads came to the gate within "
                                   f"{START_SECONDS:.0f} s")
            if self.interrupted():
                raise Interrupted
            time.sleep(0.001)

    def _watch(self, opened: float, seconds: float | None) -> bool:
        """Returns when time is over, all programs have ended, one failed, or on Ctrl-C; whether it was that."""
        while not self.interrupted():
            left = POLL if seconds is None else opened + seconds - time.monotonic()
            if left <= 0 or self._over(min(POLL, left)) or self._failed():
                return False
            if self.progress is not None:
                ops = sum(self.control.ops(cpu) for cpu in range(self.cpus))
                self.progress(self.runs, time.monotonic() - opened, ops)
        return True

    def _failed(self) -> bool:
        return any(self.control.cpu(cpu)["failed_pc"] >= 0 for cpu in range(self.cpus))

    def _over(self, seconds: float = 0.0) -> bool:
        """Whether the zygote has something to say: the run is over, or the zygote is."""
        return bool(select.select([self.host.link], [], [], seconds)[0])

    def _must_live(self) -> None:
        """Raises ClusterError if the process has died or could not begin."""
        status = self.control.status
        if status == "refused":
            raise OSError(f"no process of {self.cpus} threads: {os.strerror(self.control.error)}")
        if status == "deadline":
            raise ClusterError("the programs on the host's kernel did not end in time")
        if status == "destroyed":
            _, number, code = self.control.dead
            states = [self.control.cpu(cpu) for cpu in range(min(self.cpus, 4))]
            where = "; ".join(f"CPU {cpu} at record {state['pc']} ({OPS[state['op']]})"
                              for cpu, state in enumerate(states))
            raise ClusterError(f"the process on the host's kernel {fate.cause(-number if number else code)}: {where}")

    def _at_stop(self, opened: float) -> Measurement:
        """Operations and time, at one instant or nearly."""
        ops = np.array([self.control.ops(cpu) for cpu in range(self.cpus)], np.int64)
        now = time.monotonic()
        seconds = now - opened
        if self.job.clocked:
            ns, since = self.control.clock
            seconds = (ns + (time.monotonic_ns() - since if since else 0)) / 1e9
        counters = np.zeros((self.cpus, len(COUNTERS)), np.int64)
        shootdowns = np.zeros(DTYPES["cpu_t"]["shootdown_hist"].shape, np.int64)
        return Measurement(seconds, ops, counters, shootdowns, frames_leaked=0)

    def _conclude(self, measurement: Measurement, opened: float) -> None:
        """What is exact only now that all threads have ended."""
        self._must_live()
        states = [self.control.cpu(cpu) for cpu in range(self.cpus)]
        for cpu, state in enumerate(states):
            for name, value in (state["counters"] | {"ops": state["ops"]}).items():
                measurement.counters[cpu, COUNTERS.index(name)] = value
        measurement.host_faults = measurement.count("pgfault")
        if all(state["outcome"] == "done" for state in states):
            if not self.job.clocked:
                measurement.seconds = max(state["ended_ns"] for state in states) / 1e9 - opened
            measurement.ops = measurement.counters[:, 0]
        measurement.violations = tuple(
            f"CPU {cpu}: its program failed at record {state['failed_pc']} "
            f"({OPS[int(self.job.programs[cpu][state['failed_pc']]['op'])]}): the result was "
            f"{state['failed_result']}, expected {state['failed_expect']}"
            for cpu, state in enumerate(states) if state["outcome"] == "failed"
        )


def run_point(
    config: Config, job: Job | None = None, *, interrupted: Callable[[], bool] = never,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures one point on the host's kernel and returns its entry of "runs" of the schema shmm.run/1.

    Raises as launch.run_point does, OSError if there is no process to be had, MemoryError if too little memory."""
    job = job or job_for(config)
    check(job)
    measured: list[Measurement] = []
    seconds = None if job.finite else config.seconds
    run = HostRun(config, job, interrupted, progress)
    with run.host:
        try:
            if not job.finite and config.warmup_seconds > 0:
                _warm_up(run, config.warmup_seconds)
            for _ in range(config.repeats):
                measured.append(run.run(seconds))
                if measured[-1].violations:
                    break
        except Interrupted as stopped:
            measured += [stopped.result] if stopped.result else []
            raise Interrupted(entry(config, job, measured, run, True) if measured else None) from None
    return entry(config, job, measured, run)


def _warm_up(run: HostRun, seconds: float) -> None:
    """A run that is not measured."""
    try:
        run.run(seconds)
    except Interrupted:
        raise Interrupted from None
    run.runs = 0


def entry(config: Config, job: Job, measured: list[Measurement], run: HostRun, interrupted: bool = False,
          ) -> dict[str, Any]:
    """The element of "runs": that of a native run, without what only an emulated machine has."""
    out = results.entry(config, job, measured, pins=run.pins, interrupted=interrupted)
    nothing = dict.fromkeys(config.policies())
    return out | {
        "scheme": config.scheme, "start_method": None, "kernel": f"{platform.system()} {platform.release()}",
        "policies": nothing | {"scheme": config.scheme, "zero": True, "paranoid": False},
    }
