"""pft, the page fault test: one area for all, each task writes its own slice once.

Nobody calls mmap while pages are touched: the mmap_lock is only read, and mmap_seq stands still.  What is measured is
the touching, as in the original; the unmapping, by one task for all, is not."""

from shmm.cluster.workloads import ANON, FIXED, RW, Program, Task

description = "one shared area: each task writes its slice once, then it is unmapped (op: a page)"
AREA = 0x1000_0000_0000             # 1 GiB-aligned, so that slices of whole 2 MiB share no table page


def build(task: Task) -> Program:
    task.no_args()
    whole = task.bytes * task.cpus
    p = task.thread()
    with p.forever():
        if task.cpu == 0:
            p.mmap(AREA, whole, RW, ANON | FIXED, expect=AREA)
            p.clock(True)       # the others wait at the barrier
        p.barrier()
        p.touch(AREA + task.cpu * task.bytes, task.pages)
        p.barrier()
        if task.cpu == 0:
            p.clock(False)
            p.munmap(AREA, whole)
    return p
