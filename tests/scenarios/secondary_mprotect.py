"""A page becomes read-only while a secondary MMU stores to it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene

policy = {"mmu_notifier": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[1].notifier(False, may_fail=True)       # of an earlier round (tests/stress)
    s.setup[1].notifier()
    s.setup[1].secondary(ARENA, 6)
    s.cpu[0].mprotect(ARENA, PAGE, READ)
    s.cpu[1].secondary(ARENA, 9, may_fail=True)
