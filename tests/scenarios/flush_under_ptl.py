"""A dirty page of a shared file is dropped, flushing under the lock of a page table in which another CPU faults."""

from shmm.cluster.check.scenario import ANON_FIXED, ARENA, DONTNEED, PAGE, RW, SHARED_FIXED, Scene

variants = ("base", "signal", "rt")


def build(s: Scene) -> None:
    s.files.append((1, False))
    s.setup[0].mmap(ARENA, 2 * PAGE, RW, ANON_FIXED)
    s.setup[0].store(ARENA)
    s.setup[0].mmap(ARENA + 4 * PAGE, PAGE, RW, SHARED_FIXED, file=1)
    s.setup[0].store(ARENA + 4 * PAGE, 5)
    s.cpu[0].store(ARENA + PAGE, 7)
    s.cpu[1].madvise(ARENA + 4 * PAGE, PAGE, DONTNEED)
