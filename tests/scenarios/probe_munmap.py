"""Both halves of a mapping are looked up, taking no fault, while the lower one is unmapped and its VMA freed."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, READ, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, READ, ANON_FIXED)
    s.cpu[0].probe(ARENA + PAGE)                    # is mapped at every moment, first by one VMA and then by another
    s.cpu[0].probe(ARENA)
    s.cpu[1].munmap(ARENA, PAGE)
    s.cpu[1].munmap(ARENA, PAGE)                    # nothing is left: it only looks at what was deferred
