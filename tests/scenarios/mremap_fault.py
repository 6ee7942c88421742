"""A page is stored to for the first time while its mapping moves away, page by page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, MOVE_FIXED, PAGE, RW, Scene

policy = {"fast_mremap": 1}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].load(ARENA + PAGE)
    s.cpu[0].store(ARENA + PAGE, 7, may_fail=True)
    s.cpu[1].mremap(ARENA, 2 * PAGE, 2 * PAGE, MOVE_FIXED, ARENA + 4 * PAGE)
