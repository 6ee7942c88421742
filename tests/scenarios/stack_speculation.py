"""A stack grows while a fault speculates on a page of it, at first below its start and then inside."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, GROWSDOWN, PAGE, RW, Scene

policy = {"stack_growth": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA + 4 * PAGE, PAGE, RW, ANON_FIXED | GROWSDOWN)
    s.setup[0].store(ARENA + 4 * PAGE)
    s.cpu[0].store(ARENA + 2 * PAGE, 7)
    s.cpu[1].store(ARENA + 2 * PAGE + 8, 8)
