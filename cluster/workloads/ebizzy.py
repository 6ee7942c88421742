"""ebizzy's allocation loop: map a chunk, write its pages, unmap it.  One op is one record.

    -mT     chunks of 512 KiB, one write per page
    -mTR    "random" sizes, which in ebizzy 0.3 are always one page: two writers per fault
    -mTRp   the same, and every other of the chunks that stay is read-only: they are mappings of their own

As in ebizzy a set of chunks stays mapped.  New ones border on them and so inherit their anon_vma: in the published
counts no fault lacks one."""

from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task, WorkloadError

description = "mmap a chunk, write each page, munmap; -mT: 512 KiB, -mTR[p]: one page (op: a chunk)"
memsize = 512 << 10
KEPT = 10                       # chunks, ebizzy's default
READ = 1


def build(task: Task) -> Program:
    args = " ".join(task.args) or "-mT"
    if args not in ("-mT", "-mTR", "-mTRp"):
        raise WorkloadError(f"ebizzy takes -mT, -mTR or -mTRp, found {args!r}")
    pages = task.pages if args == "-mT" else 1
    p = task.thread()
    p.barrier()
    if task.cpu == 0:
        p.mmap(0, KEPT * memsize, RW, ANON, dst=1)
        p.touch(0, KEPT, memsize, base=1, ops=False)
        for chunk in range(1, KEPT, 2) if args == "-mTRp" else ():      # the lowest stays: new ones border on it
            p.mprotect(chunk * memsize, memsize, READ, base=1)
    p.barrier()
    with p.forever():
        p.mmap(0, pages * PAGE, RW, ANON, dst=1)
        p.touch(0, pages, base=1, ops=False)
        p.munmap(0, pages * PAGE, base=1, count=True)
    return p
