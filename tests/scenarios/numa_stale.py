"""A hint fault moves a page before the scan that made it a hint has flushed the translation of a CPU that stores."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

policy = {"nnode": 2, "cpu_node": (0, 0, 1)}


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[1].store(ARENA, 5)
    s.cpu[0].numa(ARENA, PAGE)
    s.cpu[1].store(ARENA, 7)
    s.cpu[2].load(ARENA, dst=1)
