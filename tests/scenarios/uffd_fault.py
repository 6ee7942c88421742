"""A store to a page that its program registers with userfaultfd at that moment, and answers for."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA + PAGE)                  # the page table and an anon_vma exist
    s.cpu[0].store(ARENA, 7)
    s.cpu[1].userfault(ARENA, PAGE)
    s.cpu[1].uffd_copy(ARENA, PAGE, 5, may_fail=True)
