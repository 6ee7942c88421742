"""A page is pinned and read while another CPU unmaps it and uses its frame, and its table, again."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene

variants = ("base", "rcu", "signal")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[1].mmap(ARENA + 2 * TABLE, 2 * PAGE, RW, ANON_FIXED)
    s.setup[1].store(ARENA + 2 * TABLE)
    s.cpu[0].gup(ARENA, dst=1, may_fail=True)
    s.cpu[1].munmap(ARENA, PAGE)
    s.cpu[1].store(ARENA + 2 * TABLE + PAGE, 9)
