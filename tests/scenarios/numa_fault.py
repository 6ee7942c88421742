"""Two CPUs of two nodes take hint faults on a page for which each wants its own node, and store to it."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

policy = {"nnode": 2, "cpu_node": (0, 1)}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].numa(ARENA, PAGE)
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].store(ARENA + 8, 9)
