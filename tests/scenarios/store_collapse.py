"""A CPU that has the translation stores to a page that is being copied into a huge page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, COLLAPSE, RW, TABLE, Scene

variants = ("base", "signal")
policy = {"zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].madvise(ARENA, TABLE, COLLAPSE)
