"""will-it-scale's tlb_flush3: as tlb_flush2, on a shared mapping of a file each.

What was written is the file's, so the read after the advice must find it again."""

from shmm.cluster.workloads import DONTNEED, PAGE, RW, SHARED, Program, Task

description = "a shared file each: write a page, MADV_DONTNEED it, read it back (op: a page)"


def files(cpus: int, pages: int) -> list[int]:
    return [pages] * cpus


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, SHARED, file=task.files[task.cpu], dst=1)
        p.lea(2, base=1)
        with p.repeat(task.pages, 3):
            p.store(0, base=2, count=True)
            p.madvise(0, PAGE, DONTNEED, base=2)
            p.load(0, base=2, dst=4, expect=1)
            p.lea(2, base=2, value=PAGE)
        p.munmap(0, task.bytes, base=1)
    return p
