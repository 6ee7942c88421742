"""The first two stores to a mapping, to different pages: both want to give it its anon_vma."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].mmap(ARENA + 8 * PAGE, PAGE, READ, ANON_FIXED)
    s.setup[0].load(ARENA + 8 * PAGE)               # so that the page table exists
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].store(ARENA + PAGE, 9)
