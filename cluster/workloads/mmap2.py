"""will-it-scale's mmap2: as mmap1, of a file each, privately: no page is touched, so its pages never are either."""

from shmm.cluster.workloads import PRIVATE, RW, Program, Task

description = "a private file each: mmap, munmap, no access (op: a pair)"


def files(cpus: int, pages: int) -> list[int]:
    return [pages] * cpus


def frames(cpus: int, pages: int) -> int:
    return cpus * pages


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, PRIVATE, file=task.files[task.cpu], dst=1)
        p.munmap(0, task.bytes, base=1, count=True)
    return p
