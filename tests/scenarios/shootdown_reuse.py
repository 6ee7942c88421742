"""A page that one CPU has just read is unmapped by another, which uses the frame again at once."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

variants = ("base", "signal")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].mmap(ARENA + 4 * PAGE, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA + 4 * PAGE, 5)
    s.cpu[0].load(ARENA + 4 * PAGE, dst=1, may_fail=True)
    s.cpu[1].munmap(ARENA + 4 * PAGE, PAGE)
    s.cpu[1].store(ARENA + PAGE, 7)
