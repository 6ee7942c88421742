"""The latched VMA tree: the same look-ups and mappings, and what a rotation does to a descent."""

import random

import pytest

from shmm.cluster.check import explore
from shmm.cluster.check.explore import Task
from shmm.machine import Machine

PAGE, RW, READ, ANON_FIXED = 4096, 3, 1, 0x32
ARENA = 0x2000_0000_0000
ROTATIONS_AT_MOST = 4 + 3 * 3           # links: a node goes to another place, and three rotations


def work(m: Machine, seed: int) -> None:
    """Mappings come, go and are cut up, so that the tree turns often."""
    dice = random.Random(seed)
    for _ in range(400):
        at, pages = ARENA + dice.randrange(96) * 4 * PAGE, dice.randint(1, 6)
        if dice.random() < 0.55:
            m.mmap(at, pages * PAGE, dice.choice((RW, READ)), ANON_FIXED, cpu=dice.randrange(2))
        elif dice.random() < 0.7:
            m.munmap(at, pages * PAGE, cpu=dice.randrange(2))
        else:
            m.mmap(at, PAGE, RW, ANON_FIXED)
            m.mprotect(at, PAGE, dice.choice((RW, READ)))


@pytest.mark.parametrize("seed", range(4))
def test_both_trees_know_the_same_mappings(seed):
    seen = []
    for tree in ("rbtree", "latched"):
        with Machine(cpus=2, vma_tree=tree) as m:
            work(m, seed)
            probes = [m._cpus[cpu].probe(ARENA + n * PAGE) for n in range(0, 400, 3) for cpu in (0, 1)]
            seen.append((m.maps(), probes))
            assert m.check() == []      # I1: both copies
            mm = m.segment.view("mm")
            assert mm["latch_changes"][1] == 0
            used = int((mm["latch_link"][1] != 0).nonzero()[0].max(initial=-1)) + 1
            assert used <= ROTATIONS_AT_MOST
            assert (used > 7) == (tree == "latched")
            assert (mm["latch_seq"][1] > 0) == (tree == "latched")
            del mm
    assert seen[0] == seen[1]


def test_I1_a_second_copy_that_differs_is_found():
    with Machine(cpus=1, vma_tree="latched") as m:
        for n in range(3):
            m.mmap(ARENA + 2 * n * PAGE, PAGE, RW, ANON_FIXED)
        mm = m.segment.view("mm")
        root = int(mm["latch_root"][1])
        mm["latch_root"][1] = m.segment.view("vma")["left"][root]
        assert "link of the second tree" in m.check()[0]
        mm["latch_root"][1] = root
        mm["latch_seq"][1] += 1
        assert "latch_seq is odd" in m.check()[0]
        mm["latch_seq"][1] -= 1
        del mm
        assert m.check() == []


# ---- what it buys ------------------------------------------------------------------------------------------------


def test_a_plain_trees_descent_misses_what_a_rotation_moves():
    """Not in vain: the abort is counted for an address that is mapped before, during and after."""
    found = explore.run(Task("rotation", variant="base"))["violation"]
    assert (found["invariant"], found["what"], found["preemptions"]) == ("never", "SPF_ABORT_UNMAPPED", 1)


@pytest.mark.parametrize("memory", ["sc", "tso", "weak"])
def test_a_latched_trees_descent_never_does(memory):
    run = explore.run(Task("rotation", variant="latched", memory=memory, bound=2 if memory == "sc" else 1))
    assert run["violation"] is None and run["exhausted"]


@pytest.mark.parametrize(("mutant", "invariant"), [
    ("LATCH_NO_BUMP", "never"), ("LATCH_NO_RETRY", "never"), ("LATCH_ONE_COPY", "I1"),
])
def test_each_part_of_the_latch_is_missed(mutant, invariant):
    assert explore.run(Task("rotation", variant="latched", mutant=mutant))["violation"]["invariant"] == invariant
