"""A stack grows into the table of a mapping below it that is unmapped at the same time."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, GROWSDOWN, PAGE, RW, TABLE, Scene

policy = {"stack_growth": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].mmap(ARENA + TABLE, PAGE, RW, ANON_FIXED | GROWSDOWN)
    s.setup[0].store(ARENA + TABLE)
    s.cpu[0].munmap(ARENA, PAGE)
    s.cpu[1].store(ARENA + TABLE - PAGE, 7)
