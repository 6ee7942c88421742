"""A munmap empties 1 GiB, so that a level more of page tables is freed, while a fault there is on its way."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

variants = ("base", "rcu", "both")
PLACE = ARENA + (1 << 30)


def build(s: Scene) -> None:
    s.setup[0].mmap(PLACE, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(PLACE)
    s.cpu[0].store(PLACE + PAGE, 7, may_fail=True)
    s.cpu[1].munmap(PLACE, 2 * PAGE)
