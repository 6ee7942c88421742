"""A page is pinned and read while its table is collapsed into a huge page, which then is dropped."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, COLLAPSE, DONTNEED, RW, TABLE, Scene

variants = ("base", "rcu", "signal")
policy = {"zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].gup(ARENA, dst=1)
    s.cpu[1].madvise(ARENA, TABLE, COLLAPSE, may_fail=True)
    s.cpu[1].madvise(ARENA, TABLE, DONTNEED)
