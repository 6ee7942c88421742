"""A process forks while a thread of it touches two pages, in two tables: the child has neither, the first or both."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA + TABLE - 2 * PAGE, 4 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA + TABLE - 2 * PAGE)
    s.setup[0].store(ARENA + TABLE + PAGE)
    s.cpu[0].fork(2)
    s.cpu[1].store(ARENA + TABLE - PAGE, 7)
    s.cpu[1].store(ARENA + TABLE, 8)
