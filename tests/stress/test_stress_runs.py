"""All CPUs map, unmap, protect, drop and touch the same few megabytes at random: no invariant may break."""

import random

import pytest

from shmm.cluster.config import Config, Job
from shmm.cluster.launch import run_point
from shmm.cluster.workloads import ANON, DONTNEED, FIXED, PAGE, RW, SHARED, Program

ARENA, PAGES = 0x2000_0000_0000, 2048       # four page-table pages
LENGTHS = (1, 3, 40, 600)
READ, NONE = 1, 0
POLICIES = [("irq", "ipi"), ("irq", "rcu"), ("rcu", "rcu")]


def chaos(seed: int, files: int) -> Program:
    """Random operations at random places; any of them may fail, none may break an invariant."""
    dice = random.Random(seed)
    p = Program()
    with p.forever():
        for _ in range(100):
            p.rand(2, PAGES, PAGE, ARENA)
            p.rand(3, dice.choice(LENGTHS), PAGE, PAGE)
            one(p, dice, files)
    return p


def one(p: Program, dice: random.Random, files: int) -> None:
    """One operation at R[2], R[3] bytes long."""
    kinds = {"map": 6, "file": 2, "unmap": 3, "protect": 2, "drop": 2, "write": 8, "read": 4}
    kind = dice.choices(list(kinds), list(kinds.values()))[0]
    if kind == "map":
        p.mmap(0, 0, dice.choice((RW, RW, READ)), ANON | FIXED, base=2, len_reg=3, may_fail=True)
    elif kind == "file":
        flags = dice.choice((SHARED, 2)) | FIXED
        p.mmap(0, 0, RW, flags, file=dice.randint(1, files), base=2, len_reg=3, may_fail=True)
    elif kind == "unmap":
        p.munmap(0, 0, base=2, len_reg=3, may_fail=True)
    elif kind == "protect":
        p.mprotect(0, 0, dice.choice((RW, READ, NONE)), base=2, len_reg=3, may_fail=True)
    elif kind == "drop":
        p.madvise(0, 0, DONTNEED, base=2, len_reg=3, may_fail=True)
    else:
        p.touch(0, dice.choice((1, 8, 64)), base=2, write=kind == "write", may_fail=True)


@pytest.mark.parametrize("cpus", [2, 6])
@pytest.mark.parametrize("ipi", ["mailbox", "signal"])
@pytest.mark.parametrize(("walk", "table_free"), POLICIES)
@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_random_operations_break_no_invariant(scheme, walk, table_free, ipi, cpus):
    files = [(PAGES, False), (64, True)]
    programs = [chaos(seed, len(files)).array() for seed in range(cpus)]
    job = Job("chaos", programs, frames=2 * PAGES, files=files, vmas=4 * PAGES)
    config = Config(scheme=scheme, walk=walk, table_free=table_free, ipi=ipi, cpus=cpus, seconds=0.5,
                    warmup=0.0, paranoid=True)
    run = run_point(config, job)
    assert run["violations"] == 0, run["violation_messages"]
    assert run["frames_leaked"] == 0
    assert run["counters"]["mmap"] > 0 and run["counters"]["user_faults"] > 0
    assert run["counters"]["faults_segv"] > 0
