"""A store to a page that is write-protected by userfaultfd and released, with a look in between."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].userfault(ARENA, PAGE, 2)
    s.setup[0].store(ARENA, 5)
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].uffdio("WRITEPROTECT", ARENA, PAGE)
    s.cpu[1].load(ARENA, dst=1)
    s.cpu[1].load(ARENA, dst=2)
    s.cpu[1].uffdio("UNPROTECT", ARENA, PAGE)
