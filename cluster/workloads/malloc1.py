"""will-it-scale's malloc1: malloc and free of 128 MiB, as glibc does them.

More than M_MMAP_THRESHOLD_MAX (32 MiB) is always mapped: one page more than was asked for, a header written into the
first one, and an munmap.  Nothing else is touched: one fault per two writers, which is why both Intel's and
Lespinasse's figures for it moved most."""

from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task

description = "malloc, free of 128 MiB: mmap, write the header, munmap (op: a pair)"


def frames(cpus: int, pages: int) -> int:
    return 4 * cpus                 # the page, and tables


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes + PAGE, RW, ANON, dst=1)
        p.store(8, base=1)          # the chunk's size
        p.munmap(0, task.bytes + PAGE, base=1, count=True)
    return p
