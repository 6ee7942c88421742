"""A store that has to copy its page meets an mremap of the 2 MiB around it, whose CPU then reads at the new address."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, MOVE_FIXED, RW, TABLE, Scene

policy = {"fast_mremap": 2}              # whole tables, with their locks


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, TABLE, RW, ANON_FIXED)
    s.setup[0].store(ARENA, 5)
    s.setup[0].load(ARENA + TABLE // 2)
    s.cpu[0].store(ARENA + TABLE // 2, 7, may_fail=True)
    s.cpu[0].store(ARENA + 3 * TABLE // 2, 9, may_fail=True)
    s.cpu[1].mremap(ARENA, TABLE, TABLE, MOVE_FIXED, ARENA + TABLE)
    s.cpu[1].load(ARENA + 3 * TABLE // 2, dst=1)
    s.cpu[1].load(ARENA + 3 * TABLE // 2, dst=2)
