"""A munmap that has downgraded its lock meets a store to what it unmaps and a second writer."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 3 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].store(ARENA + 2 * PAGE)
    s.cpu[0].munmap(ARENA + 2 * PAGE, PAGE)
    s.cpu[1].store(ARENA + 2 * PAGE, 7, may_fail=True)
    s.cpu[2].mmap(ARENA + 2 * PAGE, PAGE, RW, ANON_FIXED)
