"""will-it-scale's tlb_flush2: every page written, dropped and read again, so each op flushes all TLBs.

The read must find 0: with a stale translation it would find the page that was written and dropped."""

from shmm.cluster.workloads import ANON, DONTNEED, PAGE, RW, Program, Task

description = "1 MiB: write a page, MADV_DONTNEED it, read 0 (op: a page)"
memsize = 1 << 20


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    with p.forever():
        p.mmap(0, task.bytes, RW, ANON, dst=1)
        p.lea(2, base=1)
        with p.repeat(task.pages, 3):
            p.store(0, base=2, count=True)
            p.madvise(0, PAGE, DONTNEED, base=2)
            p.load(0, base=2, dst=4, expect=0)
            p.lea(2, base=2, value=PAGE)
        p.munmap(0, task.bytes, base=1)
    return p
