"""A page that fork has shared is pinned and read while a store copies it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].fork(2)
    s.cpu[0].gup(ARENA, dst=1)
    s.cpu[1].store(ARENA, 7)
    s.cpu[1].gup(ARENA, dst=1, expect=7)
