"""The same while the collapse holds the lock for read, so that mmap_seq does not tell."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, COLLAPSE, PAGE, RW, TABLE, Scene

variants = ("base", "rcu")
policy = {"zeroing": 0, "collapse": "read", "table_free": "rcu"}


def build(s: Scene) -> None:
    s.huge = 1
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].madvise(ARENA, TABLE, COLLAPSE)
