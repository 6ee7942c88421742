"""Varied figures: what is asked for, what values come of it on a machine, what the ratios say, and the command line."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmm.cluster import machines, pool, progress, session, simulate, table
from shmm.cluster.__main__ import main
from shmm.cluster.config import Config
from shmm.cluster.crew import Interrupted
from shmm.cluster.machines import FIGURES, MachineError
from shmm.cluster.simulate import conclusions, costs, vary
from shmm.cluster.simulate.vary import GROUPS, Range, VaryError

MACHINE = machines.load("skylake-2x28")
SIM = ("run", "--engine", "sim", "--machine", "skylake-2x28")
SMALL = (*SIM, "--workload", "pft", "--cpus", "2,4", "--size", "64K", "--seconds", "0.0001")
BASE = Config(scheme="mmap_lock", workload="pft", cpus=4, engine="sim", machine="skylake-2x28")
POINTS = [replace(BASE, cpus=cpus, scheme=scheme) for cpus in (4, 8) for scheme in ("mmap_lock", "spf")]


def the(text: str, machine: machines.Machine = MACHINE, cpus: int = 4) -> vary.Sweep:
    """The one range in the text on a machine."""
    (asked,) = vary.parse(text)
    return vary.sweep(asked, machine, cpus)


def run(*rates: float, **more: object) -> dict:
    """As much of an element of "runs" as the ratios need: its throughput with each seed."""
    return {"ops_per_s": sorted(rates)[(len(rates) - 1) // 2], "ops_per_s_all": list(rates), "bytes_per_cpu": 1 << 20,
            "violations": 0, "frames_leaked": 0, **more}


# ---- what is asked for ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "asked"), [
    ("transfer=10..200ns", Range("transfer", 10, 200, "ns", 5)),
    ("ipi=0.5..4x:7", Range("ipi", 0.5, 4, "x", 7)),
    ("line.reader=2..16", Range("line.reader", 2, 16, "ns", 5)),
    ("bandwidth=10..1e2GBps:2", Range("bandwidth", 10, 100, "GB_per_s", 2)),
    ("smt.slowdown=1.2..2", Range("smt.slowdown", 1.2, 2, "ratio", 5)),
    ("jitter=0.05..0.5:16", Range("jitter", 0.05, 0.5, "ratio", 16)),
])
def test_a_range_says_what_it_means(text, asked):
    assert vary.parse(text) == (asked,)
    assert vary.parse(f" {text}, kernel.trap=1..2x")[0] == asked


@pytest.mark.parametrize(("text", "said"), [
    ("transfer", r"'transfer' is not NAME=LOW\.\.HIGH\[UNIT\]\[:N\], such as .*there are the groups transfer, .*ipi,"),
    ("transfer=10..200ns,", r"^'' is not NAME=LOW\.\.HIGH.* and the figures line\.hit, line\.rmw"),
    ("transfer=-1..200ns", "is not NAME=LOW"),
    ("transfer=10-200ns", "is not NAME=LOW"),
    ("transfr=10..200ns", "^there is no figure 'transfr' to vary; there are the groups transfer, .* line.hit, "),
    ("transfer=10..200GBps", "transfer is varied in ns, or in x, times the machine's own, not in GBps"),
    ("bandwidth=10..200ns", "bandwidth is varied in GBps, or in x"),
    ("jitter=0.1..0.2ns", "jitter is varied in no unit, or in x"),
    ("ipi=0..4x", "LOW must be greater than 0, for each value is so many times the one before, and less than HIGH"),
    ("ipi=4..0.5x", "less than HIGH"),
    ("ipi=4..4x", "less than HIGH"),
    ("ipi=1..1e999x", "less than HIGH"),
    ("ipi=1..2x:1", "a range has 2 to 16 values, not 1"),
    ("ipi=1..2x:17", "a range has 2 to 16 values, not 17"),
    ("ipi=1..2x,sleep=1..2x,ipi=200..300", "^ipi is varied twice: give it one range"),
])
def test_a_mistake_is_told_in_one_line_with_what_there_is(text, said, capsys):
    with pytest.raises(VaryError, match=said) as caught:
        vary.parse(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        main([*SMALL, f"--vary={text}"])
    assert ended.value.code == 2 and f"argument --vary: {caught.value}" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (("run", "--vary", "ipi=1..2x"), "--vary needs --engine sim"),
    ((*SMALL, "--scheme", "spf", "--vary", "ipi=1..2x"), "--vary compares schemes with mmap_lock"),
    ((*SMALL, "--scheme", "mmap_lock", "--vary", "ipi=1..2x"), "add it, and another one, to --scheme"),
    ((*SMALL, "--vary", "line.retention=1..2x"), "line.retention is 0 on skylake-2x28, and nothing is in proportion"),
    ((*SMALL, "--vary", "sleep=1..1e9x:2"), "--vary sleep: machine 'skylake-2x28': sleep.block must be a number"),
    ((*SMALL, "--vary", "line.hit=1e-5..1"), "line.hit of 1e-05 ns cannot be simulated: a cost, .* from 0.001 ns to"),
    ((*SMALL, "--vary", "ipi=100..1e7"), "ipi.deliver of 1e[+]07 ns cannot be simulated"),
    ((*SMALL, "--vary", "bandwidth=1e-6..1"), "page.bandwidth of 1e-06 GB_per_s cannot be simulated"),
    ((*SMALL, "--vary", "jitter=0.5..1"), "--vary jitter: jitter of 1 cannot be"),
])
def test_what_cannot_be_varied_is_a_usage_error(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2 and re.search(said, capsys.readouterr().err)


# ---- on a machine --------------------------------------------------------------------------------------------------

def test_the_machines_own_value_takes_the_place_of_the_nearest():
    assert vary.spaced(10, 200, 5, 48) == [10, 21.1, 48, 94.6, 200]
    assert vary.spaced(10, 200, 5, 5) == [10, 21.1, 44.7, 94.6, 200]
    assert vary.spaced(10, 200, 2, 48) == [10, 48, 200]                     # the ends stay
    assert vary.spaced(10, 200, 5, 10.5) == [10, 10.5, 21.1, 44.7, 94.6, 200]
    assert vary.spaced(10, 200, 5, 190) == [10, 21.1, 44.7, 94.6, 190, 200]
    assert vary.spaced(48, 200, 3, 48) == [48, 98, 200]


@given(st.floats(1e-3, 1e6), st.floats(1.001, 1e6), st.integers(2, 16), st.floats(1e-3, 1e9))
def test_values_ascend_from_low_to_high_in_equal_steps(low, times, count, own):
    high = low * times * 1.001
    values = vary.spaced(low, high, count, own)
    assert values[0] == low and values[-1] == high and all(a < b for a, b in pairwise(values))
    assert (own in values) or not low <= own <= high
    assert len(values) in ((count, count + 1) if low < own < high else (count,))
    if times > 2 and not low < own < high:
        steps = [b / a for a, b in pairwise(values)]
        assert max(steps) == pytest.approx(min(steps), rel=0.02)


@pytest.mark.parametrize("name", [*GROUPS, *FIGURES])
def test_a_group_keeps_its_proportions(name):
    for text in (f"{name}=0.5..2x:3", f"{name}=1..3:3"):
        if text not in ("line.retention=0.5..2x:3", "smt.slowdown=0.5..2x:3", "jitter=1..3:3"):
            found = the(text)
            for value, changed in zip(found.values, found.figures, strict=True):
                assert [figure for figure, _ in changed] == list(GROUPS.get(name, (name,)))
                if changed[0][0] in MACHINE.figures and (own := MACHINE.figures[changed[0][0]].value):
                    factors = [after / MACHINE.figures[figure].value for figure, after in changed]
                    assert factors == pytest.approx([value if found.unit == "x" else value / own] * len(factors))


def test_a_range_knows_the_machines_own_value():
    assert (the("transfer=10..200ns").own, the("transfer=0.5..2x").own, the("bandwidth=1..2").own) == (48, 1, 76.8)
    assert the("jitter=0.01..0.5").own == 0.25 and the("line.retention=1..20").own == 0
    middle = the("transfer=10..200ns").figures[1]
    assert middle == (("line.cluster", 21.1), ("line.socket", 21.1), ("line.remote", 59.34375))
    assert the("jitter=0.5..2x:3").figures[-1] == (("jitter", 0.5),)


def test_figures_that_cannot_be_are_refused_before_anything_is_simulated():
    with pytest.raises(MachineError, match=r"^--vary smt\.slowdown: machine 'skylake-2x28': smt\.slowdown must .*0\.8"):
        the("smt.slowdown=0.5..2x")
    idle = MACHINE.with_figures({"sleep.resume": 0})
    with pytest.raises(VaryError, match=r"sleep\.resume is 0 .* vary the figures of the group one by one"):
        the("sleep=100..200ns", idle)


@pytest.mark.parametrize("cpus", [1, 2, 28, 29, 112])
def test_lookahead_is_shorter_than_every_way_between_cores(cpus):
    for changes in ({}, {"line.remote": 20.0}, {"line.cluster": 200.0}, {"line.cluster": 5.0, "line.socket": 5.0}):
        machine = MACHINE.with_figures(changes)
        ways = [machine.ns("line.cluster"), *([machine.ns("line.remote")] if cpus > 28 else [])]
        assert 0.8 * min(ways) < costs.costs(machine, cpus)["lookahead"] / 1000 < min(ways)
    rome = machines.load("rome-2x64").with_figures({"line.socket": 3.0, "line.remote": 2.0})
    assert [costs.costs(rome, cpus)["lookahead"] < limit for cpus, limit in ((4, 3000), (5, 3000), (65, 2000))] == [
        False, True, True]


# ---- runs ----------------------------------------------------------------------------------------------------------

def test_each_point_is_simulated_with_every_value_but_the_machines_own():
    sweeps = [the("transfer=10..200ns:3"), the("jitter=0.1..0.2:2")]
    runs = [run(1.0, bytes_per_cpu=size << 20) for size in (1, 1, 2, 2)]
    points = vary.points(sweeps, POINTS, runs)
    assert [dict(point.figures) for point in points[::4]] == [dict(sweeps[i].figures[k])
                                                              for i, k in ((0, 0), (0, 2), (1, 0), (1, 1))]
    assert [replace(point, figures=(), size=None) for point in points] == POINTS * 4
    assert [point.size for point in points[:4]] == [1 << 20, 1 << 20, 2 << 20, 2 << 20]
    assert progress.title(points[0]) == "pft, mmap_lock, 4 CPUs, line.cluster 10, line.socket 10, line.remote 28.125"


def test_ratios_are_those_of_the_same_figures_and_seeds():
    sweeps = [the("transfer=10..200ns:3"), the("ipi=2..4x:2")]
    base = [run(10), run(12), run(10, 20), run(30, 20)]
    varied = [run(rate) for rate in (1, 2, 1, 3, 1, 4, 1, 5)] + [run(rate, violations=1) for rate in (1, 6, 1, 7)] + [
        run(2, frames_leaked=2), run(1), None, run(1)]
    transfer, ipi = vary.document(sweeps, POINTS, base, varied)
    assert (transfer["name"], transfer["unit"], transfer["machine_value"]) == ("transfer", "ns", 48)
    assert transfer["values"] == [10, 48, 200] and transfer["violations"] == 0
    assert transfer["figures"] == {"line.cluster": [10, 48, 200], "line.socket": [10, 48, 200],
                                   "line.remote": [28.125, 135, 562.5]}
    four, eight = transfer["points"]
    assert (four["workload"], four["cpus"], four["scheme"], four["base"]) == ("pft", 4, "spf", "mmap_lock")
    assert four["ratios"] == [2, 1.2, 4] and four["holds"] == [10, 200] and four["machine_ratio"] == 1.2
    assert eight["ratios"] == [3, 2, 5] and eight["seeds"] == [[3, 3], [1, 3], [5, 5]]
    assert eight["machine_seeds"] == [1, 3] and eight["holds"] == []        # one of its own seeds sees no difference
    assert ipi["violations"] == 6 and ipi["machine_value"] == 1
    assert [point["ratios"] for point in ipi["points"]] == [[6, 0.5], [7, None]]
    assert [point["holds"] for point in ipi["points"]] == [[2, pytest.approx(3.297, abs=0.01)], []]


def test_a_run_that_did_nothing_gives_no_ratio():
    document = vary.document([the("ipi=2..4x:2")], POINTS[:2], [run(0), run(1)], [run(1), run(1), run(0), run(1)])
    assert document[0]["points"][0]["ratios"] == [1, None] and document[0]["points"][0]["machine_ratio"] is None


def test_an_interrupt_leaves_the_runs_in_the_order_of_the_points(monkeypatch):
    def run_all(tasks, *_, **__):
        raise Interrupted([f"{point.cpus} {point.scheme}" for point in tasks[:3]] + [None])

    monkeypatch.setattr(pool, "run_all", run_all)
    with pytest.raises(Interrupted) as stopped:
        simulate.run_points(POINTS)
    assert stopped.value.result == ["4 mmap_lock", None, "8 mmap_lock", "8 spf"]


def test_a_varied_figure_reaches_the_engine():
    point = replace(BASE, scheme="spf", size=1 << 16, seconds=1e-4)
    plain = simulate.run_point(point)
    for figures in ((("jitter", 0.0),), (("line.cluster", 96.0),), (("line.cluster", 96.0), ("jitter", 0.5))):
        other = simulate.run_point(replace(point, figures=figures))
        assert other["simulation"]["figures"] == dict(figures) and other["ops_per_s"] != plain["ops_per_s"]
    same = simulate.run_point(replace(point, figures=(("jitter", 0.25), ("line.cluster", 48.0))))
    assert same["per_cpu_ops"] == plain["per_cpu_ops"] and same["time_stack"] == plain["time_stack"]


# ---- the command line ----------------------------------------------------------------------------------------------

def test_the_document_has_what_varied_and_only_the_machines_own_runs(tmp_path, capsys):
    texts = []
    for name in ("one", "two"):
        words = ("--vary", "transfer=24..96ns:3,ipi=2..4x:2", "--json", str(tmp_path / name))
        assert main([*SMALL, *words]) == 0
        document = json.loads((tmp_path / name).read_text())
        texts.append(json.dumps(document["vary"]))
    assert texts[0] == texts[1]
    assert [run["simulation"]["figures"] for run in document["runs"]] == [{}] * 4
    transfer, ipi = document["vary"]
    assert set(transfer) >= {"name", "figures", "unit", "values", "machine_value", "points"}
    assert transfer["values"] == [24, 48, 96] and ipi["values"] == [2, 4]
    for cpus, point in zip((2, 4), transfer["points"], strict=True):
        assert set(point) >= {"workload", "cpus", "scheme", "base", "ratios", "holds"}
        base, spf = (run["ops_per_s"] for run in document["runs"] if run["cpus"] == cpus)
        assert point["ratios"][1] == pytest.approx(spf / base) and len(set(point["ratios"])) == 3
    out = capsys.readouterr().out
    assert "pft: ratio to mmap_lock with other figures than those of skylake-2x28 (*)" in out
    assert re.search(r"^transfer, ns +CPUs +scheme +24 +48\* +96 *$", out, re.MULTILINE)
    assert re.search(r"^ipi, x +CPUs +scheme +2 +4 +$", out, re.MULTILINE)
    assert out.count(" at 4 CPUs for every ") + out.count(" at 4 CPUs only") + out.count(" at 4 CPUs up to") >= 2
    assert "one seed: --repeats N asks N of them" in out


def test_seeds_are_asked_for_with_repeats(tmp_path, capsys):
    saved = tmp_path / "out.json"
    assert main([*SMALL, "--vary", "transfer=96..192:2", "--repeats", "2", "--json", str(saved)]) == 0
    for point in json.loads(saved.read_text())["vary"][0]["points"]:
        assert all(low <= high for low, high in point["seeds"])
        assert any(low < high for low, high in point["seeds"])
    assert "one seed" not in capsys.readouterr().out


def test_what_is_broken_with_other_figures_is_not_hidden(monkeypatch, capsys):
    def run_points(points, *_, **__):
        return [run(1.0, 2.0, violations=len(point.figures), repeats=2, engine="sim", machine="m",
                    simulation={"accesses_in_all": 1}) for point in points]

    monkeypatch.setattr(simulate, "run_points", run_points)
    monkeypatch.setattr(table, "show", lambda document, out: [out.print(part) for part in conclusions.show(document)])
    monkeypatch.setattr(session.results, "warnings", lambda runs: [])
    assert session.measure_all([], None, modelled=POINTS, sweeps=[the("ipi=2..4x:2")]) == 1
    assert "with other figures of ipi: 24 violations or leaked frames" in capsys.readouterr().out


def test_an_interrupted_run_keeps_what_there_is(tmp_path):
    saved = tmp_path / "out.json"
    words = [sys.executable, "-m", "shmm.cluster", *SIM, "--workload", "pft", "--cpus", "2,24", "--size", "256K",
             "--vary", "transfer=10..200:16", "--json", str(saved)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "NO_COLOR": "1"}) as process:
        for line in process.stderr:
            if "line.cluster" in line:              # one of the varied runs is over
                process.send_signal(signal.SIGINT)
                break
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    document = json.loads(saved.read_text())
    assert document["interrupted"] and len(document["runs"]) == 4
    ratios = [ratio for point in document["vary"][0]["points"] for ratio in point["ratios"]]
    assert None in ratios and any(ratios)
    assert "runs are missing, not a conclusion" in out
