"""A store breaks a copy-on-write share of a page that a secondary MMU is using."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

policy = {"mmu_notifier": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].fork(2)
    s.setup[1].notifier(False, may_fail=True)       # of an earlier round (tests/stress)
    s.setup[1].notifier()
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].secondary(ARENA, dst=1)
    s.cpu[1].secondary(ARENA, dst=2)
