"""A load through a translation of a page that a truncation takes away, whose frame becomes another page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

SHARED_FIXED, R = 0x11, 1


def build(s: Scene) -> None:
    s.files.append((1, True))
    s.setup[0].mmap(ARENA, PAGE, R, SHARED_FIXED, file=1)
    s.setup[1].mmap(ARENA + PAGE, PAGE, RW, ANON_FIXED)
    s.setup[0].load(ARENA)                          # a clean page: no flush under the page-table lock
    s.cpu[0].load(ARENA, may_fail=True)
    s.cpu[1].truncate(1, 0)
    s.cpu[1].store(ARENA + PAGE, 9)
