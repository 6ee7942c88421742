"""Two stores to a page whose contents are dropped (MADV_DONTNEED), which happens under the read lock."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, DONTNEED, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA, 7)
    s.cpu[0].store(ARENA + 8, 9)
    s.cpu[1].madvise(ARENA, PAGE, DONTNEED)
