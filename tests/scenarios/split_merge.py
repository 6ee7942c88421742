"""Half of a mapping becomes read-only, which splits it, while the other half is stored to for the first time."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene

variants = ("base", "latched")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 4 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + 3 * PAGE, 7)
    s.cpu[1].mprotect(ARENA, 2 * PAGE, READ)
