"""A page is dropped under the read lock while a secondary MMU reads it and stores to it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, DONTNEED, PAGE, RW, Scene

policy = {"mmu_notifier": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[1].notifier(False, may_fail=True)       # of an earlier round (tests/stress)
    s.setup[1].notifier()
    s.setup[1].secondary(ARENA)
    s.cpu[0].madvise(ARENA, PAGE, DONTNEED)
    s.cpu[1].secondary(ARENA, dst=1)
    s.cpu[1].secondary(ARENA, 9)
