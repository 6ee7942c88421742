"""mmap_lock and spf side by side, per workload and number of CPUs."""

import pytest
from conftest import CLOCK

from shmm.cluster import sizing, topology
from shmm.cluster.config import Config
from shmm.cluster.launch import Cluster

SECONDS = 0.5                   # of each round
SIZE = {"page_fault1": 16 << 20, "page_fault2": 16 << 20, "page_fault3": 16 << 20, "pft": 16 << 20}
POINTS = [
    ("page_fault1", ()), ("page_fault2", ()), ("pft", ()), ("mmap1", ()), ("tlb_flush2", ()),
    ("ebizzy", ("-mT",)), ("ebizzy", ("-mTR",)),
]
CPUS = sorted({1, topology.usable_cores(), 16})


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize(("workload", "args"), POINTS, ids=[" ".join((name, *args)) for name, args in POINTS])
@pytest.mark.benchmark(timer=CLOCK)
def test_workload(benchmark, per_op, record, workload, args, cpus, scheme):
    name = " ".join((workload, *args))
    benchmark.group = f"{name}, {cpus} CPUs: time per operation"
    config = Config(scheme=scheme, workload=workload, workload_args=args, cpus=cpus, size=SIZE.get(workload))
    totals = {"spf_attempt": 0, "spf_abort": 0}
    with Cluster(config, sizing.job_for(config)) as cluster:
        cluster.warm_up(0.1)

        def one_round() -> float:
            measured = cluster.run(SECONDS)
            assert not measured.violations and measured.frames_leaked == 0
            for counter in totals:
                totals[counter] += measured.count(counter)
            return 1 / measured.ops_per_s

        per_op(one_round)
    record(workload=name, cpus=cpus, scheme=scheme, clock="wall", **totals,
           ops_per_s=1 / benchmark.stats.stats.median)
