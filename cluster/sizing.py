"""How much memory a workload's tasks get, and the job that follows from it.

The originals map 128 MiB per task, which for 64 tasks would be 8 GiB.  Without --size a task gets what it has
in the original as long as all tasks together stay within a budget of frames, and less when they do not: whole
2 MiB, so that no two tasks' slices share a page-table page."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

from shmm.cluster import topology, workloads
from shmm.cluster.config import HOST, Config, Job
from shmm.cluster.workloads import PAGE, Task, WorkloadError
from shmm.segment import FRAMES_PER_CPU, TABLE_PAGES

BUDGET = 1 << 30            # bytes of frames, all tasks together
SHARED_BUDGET = 512 << 20   # when tasks share cores: frames wander, and each worker must map all of them
SIMULATED_PAGES = 2 << 20   # of all tasks together, on the sim engine, which keeps no contents
SIMULATED_PAGE = 128        # bytes that such a page takes: its frame, its entries, its directory
TABLE = 512                 # pages that one page-table page maps


def frame_budget(cpus: int) -> int:
    """Frames for the tasks' data: the budget, or less where memory or /dev/shm is small."""
    room = os.statvfs("/dev/shm")
    free = min(room.f_bavail * room.f_frsize, memory_available() // 2)
    spare = free * 9 // 10 - (cpus * (FRAMES_PER_CPU + 32) + 2048) * (PAGE + 128)
    budget = BUDGET if cpus <= topology.usable_cores() else SHARED_BUDGET
    return max(0, min(budget, spare)) // PAGE


def simulated_budget(cpus: int) -> int:
    """Frames for the tasks' data on the sim engine, in a quarter of the free memory: points run side by side."""
    return min(SIMULATED_PAGES, memory_available() // 4 // SIMULATED_PAGE)


def host_budget(cpus: int) -> int:
    """Pages for the tasks' data on the host's own kernel: all that a machine can well spare."""
    return memory_available() // 2 // PAGE


BUDGETS = {"native": frame_budget, "sim": simulated_budget, HOST: host_budget}


def memory_available() -> int:
    """Bytes that the host can give without swapping."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def pages_per_task(cpus: int, original: int, frames: Callable[[int, int], int], budget: int) -> int:
    """Pages that each of cpus tasks maps so that frames(cpus, pages) stays within budget, if it can."""
    pages = original // PAGE
    if pages <= TABLE or frames(cpus, pages) <= budget:
        return pages
    low, high = 1, pages // TABLE           # in page-table pages; one always
    while low < high:
        middle = (low + high + 1) // 2
        if frames(cpus, middle * TABLE) <= budget:
            low = middle
        else:
            high = middle - 1
    return low * TABLE


def _frames(workload: ModuleType) -> Callable[[int, int], int]:
    return getattr(workload, "frames", lambda cpus, pages: cpus * pages)


def job_for(config: Config) -> Job:
    """The job of a named workload.  Raises WorkloadError for a workload, size or arguments that cannot be."""
    workload = workloads.load(config.workload)
    original = getattr(workload, "memsize", workloads.MEMSIZE)
    frames = _frames(workload)
    if config.size is None:
        budget = BUDGETS[config.engine](config.cpus)
        pages = pages_per_task(config.cpus, original, frames, budget)
    else:
        pages = config.size // PAGE
        if pages < 1 or config.size % PAGE:
            raise WorkloadError(f"--size {config.size}: must be a multiple of {PAGE} bytes")
    file_pages = workload.files(config.cpus, pages) if hasattr(workload, "files") else []
    numbers = tuple(range(1, len(file_pages) + 1))
    programs = [
        workload.build(Task(cpu, config.cpus, pages, numbers, config.workload_args)).array()
        for cpu in range(config.cpus)
    ]
    vmas = getattr(workload, "vmas", lambda cpus, _: 4 * cpus)
    data = frames(config.cpus, pages) - sum(file_pages)
    return Job(
        name=config.workload, programs=programs, frames=data + 64 * config.cpus,
        huge=0 if config.thp == "never" else -(-data // TABLE_PAGES),
        files=[(n, False) for n in file_pages], vmas=vmas(config.cpus, pages) + 64,
        finite=getattr(workload, "finite", False),
        bytes_per_cpu=pages * PAGE, original_bytes=original,
    )
