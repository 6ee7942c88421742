"""Two CPUs collapse the same table at the same time, holding the lock for read."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, COLLAPSE, RW, TABLE, Scene

policy = {"zeroing": 0, "collapse": "read", "table_free": "rcu"}


def build(s: Scene) -> None:
    s.huge = 2
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].madvise(ARENA, TABLE, COLLAPSE, may_fail=True)
    s.cpu[1].madvise(ARENA, TABLE, COLLAPSE, may_fail=True)
