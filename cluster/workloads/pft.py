"""pft, the page fault test: one area for all, each task writes its own slice once.

Nobody calls mmap while pages are touched: the mmap_lock is only read, and mmap_seq stands still."""

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
        p.barrier()
        p.touch(AREA + task.cpu * task.bytes, task.pages)
        p.barrier()
        if task.cpu == 0:
            p.munmap(AREA, whole)
    return p
