"""Processes that fault in memory which one of them registers with userfaultfd, answers for and lets go of, at random,
while the others map, unmap, protect, drop, swap out and fork; then every invariant is checked."""

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from rooms.crew import counter
from test_stress_mm import ARENA, PAGE, PLACES, POLICIES, STEP, finish, storm
from test_stress_swap import CPUS, PAGES, SLOTS, chaos

from shmm.paging import COPY_WP, MISSING, WP
from shmm.program import Program
from shmm.segment import Geometry, Segment, SegmentError


def answers(seed: int) -> Program:
    """Registers, protects and answers until the run is stopped.  Whoever is told of goes on, whatever was done."""
    dice, p = random.Random(seed), Program()
    with p.forever():
        for _ in range(60):
            addr, length = ARENA + dice.randrange(PLACES) * STEP * PAGE, dice.randint(1, 3 * STEP) * PAGE
            what = dice.random()
            if what < 0.25:
                p.userfault(addr, length, dice.choice((0, MISSING, WP, MISSING | WP)), may_fail=True)
            elif what < 0.5:
                p.uffdio(dice.choice(("WRITEPROTECT", "UNPROTECT", "ZEROPAGE")), addr, length, may_fail=True)
            p.uffd_read(dst=1, wait=False, may_fail=True)
            p.uffd_copy(0, PAGE, dice.randrange(256), dice.choice((0, COPY_WP)), base=1, may_fail=True)
            p.uffdio("UNPROTECT", 0, PAGE, base=1, may_fail=True)
            p.uffdio("WAKE", 0, PAGE, base=1, may_fail=True)
    return p


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("forks", [False, True], ids=["threads", "threads and forks"])
def test_random_operations_beside_userfaultfd(policy, forks):
    policies = {"shared_core": 1, "paranoid": 1, **POLICIES[policy]}
    nnode = policies.get("nnode", 1)
    geometry = replace(Geometry.for_run(CPUS, PAGES, mms=8, vmas=8192), nswap=SLOTS)
    segment = Segment.create(geometry, cpu_node=[cpu % nnode for cpu in range(CPUS)], **policies)
    try:
        programs = [answers(1), *(chaos(n, 1 + n if forks else 0) for n in range(1, CPUS))]
        assert storm(segment, programs) == [1] * CPUS
        asked, refused = (counter(segment, name) for name in ("userfaults", "SPF_ABORT_USERFAULTFD"))
        assert not segment.view("mm")["uffd_head"].any()
        finish(segment, CPUS)
        assert segment.view("seg")["swap_pool"]["free"] == SLOTS - 1
    finally:
        with suppress(SegmentError):
            segment.close()
    assert asked > 0
    assert (refused > 0) == (policy.startswith("spf"))
