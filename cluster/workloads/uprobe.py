"""A uprobe's triggers: all tasks trap at one place in the text that they share, and touch nothing.

What a trap costs beside its entry and exit is the look-up of the VMA: under the mmap lock, whose line all CPUs then
write, or speculatively.  After the benchmark of Andrii Nakryiko's series (Linux 6.13), where each trap calls the same
empty function."""

import mmap

from shmm.cluster.workloads import FIXED, PAGE, PRIVATE, Program, Task

description = "one shared page of text: traps that only look up its VMA (op: a trap)"
memsize = PAGE
TEXT = 0x1000_0000_0000


def files(cpus: int, pages: int) -> list[int]:
    return [1]


def frames(cpus: int, pages: int) -> int:
    return 1


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    if task.cpu == 0:
        p.mmap(TEXT, PAGE, mmap.PROT_READ | mmap.PROT_EXEC, PRIVATE | FIXED, file=task.files[0], expect=TEXT)
    p.barrier()
    with p.forever():
        p.probe(TEXT, expect=1)
    return p
