"""will-it-scale's mmap1: writers of the address space only, no page is touched."""

from shmm.cluster.workloads import ANON, RW, Program, Task

description = "anonymous memory: mmap, munmap, no access (op: a pair)"


def frames(cpus: int, pages: int) -> int:
    return 0


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, ANON, dst=1)
        p.munmap(0, task.bytes, base=1, count=True)
    return p
