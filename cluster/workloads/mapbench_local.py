"""mapbench's local: each task maps a page at a place of its own, writes it, unmaps it.

After the benchmark of RadixVM (Clements, Kaashoek, Zeldovich, EuroSys 2013): no two tasks ever use the same memory,
so whatever keeps them from scaling is the address space's own doing.  A task's place is a page table of its own."""

from shmm.cluster.workloads import ANON, FIXED, PAGE, RW, Program, Task

description = "a page of one's own: map, write, unmap (op: a page)"
memsize = PAGE
AREA, APART = 0x1000_0000_0000, 2 << 20


def build(task: Task) -> Program:
    task.no_args()
    here = AREA + task.cpu * APART
    p = task.thread()
    with p.forever():
        p.mmap(here, task.bytes, RW, ANON | FIXED, expect=here)
        p.touch(here, task.pages)
        p.munmap(here, task.bytes)
    return p
