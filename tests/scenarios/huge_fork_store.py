"""A process with a huge page forks on one CPU while a thread of it stores to that on another."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, RW, TABLE, Scene

policy = {"thp": "always", "zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[1].load(ARENA)
    s.cpu[0].fork(2)
    s.cpu[1].store(ARENA, 7)
