"""One anonymous write fault: this project's, by one CPU alone, beside the host kernel's own.

Ours takes no exception and returns to no user mode, so it is no prediction of the kernel's: the two figures
together say what share of a real fault's work is done here."""

import time

import pytest
from conftest import CLOCK

from shmm import _fast
from shmm.cluster.workloads import ANON, RW
from shmm.segment import Geometry, Segment

PAGES = 8192
BYTES = PAGES * 4096


@pytest.mark.benchmark(timer=CLOCK, group="one anonymous fault")
def test_host(per_op, record):
    per_op(lambda: _fast.host_anonymous_fault_ns(PAGES) * 1e-9, rounds=10)
    record(fault="the host's kernel")


@pytest.mark.parametrize("zeroing", [True, False], ids=["cleared", "not cleared"])
@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
@pytest.mark.benchmark(timer=CLOCK, group="one anonymous fault")
def test_ours(per_op, record, scheme, zeroing):
    geometry = Geometry.for_run(cpus=1, pages=PAGES)
    with Segment.create(geometry, scheme=scheme, zeroing=zeroing, force_speculation=True) as segment:
        cpu = _fast.Cpu(segment.address, 0)
        assert cpu.exec(1) == 0

        def one_round() -> float:
            where = cpu.mmap(0, BYTES, RW, ANON, 0, 0)
            start = time.perf_counter()
            faults = cpu.touch(where, BYTES, True)
            spent = time.perf_counter() - start
            assert faults == PAGES and cpu.munmap(where, BYTES) == 0
            return spent / PAGES

        one_round()                     # the host's own faults on the segment
        per_op(one_round, rounds=20)
    record(fault=f"{scheme}, {'page cleared' if zeroing else 'page not cleared'}")
