"""A store to an address at the very moment at which it is mapped."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + 2 * PAGE, 7, may_fail=True)
    s.cpu[1].mmap(ARENA + 2 * PAGE, PAGE, RW, ANON_FIXED)
