"""will-it-scale's brk2: as brk1, above a page of heap that stays, so that no call makes or frees a VMA.

In brk1 the first task's heap is empty at its lower end: growing it maps a new area, shrinking it unmaps the whole.
Here the area's end moves.  All tasks share one brk, as threads do (see brk1)."""

from shmm.cluster.workloads import PAGE, Program, Task

description = "brk one page up, brk one page down, above a page that stays, no access (op: a call)"
memsize = PAGE


def frames(cpus: int, pages: int) -> int:
    return 0


def build(task: Task) -> Program:
    task.no_args()
    p = task.thread()
    p.brk(0, dst=1)
    p.brk(task.bytes, base=1, may_fail=True)
    with p.forever():
        p.brk(2 * task.bytes, base=1, may_fail=True, count=True)
        p.brk(task.bytes, base=1, may_fail=True, count=True)
    return p
