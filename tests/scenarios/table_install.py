"""Two CPUs store into 2 MiB that have no page table yet."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, TABLE + 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + TABLE, 7)
    s.cpu[1].store(ARENA + TABLE + PAGE, 9)
