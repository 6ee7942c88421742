"""will-it-scale's page_fault3: a shared mapping of a file, so that each write dirties a page of it."""

from shmm.cluster.workloads import RW, SHARED, Program, Task

description = "a shared file each: mmap, write each page, munmap (op: a page)"


def files(cpus: int, pages: int) -> list[int]:
    return [pages] * cpus


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, SHARED, file=task.files[task.cpu], dst=1)
        p.touch(0, task.pages, base=1)
        p.munmap(0, task.bytes, base=1)
    return p
