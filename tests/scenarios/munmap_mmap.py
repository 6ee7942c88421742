"""A page is unmapped and its address mapped anew, while another CPU stores there and reads back."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, PAGE, RW, Scene


def build(s: Scene) -> None:
    s.setup[0].mmap(ARENA, PAGE, RW, ANON_FIXED)
    s.setup[0].mmap(ARENA + 2 * PAGE, PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].store(ARENA + 2 * PAGE)
    s.cpu[0].store(ARENA + 2 * PAGE, 7, may_fail=True)
    s.cpu[0].load(ARENA + 2 * PAGE, dst=1, may_fail=True)
    s.cpu[1].munmap(ARENA + 2 * PAGE, PAGE)
    s.cpu[1].mmap(ARENA + 2 * PAGE, PAGE, RW, ANON_FIXED)
