"""A store breaks a copy-on-write share while a secondary MMU registers and begins to use the page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

policy = {"mmu_notifier": 1}


def build(s: Scene) -> None:
    s.setup[0].notifier(False, may_fail=True)       # of an earlier round (tests/stress)
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].fork(2)
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].notifier()
    s.cpu[1].secondary(ARENA, dst=1)
