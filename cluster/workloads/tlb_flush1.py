"""will-it-scale's tlb_flush1: as tlb_flush2, on a private mapping of a file each.

The write copies the file's page, the advice drops the copy, and the read finds the file's 0 again: with a stale
translation it would find the copy."""

from shmm.cluster.workloads import DONTNEED, PAGE, PRIVATE, RW, Program, Task

description = "a private file each: write a page, MADV_DONTNEED it, read 0 (op: a page)"


def files(cpus: int, pages: int) -> list[int]:
    return [pages] * cpus


def frames(cpus: int, pages: int) -> int:
    return 2 * cpus * pages         # the files' pages and the copies


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, PRIVATE, file=task.files[task.cpu], dst=1)
        p.lea(2, base=1)
        with p.repeat(task.pages, 3):
            p.store(0, base=2, count=True)
            p.madvise(0, PAGE, DONTNEED, base=2)
            p.load(0, base=2, dst=4, expect=0)
            p.lea(2, base=2, value=PAGE)
        p.munmap(0, task.bytes, base=1)
    return p
