"""Lespinasse's ABA: while one thread copies a shared page, another owns it, stores to it and has it shared again."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

policy = {"force_speculation": 1}       # the first thread begins alone


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].fork(2)
    s.setup[1].mm(2)
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].mm(1)                      # the child is gone
    s.cpu[1].store(ARENA + 8, 9)        # the page is the parent's alone
    s.cpu[1].fork(3)                    # the pte is as the first thread read it, and so is the VMA
