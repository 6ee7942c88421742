"""will-it-scale's page_fault2: a private mapping of a file, so that each write copies a page of it."""

from shmm.cluster.workloads import PRIVATE, RW, Program, Task

description = "a private file each: mmap, write each page, munmap (op: a page)"


def files(cpus: int, pages: int) -> list[int]:
    return [pages] * cpus


def frames(cpus: int, pages: int) -> int:
    return 2 * cpus * pages         # the files' pages and the copies


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, PRIVATE, file=task.files[task.cpu], dst=1)
        p.touch(0, task.pages, base=1)
        p.munmap(0, task.bytes, base=1)
    return p
