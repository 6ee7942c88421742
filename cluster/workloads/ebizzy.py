"""ebizzy's allocation loop: map a chunk, write its pages, unmap it.  One op is one record.

    -mT     chunks of 512 KiB, one write per page
    -mTR    "random" sizes, which in ebizzy 0.3 are always one page: two writers per fault

As in ebizzy a set of chunks stays mapped.  New ones border on them and so inherit their anon_vma: in the published
counts no fault lacks one."""

from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task, WorkloadError

description = "mmap a chunk, write each page, munmap; -mT: 512 KiB, -mTR: one page (op: a chunk)"
memsize = 512 << 10
KEPT = 10                       # chunks, ebizzy's default


def build(task: Task) -> Program:
    args = " ".join(task.args) or "-mT"
    if args not in ("-mT", "-mTR"):
        raise WorkloadError(f"ebizzy takes -mT or -mTR, found {args!r}")
    pages = 1 if args == "-mTR" else task.pages
    p = task.thread()
    p.barrier()
    if task.cpu == 0:
        p.mmap(0, KEPT * memsize, RW, ANON, dst=1)
        p.touch(0, KEPT, memsize, base=1, ops=False)
    p.barrier()
    with p.forever():
        p.mmap(0, pages * PAGE, RW, ANON, dst=1)
        p.touch(0, pages, base=1, ops=False)
        p.munmap(0, pages * PAGE, base=1, count=True)
    return p
