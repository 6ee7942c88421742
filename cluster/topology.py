"""The host: its cores, where CPUs are pinned, and what a reader of results must know about it."""

from __future__ import annotations

import math
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

CORES = Path("/sys/devices/system/cpu")


def read_text(path: Path) -> str | None:
    """What a file of /sys or /proc says, or None if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def allowed_cores() -> list[int]:
    """The host's logical CPUs that this process may use, one of each physical core first."""
    cores = sorted(os.sched_getaffinity(0))

    def sibling_rank(core: int) -> int:
        text = read_text(CORES / f"cpu{core}/topology/thread_siblings_list") or str(core)
        return sorted(ranges(text)).index(core) if core in ranges(text) else 0

    return sorted(cores, key=lambda core: (sibling_rank(core), core))


def ranges(text: str) -> set[int]:
    """The numbers of a list such as 0-3,8."""
    out: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        out.update(range(int(low), int(high or low) + 1))
    return out


def usable_cores() -> int:
    """Cores' worth of time that this process can have: those it may use, or its cgroup's quota if less."""
    quota, _, period = (read_text(Path("/sys/fs/cgroup/cpu.max")) or "max").partition(" ")
    cores = len(os.sched_getaffinity(0))
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, math.floor(int(quota) / int(period))))
    return cores


def pins(cpus: int, pin: bool | None) -> list[int | None]:
    """The core of each CPU, or None where it may wander.

    pin: True pins also more CPUs than cores, round robin; None pins only if each gets a core of its own."""
    cores = allowed_cores()
    if pin is False or (pin is None and cpus > usable_cores()):
        return [None] * cpus
    return [cores[cpu % len(cores)] for cpu in range(cpus)]


def cpu_model() -> str:
    """The processor's name as /proc/cpuinfo gives it."""
    for line in (read_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def version() -> str:
    """This project's version."""
    try:
        return metadata.version("shmm")
    except metadata.PackageNotFoundError:
        return "not installed"


def host() -> dict[str, Any]:
    """The host section of a result."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "usable_cores": usable_cores(),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "shmm": version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "governor": read_text(CORES / "cpu0/cpufreq/scaling_governor"),
        "platform": sys.platform,
    }
