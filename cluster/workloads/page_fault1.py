"""will-it-scale's page_fault1: anonymous memory, one write per page.  One op is one page."""

from shmm.cluster.workloads import ANON, RW, Program, Task

description = "anonymous memory: mmap, write each page, munmap (op: a page)"


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, ANON, dst=1)
        p.touch(0, task.pages, base=1)
        p.munmap(0, task.bytes, base=1)
    return p
