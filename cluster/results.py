"""Results as the JSON document shmm.run/1: keys are a contract, they may be added but never renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.cluster import topology
from shmm.cluster.config import HOST, Config, Job
from shmm.cluster.measurement import Measurement
from shmm.layout import COUNTERS

SCHEMA = "shmm.run/1"
MESSAGES = 50                   # messages about violations that are kept
HOST_FAULT_SECONDS = 1.0e-6     # of one page fault of the host on shared memory, roughly


def entry(
    config: Config, job: Job, measured: Sequence[Measurement], *, pins: Sequence[int | None],
    interrupted: bool = False,
) -> dict[str, Any]:
    """One element of "runs".  Figures are those of the repeat with the median throughput, except that
    violations and leaks are of all repeats together."""
    if not measured:
        return {}
    chosen = sorted(measured, key=lambda m: m.ops_per_s)[(len(measured) - 1) // 2]
    rates = [m.ops_per_s for m in measured]
    messages = [message for m in measured for message in violations(m)]
    leaks = [m.frames_leaked for m in measured if m.frames_leaked is not None]
    totals = chosen.counters.sum(axis=0)
    out = {
        "scheme": config.scheme,
        "engine": config.engine,
        "workload": job.name,
        "workload_args": list(config.workload_args),
        "machine": None,
        "cpus": len(job.programs),
        "clock": "wall",
        "seconds": chosen.seconds,
        "ops": int(chosen.ops.sum()),
        "ops_per_s": chosen.ops_per_s,
        "ops_per_s_min": min(rates),
        "ops_per_s_max": max(rates),
        "ops_per_s_all": rates,
        "repeats": len(measured),
        "per_cpu_ops": [int(ops) for ops in chosen.ops],
        "counters": {name: int(total) for name, total in zip(COUNTERS, totals, strict=True)},
        "shootdown": shootdown(chosen.shootdowns),
        "bytes_per_cpu": job.bytes_per_cpu,
        "original_bytes_per_cpu": job.original_bytes,
        "policies": config.policies(),
        "pinned": [core for core in pins if core is not None] or None,
        "start_method": config.start_method,
        "host_faults": chosen.host_faults,
        "violations": sum(count_violations(m) for m in measured),
        "violation_messages": messages[:MESSAGES],
        "frames_leaked": sum(leaks) if leaks else None,
    }
    return out | ({"interrupted": True} if interrupted else {})


def count_violations(measurement: Measurement) -> int:
    """Invariants found broken at rest and while running, and programs that met what they did not expect."""
    return len(measurement.violations) + measurement.count("violations")


def violations(measurement: Measurement) -> list[str]:
    """What went wrong, one line each."""
    out = list(measurement.violations)
    if broken := measurement.count("violations"):
        out.append(f"{broken} invariants were found broken while the CPUs ran")
    return out


def bucket_ns(bucket: int) -> tuple[int, int]:
    """The edges of a bucket of the shootdown histogram, [low, high) ns: 8 steps to each power of two."""
    if bucket < 8:
        return bucket, bucket + 1
    shift = (bucket >> 3) - 1
    return (8 + (bucket & 7)) << shift, (9 + (bucket & 7)) << shift


def shootdown(histogram: NDArray[np.int64]) -> dict[str, int | None]:
    """Time from a shootdown's first request to its last acknowledgement: count, and ns to a sixteenth."""
    count = int(histogram.sum())
    if count == 0:
        return {"count": 0, "median_ns": None, "p99_ns": None, "max_ns": None}
    cumulative = np.cumsum(histogram)

    def quantile(share: float) -> int:
        low, high = bucket_ns(int(np.searchsorted(cumulative, share * count)))
        return (low + high) // 2

    return {"count": count, "median_ns": quantile(0.5), "p99_ns": quantile(0.99), "max_ns": quantile(1.0)}


def warnings(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know about these figures."""
    out = []
    cores = topology.usable_cores()
    native = [run for run in runs if run["engine"] == "native"]
    for cpus in sorted({run["cpus"] for run in runs if run["engine"] != "sim" and run["cpus"] > cores}):
        out.append(f"{cpus} CPUs on {cores} cores: time-shared, contention is understated")
    if any(run["policies"]["paranoid"] for run in runs):
        out.append("--paranoid: every TLB entry is checked at its use, figures compare with no others")
    if any(not run["policies"]["zero"] for run in runs):
        out.append("--no-zero: fresh pages are not cleared, which no kernel would do")
    for machine in sorted({run["machine"] for run in runs if run["engine"] == "sim"}):
        out.append(f"modelled on {machine}: its figures are published, specified or estimated, no kernel was measured; "
                   "compare shapes and schemes, and see with --vary what a conclusion hangs on")
    for kernel in sorted({run["kernel"] for run in runs if run["engine"] == HOST}):
        out.append(f"host: {kernel} itself, with its own locking (faults under per-VMA locks since 6.4), transparent "
                   "huge pages off and files that are memfds; of its counters only calls and page faults are known")
    for run in native:
        share = run["host_faults"] * HOST_FAULT_SECONDS / (run["seconds"] * min(run["cpus"], cores) or 1)
        if share > 0.1:
            out.append(f"{name(run)}: about {share:.0%} of the time went into the host's own page faults; "
                       "measure longer (--seconds) or map less (--size)")
    return out


def name(run: dict[str, Any]) -> str:
    """A run's name for people."""
    args = "".join(f" {word}" for word in run["workload_args"])
    return f"{run['workload']}{args}, {run['scheme']}, {run['cpus']} CPUs"


def document(
    runs: Sequence[dict[str, Any]], seed: int, *, error: str | None = None, interrupted: bool = False,
    host_more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole document.  host_more: what else this host did, which no other run of the same seed would repeat."""
    out = {
        "schema": SCHEMA,
        "seed": seed,
        "host": topology.host() | (host_more or {}),
        "warnings": warnings(runs),
        "runs": list(runs),
    }
    if error is not None:
        out["error"] = error
    return out | ({"interrupted": True} if interrupted else {})


def write(text_of: dict[str, Any], path: Path) -> None:
    """Writes the document so that path holds either what it held before or all of it.

    Into what is no file, such as a device or a pipe, it is simply written: to replace that would do damage."""
    if path.exists() and not path.is_file():
        path.write_text(json.dumps(text_of, indent=1) + "\n")
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(text_of, file, indent=1)
            file.write("\n")
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
