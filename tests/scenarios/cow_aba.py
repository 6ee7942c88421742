"""Two threads store to a page that a fork has shared, while the child lets go of it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, DONTNEED, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].fork(2)
    s.setup[2].mm(2)
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].store(ARENA + 8, 9)
    s.cpu[2].madvise(ARENA, PAGE, DONTNEED)
