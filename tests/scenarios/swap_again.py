"""A page is read from swap by two threads, of which one stores to it and swaps it out again, to the same slot."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, PAGEOUT, RW, Scene


def build(s: Scene) -> None:
    s.swap_pages = 1
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].madvise(ARENA, PAGE, PAGEOUT)
    s.cpu[0].load(ARENA, dst=1)
    s.cpu[1].store(ARENA, 7)
    s.cpu[1].madvise(ARENA, PAGE, PAGEOUT)
