"""mapbench's global: each task maps 64 KiB of one area; all tasks write all of it; each unmaps its own part.

After the benchmark of RadixVM (see mapbench_local): every page is used by every CPU, so each munmap must reach them
all, and only the first to touch a page takes memory.  Tasks begin with their own part and go round."""

from shmm.cluster.workloads import ANON, FIXED, RW, Program, Task

description = "64 KiB each of one area, which all write (op: a page)"
memsize = 64 << 10
AREA = 0x1000_0000_0000


def build(task: Task) -> Program:
    task.no_args()
    here = AREA + task.cpu * task.bytes
    p = task.thread()
    with p.forever():
        p.mmap(here, task.bytes, RW, ANON | FIXED, expect=here)
        p.barrier()
        p.touch(here, (task.cpus - task.cpu) * task.pages)
        if task.cpu:
            p.touch(AREA, task.cpu * task.pages)
        p.barrier()
        p.munmap(here, task.bytes)
    return p
