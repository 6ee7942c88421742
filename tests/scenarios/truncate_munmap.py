"""A munmap frees the page table that a truncation walks."""

from shmm.cluster.check.scenario import ARENA, PAGE, RW, Scene

SHARED_FIXED = 0x11


def build(s: Scene) -> None:
    s.files.append((1, True))
    s.setup[0].mmap(ARENA, PAGE, RW, SHARED_FIXED, file=1)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].munmap(ARENA, PAGE)
    s.cpu[1].truncate(1, 0)
