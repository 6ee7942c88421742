"""The directory of lines: what an access to one line costs, who gets it next, and that nobody goes without.

All on made-up seats and figures (simulated.FIGURES, ns: a hit 1, a locked add 5, a transfer 8, 40, 70 or 130)."""

from __future__ import annotations

import pytest
from simulated import bench, costs, mean, seats

from shmm import _sim

HIT, RMW, READER = 1, 5, 10
NEAR, FAR = 40, 130                     # within a cluster, from the other socket
DISTANCES = {                           # two CPUs, and how long a line takes from one to the other
    "one core": (seats(threads=2), 8), "one cluster": (seats(cores=2), NEAR),
    "one socket": (seats(clusters=2), 70), "two sockets": (seats(sockets=2), FAR),
}
LOOKAHEADS = [0, 36]                    # ns: none, and nine tenths of the way within a cluster


def burst(kind: str, where: list, **ns: float) -> list[float]:
    """What one operation of each takes when all come at once, ns."""
    return [each for _, each in bench(kind, where, burst_us=100, us=1000, **ns)]


# ---- what a line costs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [1, 2, 7])
@pytest.mark.parametrize(("kind", "ns"), [("own_read", HIT), ("own_write", RMW)])
def test_an_own_line_costs_the_instruction(kind, ns, cpus):
    where = seats(sockets=1, cores=cpus)
    assert burst(kind, where) == [ns] * cpus
    assert mean(bench(kind, where)) == pytest.approx(ns, rel=1e-3)      # the first finds the line in memory


def test_the_first_to_come_finds_the_line_in_memory():
    (ops, each), = bench("own_read", seats(), us=1, memory=90)
    assert ops * each == pytest.approx(90 + ops * HIT)


def test_a_line_that_nobody_writes_stays_with_its_readers():
    assert mean(bench("read", seats(sockets=2, cores=4))) == pytest.approx(HIT, rel=0.01)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("name", DISTANCES)
def test_two_writers_pay_the_distance(name, lookahead):
    """Both at once: one gets the line after a transfer, the other after one more."""
    where, ns = DISTANCES[name]
    assert sorted(burst("write", where, lookahead=lookahead)) == [ns + HIT, 2 * ns + HIT]


@pytest.mark.parametrize("name", DISTANCES)
def test_a_reader_pays_the_distance_to_the_writer(name):
    where, ns = DISTANCES[name]
    writer, reader = burst("read_write", where)
    assert reader == writer + ns


def test_a_reader_gets_the_line_from_the_nearest_that_has_it():
    """The writer sits on one socket, three readers on the other: one of them fetches the line across, the others from
    it."""
    _, *readers = burst("read_write", [(0, 0, 0, 1024), *((core, 1, 1, 1024) for core in (1, 2, 3))], reader=0)
    assert sorted(readers)[0] >= FAR
    assert sorted(readers)[-1] < 3 * FAR


def test_a_slow_cpu_is_slow_at_its_own_work_and_transfers_take_what_they_take():
    assert burst("own_read", seats(slowdown=1.5)) == [1.5 * HIT]
    assert burst("own_write", seats(slowdown=3)) == [3 * RMW]
    assert sorted(burst("write", seats(cores=2, slowdown=3))) == [NEAR + 3 * HIT, 2 * NEAR + 3 * HIT]


# ---- who gets it next ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("cpus", [2, 4, 8, 16, 28])
def test_contended_writes_are_served_one_at_a_time(cpus, lookahead):
    """A closed loop: each waits for the hand-offs of all."""
    assert mean(bench("write", seats(cores=cpus), lookahead=lookahead)) == pytest.approx(cpus * NEAR, rel=0.03)


def test_a_burst_of_writers_queues():
    cpus = 12
    assert mean(bench("write", seats(cores=cpus), burst_us=100, us=6000)) == pytest.approx(
        NEAR * (cpus + 1) / 2 + HIT, rel=0.01)


@pytest.mark.parametrize("cpus", [2, 8, 32])
def test_readers_follow_each_other_closely(cpus):
    """One writes, then all others read: the first waits for the transfer, each further one a little longer."""
    writer, *readers = bench("read_write", seats(clusters=cpus), burst_us=10)
    first = writer[1] + 70
    assert mean(readers) == pytest.approx(first + READER * (cpus - 2) / 2, rel=0.02)
    _, *readers = bench("read_write", seats(clusters=cpus), burst_us=10, reader=20)
    assert mean(readers) == pytest.approx(first + 20 * (cpus - 2) / 2, rel=0.02)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("retention", [25, 100])
def test_retention_gives_runs_of_own_operations(retention, lookahead):
    cpus, run = 8, 1 + retention // RMW
    found = mean(bench("write", seats(cores=cpus), retention=retention, lookahead=lookahead))
    assert found == pytest.approx(cpus * (NEAR + retention) / run, rel=0.03)


@pytest.mark.parametrize("cpus", [4, 8, 16])
def test_the_next_is_drawn_not_the_neighbour(cpus):
    """First come first served would go on in one order for ever: socket by socket, if they came so."""
    found = mean(bench("write", seats(sockets=2, cores=cpus // 2), us=2000))
    crossing = (found / cpus - NEAR) / (FAR - NEAR)
    at_random = cpus / 2 / (cpus - 1)
    assert crossing == pytest.approx(at_random, rel=0.1)
    assert crossing > 2 * 2 / cpus or cpus == 4         # two crossings in a round of all, in order


@pytest.mark.parametrize("cpus", [3, 16, 64])
def test_nobody_goes_without(cpus):
    ops = [n for n, _ in bench("write", seats(sockets=2, cores=-(-cpus // 2))[:cpus], us=1000)]
    assert min(ops) > 0.8 * sum(ops) / cpus
    assert max(ops) < 1.2 * sum(ops) / cpus


def test_a_swap_that_fails_is_tried_again():
    alone, two, eight = [mean(bench("cas", seats(cores=cpus))) for cpus in (1, 2, 8)]
    assert alone == pytest.approx(HIT + RMW, rel=0.01)
    assert two > 2 * NEAR + HIT
    assert eight > 1.5 * 4 * two * 0.75         # more than in proportion: most swaps find another's value


def test_running_ahead_changes_nothing_about_a_contended_line():
    """What a CPU may do before the others have caught up must not be more than it could have done."""
    for kind in ("write", "cas", "read_write"):
        exact, ahead = [bench(kind, seats(cores=6), retention=20, lookahead=ns) for ns in LOOKAHEADS]
        assert mean(ahead) == pytest.approx(mean(exact), rel=0.02), kind


# ---- the same again ------------------------------------------------------------------------------------------------


def test_a_seed_says_who_is_drawn():
    def once(seed: int) -> list[tuple[int, float]]:
        return bench("write", seats(cores=8), seed=seed)

    assert once(1) == once(1)
    assert once(1) != once(2)


def test_what_cannot_be_is_refused_and_leaves_nothing_behind():
    with pytest.raises(ValueError, match="there is no kind 'scribble', choose from write, read"):
        bench("scribble", seats())
    for figure in ({"hit": 0}, {"pause": 0}):
        with pytest.raises(ValueError, match="take at least 1 ps"):
            bench("write", seats(), **figure)
    with pytest.raises(ValueError, match="jitter is 1024 at most"):
        _sim.line_bench("write", costs() | {"jitter": 1025}, seats())
    assert mean(bench("own_write", seats(), burst_us=1)) == RMW
