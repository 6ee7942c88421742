"""The workloads on the host's own kernel: the programs and sizes of test_schemes.py, to stand beside them."""

import pytest
from conftest import CLOCK
from test_schemes import CPUS, POINTS, SECONDS, SIZE

from shmm.cluster import host, sizing
from shmm.cluster.config import Config


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize(("workload", "args"), POINTS, ids=[" ".join((name, *args)) for name, args in POINTS])
@pytest.mark.benchmark(timer=CLOCK)
def test_workload(benchmark, per_op, record, workload, args, cpus):
    name = " ".join((workload, *args))
    benchmark.group = f"{name}, {cpus} CPUs: time per operation"
    config = Config(engine="host", workload=workload, workload_args=args, cpus=cpus, size=SIZE.get(workload))
    run = host.HostRun(config, sizing.job_for(config), lambda: False, None)
    with run.host:
        run.run(0.1)

        def one_round() -> float:
            measured = run.run(SECONDS)
            assert not measured.violations
            return 1 / measured.ops_per_s

        per_op(one_round)
    record(workload=name, cpus=cpus, scheme="host", clock="wall", ops_per_s=1 / benchmark.stats.stats.median)
