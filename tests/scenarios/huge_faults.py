"""Two CPUs store into 2 MiB that may have a huge page, of which there are two."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, TABLE, Scene

policy = {"thp": "always", "zeroing": 0}


def build(s: Scene) -> None:
    s.huge = 2
    s.setup[0].mmap(ARENA + TABLE, TABLE, RW, ANON_FIXED)
    s.setup[0].mmap(ARENA, PAGE, READ, ANON_FIXED)
    s.setup[0].load(ARENA)                          # the upper tables exist
    s.cpu[0].store(ARENA + TABLE, 7)
    s.cpu[1].store(ARENA + TABLE + PAGE, 9)
