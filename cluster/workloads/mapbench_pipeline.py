"""mapbench's pipeline: each task maps a page and writes it; its neighbour writes it too and unmaps it.

After the benchmark of RadixVM (see mapbench_local): each page is used by two CPUs, so each munmap must reach exactly
one other.  There, tasks hand pages on through queues; here all hand on at once, at a barrier, and map again at
another, so a round waits for its slowest task."""

from shmm.cluster.workloads import ANON, FIXED, PAGE, RW, Program, Task

description = "map and write a page; the neighbour writes and unmaps it (op: a page)"
memsize = PAGE
AREA, APART = 0x1000_0000_0000, 2 << 20


def build(task: Task) -> Program:
    task.no_args()
    here = AREA + task.cpu * APART
    taken = AREA + (task.cpu + 1) % task.cpus * APART
    p = task.thread()
    with p.forever():
        p.mmap(here, task.bytes, RW, ANON | FIXED, expect=here)
        p.touch(here, task.pages, ops=False)
        p.barrier()
        p.touch(taken, task.pages)
        p.munmap(taken, task.bytes)
        p.barrier()
    return p
