"""Two pages of a huge page are dropped at the same time: one CPU splits it, and a third stores to it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, DONTNEED, PAGE, RW, TABLE, Scene

policy = {"thp": "always", "zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].madvise(ARENA + PAGE, PAGE, DONTNEED)
    s.cpu[1].madvise(ARENA + 2 * PAGE, PAGE, DONTNEED)
    s.cpu[1].store(ARENA + 3 * PAGE, 7)
