"""A munmap frees the page table that a fault in the same 2 MiB is walking."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, TABLE, Scene

variants = ("base", "rcu", "both")


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[1].mmap(ARENA + 2 * TABLE, PAGE, RW, ANON_FIXED)
    s.setup[1].store(ARENA + 2 * TABLE)
    s.cpu[0].store(ARENA + PAGE, 7, may_fail=True)
    s.cpu[1].munmap(ARENA, 2 * PAGE)
    s.cpu[1].store(ARENA + 2 * TABLE, 9)
