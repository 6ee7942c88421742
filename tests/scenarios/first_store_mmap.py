"""The first store to a mapping looks at its neighbours for an anon_vma, while a neighbour is mapped."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].load(ARENA)                          # the page table exists, an anon_vma does not
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].mmap(ARENA + PAGE, PAGE, READ, ANON_FIXED)
