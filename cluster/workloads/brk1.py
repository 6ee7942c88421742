"""will-it-scale's brk1: the heap grows by a page and shrinks again, two ops.

All tasks of an address space share its one brk, as threads do.  Each goes on from the brk that it found when
it began, as the original does, so with several tasks many calls find the brk where they want it."""

from shmm.cluster.workloads import PAGE, Program, Task

description = "brk one page up, brk one page down, no access (op: a call)"
memsize = PAGE


def frames(cpus: int, pages: int) -> int:
    return 0


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    p.brk(0, dst=1)
    with p.forever():
        p.brk(task.bytes, base=1, may_fail=True, count=True)
        p.brk(0, base=1, may_fail=True, count=True)
    return p
