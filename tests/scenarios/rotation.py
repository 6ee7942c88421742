"""A mapping comes in, and the tree turns around one that a fault looks up, and misses in a plain tree."""

from shmm.cluster.check.scenario import ANON_FIXED, KEEPER, PAGE, READ, RW, TABLE, Scene

variants = ("latched",)
never = ("SPF_ABORT_UNMAPPED",)


def build(s: Scene) -> None:
    s.setup[0].mmap(KEEPER + TABLE, 2 * PAGE, RW, ANON_FIXED)       # the keeper's right child
    s.setup[0].store(KEEPER + TABLE)
    s.cpu[0].store(KEEPER + TABLE + PAGE, 7)
    s.cpu[1].mmap(KEEPER + 2 * TABLE, PAGE, READ, ANON_FIXED)       # its right child: the keeper goes down to the left
