"""Two CPUs store to a page that only has been read, so far the page of zeros: both copy it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].load(ARENA + PAGE)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].store(ARENA + PAGE + 8, 9)
