"""Benchmarks: `pytest benches --benchmark-only`.

What a round measures is not how long it took, but the time per operation that it found; a clock that each
round advances by that much makes pytest-benchmark's columns mean it, and its OPS column operations per
second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmm.cluster import topology

RESULTS: list[dict[str, Any]] = []


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        """The round just ended took so long."""
        self.now += seconds


CLOCK = Clock()


@pytest.fixture
def per_op(benchmark) -> Callable[..., None]:
    """per_op(round, rounds): benchmarks round(), which returns seconds per operation."""
    def run(one_round: Callable[[], float], rounds: int = 3) -> None:
        benchmark.pedantic(lambda: CLOCK.spend(one_round()), rounds=rounds, iterations=1)
    return run


@pytest.fixture
def record(benchmark) -> Iterator[Callable[..., None]]:
    """record(key=value, ...): keeps facts with the benchmark, and for the summary."""
    facts: dict[str, Any] = {}

    def keep(**more: Any) -> None:
        facts.update(more)
        benchmark.extra_info.update(more)

    yield keep
    if benchmark.stats is not None:
        RESULTS.append(facts | {"seconds_per_op": benchmark.stats.stats.median})


def pytest_addoption(parser: pytest.Parser) -> None:
    """What test_virtual.py models."""
    parser.addoption("--machine", default="skylake-2x28", metavar="NAME|FILE",
                     help="the machine on which virtual time passes (default: %(default)s)")


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> str:
    """The name or file of the machine that is modelled."""
    return str(pytestconfig.getoption("--machine"))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Comparisons warn when the hosts differ."""
    host = topology.host()
    del host["load_average"]
    machine_info["shmm_host"] = host


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Throughput and speed-up over mmap_lock, a line per workload and number of CPUs."""
    write = terminalreporter.write_line
    for clock in ("wall", "virtual"):
        throughput(terminalreporter, clock)
    cores = topology.usable_cores()
    if any(facts.get("clock") == "wall" and facts["cpus"] > cores for facts in RESULTS):
        write(f"more CPUs than the {cores} cores here are time-shared: contention is understated")
    faults = {facts["fault"]: facts["seconds_per_op"] * 1e9 for facts in RESULTS if "fault" in facts}
    if faults:
        terminalreporter.section("one anonymous fault")
        for who, ns in faults.items():
            write(f"{who:<44}{ns:>10.0f} ns")


def throughput(terminalreporter: Any, clock: str) -> None:
    """The table of what was measured by this clock."""
    write = terminalreporter.write_line
    groups: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for facts in RESULTS:
        if facts.get("clock") == clock:
            groups.setdefault((facts["workload"], facts["cpus"]), {})[facts["scheme"]] = facts
            where = f" modelled on {facts['machine']}" if clock == "virtual" else ""
    if groups:
        terminalreporter.section(f"throughput{where}")
        write(f"{'workload':<14}{'CPUs':>5}{'mmap_lock':>14}{'spf':>14}{'speed-up':>10}{'aborted':>10}")
    for (workload, cpus), schemes in groups.items():
        rates = {scheme: 1 / facts["seconds_per_op"] for scheme, facts in schemes.items()}
        if {"mmap_lock", "spf"} <= set(rates):
            attempts = schemes["spf"]["spf_attempt"]
            aborted = f"{100 * schemes['spf']['spf_abort'] / attempts:.2f} %" if attempts else "-"
            kernel = f"   the host's kernel {rates['host']:,.0f}/s" if "host" in rates else ""
            write(f"{workload:<14}{cpus:>5}{rates['mmap_lock']:>12,.0f}/s{rates['spf']:>12,.0f}/s"
                  f"{rates['spf'] / rates['mmap_lock']:>9.2f}x{aborted:>10}{kernel}")
