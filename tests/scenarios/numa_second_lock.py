"""A hint fault on a page that cannot be moved, a child has it too, while the page and its table are unmapped."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

variants = ("base", "rcu")
policy = {"nnode": 2, "cpu_node": (0, 1)}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].numa(ARENA, PAGE)
    s.setup[0].fork(2)
    s.cpu[0].munmap(ARENA, PAGE)
    s.cpu[1].load(ARENA, may_fail=True)
