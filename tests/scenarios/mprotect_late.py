"""A CPU that has the translation stores a byte while another makes the page read-only."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene

variants = ("base", "signal")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA, 7, may_fail=True)
    s.cpu[1].mprotect(ARENA, PAGE, READ)
