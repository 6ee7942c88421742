"""Two faults wait for an mprotect and are woken together; a munmap comes when the first is over."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.cpu[0].mprotect(ARENA + PAGE, PAGE, READ)
    s.cpu[1].load(ARENA, may_fail=True)
    s.cpu[2].load(ARENA, may_fail=True)
    s.cpu[3].munmap(ARENA, PAGE)
