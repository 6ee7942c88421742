"""A munmap takes a mapping out of the tree while a fault further right descends past it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, KEEPER, PAGE, READ, RW, TABLE, Scene

variants = ("base", "latched")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, READ, ANON_FIXED)
    s.setup[0].mmap(ARENA + TABLE, PAGE, READ, ANON_FIXED)          # the root: below the keeper, above the other
    s.setup[0].mmap(KEEPER + TABLE, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(KEEPER + TABLE)
    s.cpu[0].store(KEEPER + TABLE + PAGE, 7)
    s.cpu[1].munmap(ARENA + TABLE, PAGE)
