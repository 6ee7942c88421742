"""A page is swapped out while a thread stores to it, whose translation is still in its TLB, and stores again."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, PAGEOUT, RW, Scene


def build(s: Scene) -> None:
    s.swap_pages = 2
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[1].store(ARENA + 8, 6)
    s.cpu[0].madvise(ARENA, PAGE, PAGEOUT)
    s.cpu[1].store(ARENA, 7)
    s.cpu[1].load(ARENA + 8, dst=1)
