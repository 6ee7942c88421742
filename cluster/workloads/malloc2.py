"""will-it-scale's malloc2: malloc and free of 1 KiB, over and over the same chunk of the thread's cache.

No system call and no fault after the first: what it shows is that nothing of an address space's schemes costs a
program that leaves it alone."""

from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task

description = "malloc, free of 1 KiB: a cached chunk is taken and given back (op: a pair)"
memsize = 33 * PAGE                 # what glibc gives an arena at first
LINK, KEY = 0, 8                    # of a free chunk: the next one, and a mark against freeing twice


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    p.mmap(0, task.bytes, RW, ANON, dst=1)
    p.touch(0, 1, base=1, ops=False)
    with p.forever():
        p.load(LINK, base=1, dst=2)
        p.store(KEY, 0, base=1)
        p.store(LINK, 0, base=1)
        p.store(KEY, 1, base=1, count=True)
    return p
