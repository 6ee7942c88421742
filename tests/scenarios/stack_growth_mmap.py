"""A mapping is placed below a stack, in the midst of its guard gap, while the stack grows."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, GROWSDOWN, PAGE, RW, Scene

policy = {"stack_growth": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA + 4 * PAGE, PAGE, RW, ANON_FIXED | GROWSDOWN)
    s.setup[0].store(ARENA + 4 * PAGE)
    s.cpu[0].store(ARENA + 2 * PAGE, 7, may_fail=True)
    s.cpu[1].mmap(ARENA + PAGE, PAGE, RW, ANON_FIXED)
    s.cpu[1].store(ARENA + PAGE, 8)
