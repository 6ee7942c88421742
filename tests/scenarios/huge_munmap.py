"""A huge page is unmapped while another CPU stores to a part of it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene

variants = ("base", "rcu", "signal")
policy = {"thp": "always", "zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA + PAGE, 7, may_fail=True)
    s.cpu[1].munmap(ARENA, TABLE)
