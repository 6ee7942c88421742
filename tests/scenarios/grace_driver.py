"""One CPU drives a grace period, another unmaps a mapping, and a third stands on it in its descent."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, KEEPER, PAGE, READ, RW, TABLE, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, READ, ANON_FIXED)
    s.setup[0].mmap(ARENA + TABLE, PAGE, READ, ANON_FIXED)          # the root
    s.setup[0].mmap(KEEPER + TABLE, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(KEEPER + TABLE)
    s.setup[0].mmap(KEEPER + 3 * TABLE, PAGE, READ, ANON_FIXED)
    s.cpu[0].store(KEEPER + TABLE + PAGE, 7)
    s.cpu[1].munmap(KEEPER + 3 * TABLE, PAGE)
    s.cpu[2].munmap(ARENA + TABLE, PAGE)
    s.cpu[2].munmap(ARENA + TABLE, PAGE)            # nothing is left: it only looks at what was deferred
