"""Processes that move mappings under one another, page by page and by whole tables; then every invariant is checked."""

import random

import pytest
from rooms.crew import counter, machine
from test_stress_mm import ANON_FIXED, ARENA, DONTNEED, PAGE, RW, SHARED_FIXED, finish, storm

from shmm.layout import COUNTERS
from shmm.program import Program

TABLE, PLACES = 512 * PAGE, 32
WHOLE = 0x2000_0000_0000                # three tables that move whole, unless somebody cuts what they map
FIXED, DONTUNMAP = 3, 7

pytest_plugins = ("engines",)

POLICIES = {
    "mmap_lock": {"scheme": "mmap_lock"},
    "spf, single": {"scheme": "spf"},
    "spf, signals": {"scheme": "spf", "ipi": "signal"},
    "spf, locked": {"scheme": "spf", "fast_mremap": "locked"},
    "spf, locked, walk rcu, tables rcu": {"scheme": "spf", "fast_mremap": "locked", "walk": "rcu", "table_free": "rcu"},
}


def whole_table(p: Program, dice: random.Random) -> None:
    addr, to = dice.sample((WHOLE, WHOLE + TABLE, WHOLE - TABLE), 2)
    p.mmap(addr, TABLE, RW, ANON_FIXED, may_fail=True)
    p.touch(addr, 3, 7 * PAGE, may_fail=True)
    p.mremap(addr, TABLE, TABLE, FIXED, to, may_fail=True)


def one(p: Program, dice: random.Random) -> None:
    """One operation somewhere."""
    addr, to = (ARENA + dice.randrange(PLACES) * 16 * PAGE for _ in range(2))
    pages, new = (dice.randint(1, 48) for _ in range(2))
    kind = dice.choices(("map", "share", "unmap", "drop", "move", "resize", "whole", "write", "read"),
                        (4, 1, 2, 2, 8, 3, 1, 9, 3))[0]
    if kind in ("map", "share"):
        p.mmap(addr, pages * PAGE, RW, ANON_FIXED if kind == "map" else SHARED_FIXED, may_fail=True)
    elif kind == "unmap":
        p.munmap(addr, pages * PAGE, may_fail=True)
    elif kind == "drop":
        p.madvise(addr, pages * PAGE, DONTNEED, may_fail=True)
    elif kind == "move":
        p.mremap(addr, pages * PAGE, pages * PAGE, dice.choice((FIXED, FIXED, DONTUNMAP)), to, may_fail=True)
    elif kind == "resize":
        p.mremap(addr, pages * PAGE, new * PAGE, dice.choice((0, FIXED)), to, may_fail=True)
    elif kind == "whole":
        whole_table(p, dice)
    else:
        p.touch(addr, pages, write=kind == "write", value=dice.randrange(256), may_fail=True)


def chaos(seed: int, child: int = 0) -> Program:
    """Random operations until the run is stopped; child: the slot of a copy to make, to run and to leave."""
    dice, p = random.Random(seed), Program()
    with p.forever():
        for _ in range(150):
            one(p, dice)
        if child:
            p.fork(child)
            one(p, dice)
            p.mm(child)
            for _ in range(20):
                one(p, dice)
            p.mm(1)
    return p


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("forks", [False, True], ids=["threads", "threads and forks"])
def test_mappings_that_move_under_one_another(policy, forks):
    cpus = 4
    with machine(cpus=cpus, **POLICIES[policy]) as segment:
        programs = [chaos(n, 1 + n if forks and n else 0) for n in range(cpus)]
        assert storm(segment, programs) == [1] * cpus           # stopped, none failed
        sums = {name: counter(segment, name) for name in COUNTERS}
        finish(segment, cpus)
    assert min(sums["mremap"], sums["ptes_moved"], sums["user_faults"]) > 0
    assert sums["pmds_moved"] > 0 or (policy != "mmap_lock" and "locked" not in policy)
