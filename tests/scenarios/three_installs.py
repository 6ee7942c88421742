"""Three CPUs store into 2 MiB that have no page table yet, and take turns at page_table_lock."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene

policy = {"queued_spinlocks": 2}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, TABLE + 3 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    for cpu in range(3):
        s.cpu[cpu].store(ARENA + TABLE + cpu * PAGE, 7 + cpu)
