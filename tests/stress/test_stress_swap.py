"""Processes that swap out, or move between nodes, the memory that the others change, touch, fork and unmap; then every
invariant is checked."""

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from rooms.crew import counter
from test_stress_mm import ARENA, PAGE, PLACES, POLICIES, STEP, finish, one, storm

from shmm.program import Program
from shmm.segment import Geometry, Segment, SegmentError

PAGEOUT = 21
CPUS, PAGES, SLOTS = 4, 4096, 700       # the area is full at times


def chaos(seed: int, child: int) -> Program:
    """Random operations, swapping out and hints for NUMA balancing, until the run is stopped; partly in a copy."""
    dice, p = random.Random(seed), Program()

    def some(n: int) -> None:
        for _ in range(n):
            one(p, dice)
            addr, length = ARENA + dice.randrange(PLACES) * STEP * PAGE, dice.randint(1, 2 * STEP) * PAGE
            if dice.random() < 0.3:
                p.madvise(addr, length, PAGEOUT, may_fail=True)
            if dice.random() < 0.3:
                p.numa(addr, length)

    with p.forever():
        some(100)
        if child:
            p.fork(child)
            some(4)
            p.mm(child)
            some(6)
            p.mm(1)
    return p


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("forks", [False, True], ids=["threads", "threads and forks"])
def test_random_operations_beside_swapping_and_balancing(policy, forks):
    policies = {"shared_core": 1, "paranoid": 1, **POLICIES[policy]}
    nnode = policies.get("nnode", 1)
    geometry = replace(Geometry.for_run(CPUS, PAGES, mms=8, vmas=8192), nswap=SLOTS)
    segment = Segment.create(geometry, cpu_node=[cpu % nnode for cpu in range(CPUS)], **policies)
    try:
        # CPU 0 keeps the address space that the others come back to
        assert storm(segment, [chaos(n, 1 + n if forks and n else 0) for n in range(CPUS)]) == [1] * CPUS
        out, back, refused = (counter(segment, name) for name in ("pswpout", "pswpin", "SPF_ABORT_SWAP"))
        hints, moved, tried = (counter(segment, name) for name in (
            "numa_hint_faults", "numa_pages_migrated", "SPF_ATTEMPT_NUMA"))
        finish(segment, CPUS)
        assert segment.view("seg")["swap_pool"]["free"] == SLOTS - 1
        assert not segment.view("swap")["count"].any()
    finally:
        with suppress(SegmentError):
            segment.close()
    assert out > 0 and back > 0
    assert hints > 0 and (moved > 0) == (nnode > 1)
    assert (refused > 0) == (tried > 0) == policy.startswith("spf")
