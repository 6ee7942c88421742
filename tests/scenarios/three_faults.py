"""Three CPUs store into one page table, two of them to the same page, and stand in line for its lock."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

policy = {"queued_spinlocks": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 3 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].store(ARENA + PAGE + 8, 9)
    s.cpu[2].store(ARENA + 2 * PAGE, 11)
