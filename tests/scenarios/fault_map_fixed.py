"""A page is stored to for the first time while another mapping takes its place (MAP_FIXED), read-only."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene

variants = ("base", "rcu")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + PAGE, 7, may_fail=True)
    s.cpu[1].mmap(ARENA, 2 * PAGE, READ, ANON_FIXED)
