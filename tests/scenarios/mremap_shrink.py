"""The tail that an mremap cuts off is stored to for the first time."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 3 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + 2 * PAGE, 7, may_fail=True)
    s.cpu[1].mremap(ARENA, 3 * PAGE, 2 * PAGE, 0)
