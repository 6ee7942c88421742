"""A load from a page of a file that is truncated at that moment."""

from shmm.cluster.check.scenario import ARENA, PAGE, RW, Scene

SHARED_FIXED = 0x11


def build(s: Scene) -> None:
    s.files.append((2, True))
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, SHARED_FIXED, file=1)
    s.setup[0].store(ARENA, 5)                      # the page table is there
    s.setup[0].store(ARENA + PAGE, 5)
    s.setup[0].madvise(ARENA + PAGE, PAGE, 4)       # the page is cached, and not mapped
    s.cpu[0].load(ARENA + PAGE, may_fail=True)
    s.cpu[1].truncate(1, PAGE)
