"""A process forks and breaks the share, while a thread of it stores through a translation from before the fork."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[1].store(ARENA, 6)
    s.cpu[0].fork(2)
    s.cpu[0].store(ARENA + 8, 9)
    s.cpu[1].store(ARENA, 7)
