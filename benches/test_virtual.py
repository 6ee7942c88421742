"""Schemes in virtual time: figures that are the same wherever and however often they are made.

What a benchmark shows here is virtual time per operation on a modelled machine: comparing needs no quiet host.

    pytest benches/test_virtual.py --benchmark-only --benchmark-save=before
    pytest benches/test_virtual.py --benchmark-only --benchmark-compare --benchmark-compare-fail=mean:0%

passes as long as nothing has changed what is simulated: the protocol, a workload, the engine, a machine's figures.  It
fails for whatever got slower, by however little: 0% is meant, the same simulation takes the same time to the last bit.
The table shows what got faster.  --machine takes another machine or a file: one whose kernel.exception is 1 % longer
fails the second line.  Rounds are seeds, so that the columns' scatter is the model's."""

import pytest
from conftest import Clock

from shmm.cluster import simulate
from shmm.cluster.config import Config

VIRTUAL = Clock()
GRAIN = 2.0**-50                # s: whole multiples add up without rounding, whatever ran before
SEEDS = 3
POINTS = [
    ("page_fault1", ()), ("pft", ()), ("mmap1", ()), ("tlb_flush2", ()), ("uprobe", ()),
    ("ebizzy", ("-mT",)), ("ebizzy", ("-mTR",)),
]
CPUS = (1, 8, 28)
SIZE = {"page_fault1": 1 << 20, "pft": 1 << 20}


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize(("workload", "args"), POINTS, ids=[" ".join((name, *args)) for name, args in POINTS])
@pytest.mark.benchmark(timer=VIRTUAL)
def test_workload(benchmark, record, machine, workload, args, cpus, scheme):
    name = " ".join((workload, *args))
    benchmark.group = f"virtual: {name}, {cpus} CPUs: time per operation"
    totals = {"spf_attempt": 0, "spf_abort": 0}
    seeds = iter(range(1, SEEDS + 1))

    def one_round() -> None:
        run = simulate.run_point(Config(
            engine="sim", machine=machine, scheme=scheme, workload=workload, workload_args=args, cpus=cpus,
            size=SIZE.get(workload), seconds=0.001, seed=next(seeds),
        ))
        assert run["violations"] == run["frames_leaked"] == 0
        for counter in totals:
            totals[counter] += run["counters"][counter]
        VIRTUAL.spend(round(1 / run["ops_per_s"] / GRAIN) * GRAIN)

    benchmark.pedantic(one_round, rounds=SEEDS, iterations=1)
    record(workload=name, cpus=cpus, scheme=scheme, clock="virtual", machine=machine, **totals)
