"""A page is dropped under the read lock while a new mapping comes next to it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, DONTNEED, PAGE, READ, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].madvise(ARENA, PAGE, DONTNEED)
    s.cpu[1].mmap(ARENA + 2 * PAGE, PAGE, READ, ANON_FIXED)
