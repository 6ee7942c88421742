"""A CPU that has the translation loads a byte while another unmaps the page."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene

variants = ("base", "signal")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].mmap(ARENA + 2 * PAGE, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].store(ARENA + 2 * PAGE, 5)
    s.cpu[0].load(ARENA + 2 * PAGE, dst=1, may_fail=True)
    s.cpu[1].munmap(ARENA + 2 * PAGE, PAGE)
