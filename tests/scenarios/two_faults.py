"""Two CPUs store to different bytes of a page that nobody has touched."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

variants = ("base", "rt")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].store(ARENA + PAGE + 8, 9)
