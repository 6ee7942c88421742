"""Two CPUs change the address space side by side, and a third takes a fault."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 4 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.cpu[0].munmap(ARENA + 2 * PAGE, 2 * PAGE)
    s.cpu[1].mmap(ARENA + 3 * PAGE, PAGE, RW, ANON_FIXED)
    s.cpu[2].store(ARENA + 3 * PAGE, 7, may_fail=True)
