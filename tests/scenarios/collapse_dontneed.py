"""A fault walks a table that is collapsed, deposited, and freed with the huge page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, COLLAPSE, DONTNEED, PAGE, RW, TABLE, Scene

variants = ("base", "rcu")
policy = {"zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].madvise(ARENA, TABLE, COLLAPSE)
    s.cpu[1].madvise(ARENA, TABLE, DONTNEED)
