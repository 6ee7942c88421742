"""One CPU drives a grace period, another unmaps, and a third is inside the tree."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[1].mmap(ARENA + TABLE, PAGE, RW, ANON_FIXED)
    s.setup[1].mmap(ARENA + 2 * TABLE, PAGE, RW, ANON_FIXED)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].munmap(ARENA + TABLE, PAGE)
    s.cpu[2].munmap(ARENA + 2 * TABLE, PAGE)
    s.cpu[2].munmap(ARENA + 2 * TABLE, PAGE)        # nothing is left: it only looks at what was deferred
