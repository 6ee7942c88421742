"""A VMA slot that once had children in the tree is linked anew, while a fault descends past it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, TABLE, Scene

variants = ("base", "latched")


def build(s: Scene) -> None:
    low, high = ARENA + 2 * TABLE, ARENA + 4 * TABLE
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].mmap(low, PAGE, READ, ANON_FIXED)
    s.setup[0].mmap(high, PAGE, READ, ANON_FIXED)
    s.setup[1].mmap(ARENA + 3 * TABLE, PAGE, RW, ANON_FIXED)
    s.setup[1].munmap(ARENA + 3 * TABLE, PAGE)      # whatever children it had, the slot still names them
    s.setup[1].munmap(low, PAGE)
    s.setup[1].munmap(high, PAGE)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].mmap(ARENA + 3 * TABLE, PAGE, RW, ANON_FIXED)
