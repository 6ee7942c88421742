"""A page moves that another CPU has just stored to, and stores to again."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, MOVE_FIXED, PAGE, RW, Scene

variants = ("base", "signal")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].mmap(ARENA + 8 * PAGE, PAGE, RW, ANON_FIXED)     # keeps the table: freeing it would flush, too
    s.setup[0].store(ARENA + 8 * PAGE)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA, 7, may_fail=True)
    s.cpu[1].mremap(ARENA, PAGE, PAGE, MOVE_FIXED, ARENA + 4 * PAGE)
