"""A mapping is unmapped while its neighbour, in the same page table, is stored to for the first time."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].mmap(ARENA + 4 * PAGE, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA + 4 * PAGE)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].munmap(ARENA + 4 * PAGE, PAGE)
