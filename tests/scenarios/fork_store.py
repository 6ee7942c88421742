"""A process forks on one CPU while a thread of it stores on another."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[1].load(ARENA)
    s.cpu[0].fork(2)
    s.cpu[1].store(ARENA, 7)
