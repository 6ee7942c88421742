"""Processes that get, split, share, collapse and drop huge pages, and pin parts, at random; then every invariant."""

import random

import pytest
from rooms.crew import counter, machine
from stress.test_stress_mm import finish, storm

from shmm.layout import COUNTERS
from shmm.program import Program

PAGE, HUGE, RW, READ, ANON_FIXED, DONTNEED, COLLAPSE = 4096, 2 << 20, 3, 1, 0x32, 4, 25
ARENA, PLACES = 0x2000_0000_0000, 3     # so many times 2 MiB, and
HUGE_PAGES = 7                          # not always enough of these

POLICIES = {
    "mmap_lock": {"scheme": "mmap_lock"},
    "spf, walk irq, tables ipi": {"scheme": "spf"},
    "spf, walk rcu, tables rcu": {"scheme": "spf", "walk": "rcu", "table_free": "rcu"},
    "spf, collapse under the read lock": {"scheme": "spf", "table_free": "rcu", "collapse": "read"},
    "spf, rcu, collapse under the read lock": {"scheme": "spf", "walk": "rcu", "table_free": "rcu", "collapse": "read"},
    "spf, signals": {"scheme": "spf", "ipi": "signal"},
    "spf, two nodes": {"scheme": "spf", "nnode": 2},
}


def one(p: Program, dice: random.Random) -> None:
    """One operation on one of the places, or a part of it."""
    start = ARENA + dice.randrange(PLACES) * HUGE
    page = start + dice.randrange(512) * PAGE
    kinds = {"map": 3, "unmap": 1, "cut": 1, "protect": 1, "seal": 1, "drop": 1, "drop all": 1, "collapse": 4,
             "write": 9, "read": 3, "pin": 5}
    kind = dice.choices(tuple(kinds), tuple(kinds.values()))[0]
    if kind == "map":
        p.mmap(start, dice.choice((HUGE, 2 * HUGE)), RW, ANON_FIXED, may_fail=True)
    elif kind in ("unmap", "cut"):
        p.munmap(*((start, HUGE) if kind == "unmap" else (page, 3 * PAGE)), may_fail=True)
    elif kind in ("protect", "seal"):
        p.mprotect(*((start, HUGE) if kind == "protect" else (page, PAGE)), dice.choice((RW, READ)), may_fail=True)
    elif kind in ("drop", "drop all", "collapse"):
        p.madvise(*((page, PAGE) if kind == "drop" else (start, HUGE)), COLLAPSE if kind == "collapse" else DONTNEED,
                  may_fail=True)
    elif kind == "pin":
        p.gup(page, may_fail=True)
    else:
        p.touch(page, dice.randint(1, 4), write=kind == "write", value=dice.randrange(256), may_fail=True)


def chaos(seed: int, child: int) -> Program:
    """Random operations until the run is stopped; child: the slot of copies of the address space, or 0."""
    dice, p = random.Random(seed), Program()
    with p.forever():
        for _ in range(8):
            for _ in range(16):
                one(p, dice)
            if child:
                p.fork(child)
                one(p, dice)            # races with what the fork has made copy-on-write
                p.mm(child)
                for _ in range(6):
                    one(p, dice)
                p.mm(1)                 # the last one out of the copy
    return p


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("forks", [False, True], ids=["threads", "threads and forks"])
def test_random_operations_on_huge_pages(policy, forks):
    cpus, nnode = 4, POLICIES[policy].get("nnode", 1)
    with machine(cpus=cpus, huge=HUGE_PAGES, thp="always", cpu_node=[cpu % nnode for cpu in range(cpus)],
                 **POLICIES[policy]) as segment:
        programs = [chaos(10 * cpus + n, 1 + n if forks and n else 0) for n in range(cpus)]
        assert storm(segment, programs) == [1] * cpus           # stopped, none failed
        sums = {name: counter(segment, name) for name in COUNTERS}
        finish(segment, cpus)
        assert segment.view("seg")["huge_pool"]["free"] == HUGE_PAGES
    assert sums["nr_anon_transparent_hugepages"] < HUGE_PAGES * cpus
    assert min(sums[name] for name in ("thp_fault_alloc", "thp_split_pmd", "thp_collapse_alloc", "gup_fast", "gup_slow",
                                       "user_faults")) > 0
    assert (sums["fork"] > 0 and sums["pgcopy"] > 0) == forks
