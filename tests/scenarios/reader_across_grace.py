"""A fault descends the tree while mappings come and go and their slots are used again after a grace period."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene

variants = ("base", "rcu")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[1].mmap(ARENA + TABLE, PAGE, RW, ANON_FIXED)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].munmap(ARENA + TABLE, PAGE)
    s.cpu[1].mmap(ARENA + 2 * TABLE, PAGE, RW, ANON_FIXED)
    s.cpu[1].munmap(ARENA + 2 * TABLE, PAGE)
