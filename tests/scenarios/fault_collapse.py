"""A page is stored to for the first time while its table is collapsed into a huge page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, COLLAPSE, PAGE, RW, TABLE, Scene

variants = ("base", "rcu")
policy = {"zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].madvise(ARENA, TABLE, COLLAPSE)
