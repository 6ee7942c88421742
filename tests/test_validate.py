"""`validate`: what is run for a published curve, how errors are counted, and what is said about them.

The simulator is a fake that knows the published figures, so that every error is one that a test put there."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shmm.cluster import anchors
from shmm.cluster import table as plain_table
from shmm.cluster.__main__ import main
from shmm.cluster.config import Config
from shmm.cluster.validate import errors, measure
from shmm.cluster.validate.curves import ATOMICS, CACHELINE, GOLD, PFT, RATE, UPROBE, WRITE, Bench, Curve, curves

CURVES = {curve.name: curve for curve in curves()}
KEYS = {"curve", "figures", "use", "source", "machine", "workload", "scheme", "unit", "simulated_unit", "base_cpus",
        "not_modelled", "shape", "ratio", "points"}
SCALE = 3.0                             # absolute figures are no business of a comparison of shapes


class Fake:
    """A simulator whose figures are the published ones, SCALE times, unless a test bends them."""

    def __init__(self) -> None:
        self.asked: list[Bench | Config] = []
        self.bend = lambda curve, cpus: 1.0
        self.fail: dict[str, BaseException] = {}        # by workload or kind

    def figure(self, curve: Curve, cpus: int) -> float:
        """What it says of a point."""
        return SCALE * curve.level(cpus) * self.bend(curve, cpus)

    def run_points(self, points, jobs):
        """See measure.Simulator."""
        self.asked += points
        if points[0].workload in self.fail:
            raise self.fail[points[0].workload]
        by_design = {(curve.workload, curve.scheme): curve for curve in CURVES.values()}
        return [{"cpus": point.cpus, "scheme": point.scheme,
                 "ops_per_s": self.figure(by_design[point.workload, point.scheme], point.cpus)} for point in points]

    def line_bench(self, machine, kind, cpus, seed):
        """See measure.Simulator."""
        self.asked.append(Bench(machine, kind, cpus))
        if kind in self.fail:
            raise self.fail[kind]
        found = {curve.simulated: self.figure(curve, cpus) for curve in CURVES.values()
                 if (curve.machine, curve.workload) == (machine, kind)}
        return {"ns_per_write": None, "ns_per_read": None} | found


@pytest.fixture
def fake(monkeypatch) -> Fake:
    simulator = Fake()
    module = SimpleNamespace(run_points=simulator.run_points, line_bench=simulator.line_bench)
    monkeypatch.setitem(sys.modules, "shmm.cluster.simulate", module)
    return simulator


def validate(*words: str) -> int:
    """The exit status; everything in this process."""
    return main(["validate", "--jobs", "1", *words])


def document(capsys, *words: str) -> dict:
    """The JSON document."""
    validate("--json", "-", *words)
    return json.loads(capsys.readouterr().out)


# ---- what was published ----------------------------------------------------------------------------------------


def test_every_file_says_what_it_is_and_has_a_line_in_the_readme():
    readme = (Path(anchors.__file__).parent / "README.md").read_text()
    assert len(anchors.names()) == 5
    for name in anchors.names():
        figures = anchors.load(name)
        (line,) = (line for line in readme.splitlines() if line.startswith(f"| `{name}.json`"))
        assert figures["unit"].split(",")[0] in line and figures["use"] in line.split("|")[-2]


@pytest.mark.parametrize("text, message", [
    ("{", "x.json is not JSON"),
    ('{"what": "w", "unit": "", "use": "validation"}', "x.json lacks unit, source"),
    ('{"what": "w", "unit": "u", "source": "s", "use": "fitting"}', "use 'fitting' is neither"),
])
def test_figures_that_nobody_could_quote_are_refused(text, message):
    with pytest.raises(anchors.AnchorError, match=message) as caught:
        anchors.parse("x", text)
    assert "\n" not in str(caught.value)


def test_there_are_no_such_figures():
    with pytest.raises(anchors.AnchorError, match="no published figures 'x'; there are cacheline_sharing_cycles, "):
        anchors.load("x")


@pytest.mark.parametrize("name, cpus, published, level", [
    ("lines/ben/ww", 80, 24045.0, 24045.0), ("lines/ben/rw-read", 10, 246.9, 246.9),
    ("lines/tom/rw-write", 2, 488.3, 488.3), ("atomics/g2-16/cas", 16, 638.7, 638.7),
    ("uprobe/mmap_lock", 5, 11.036, 11.036), ("uprobe/spf", 80, 142.037, 142.037),
    ("pft/mmap_lock", 80, 4.12, 1 / 4.12), ("pft/spf", 80, 2.13, 1 / 2.13),
])
def test_curves_hold_what_was_published(name, cpus, published, level):
    assert CURVES[name].published[cpus] == pytest.approx(published, rel=1e-3)
    assert CURVES[name].level(cpus) == pytest.approx(level, rel=1e-3)


def test_curves_stay_within_their_machines():
    most = {name: max(curve.published) for name, curve in CURVES.items()}
    assert len(CURVES) == 2 * 6 + 4 * 2 + 2 + 2
    for name, limit in (("lines/ben", 80), ("lines/tom", 48), ("atomics/skl", 4), ("atomics/g1-16", 16),
                        ("uprobe", 80), ("pft", 80)):
        assert {most[one] for one in most if one.startswith(name)} == {limit}
    bases = {name: curve.base for name, curve in CURVES.items()}
    assert all(base == (2 if name.startswith("lines") else 1) for name, base in bases.items())


def test_validation_curves_are_those_of_whole_workloads():
    uses = {name: anchors.load(curve.figures)["use"] for name, curve in CURVES.items()}
    assert {name for name, use in uses.items() if use == "validation"} == {
        "uprobe/mmap_lock", "uprobe/spf", "pft/mmap_lock", "pft/spf"}
    assert {CURVES[name].machine for name, use in uses.items() if use == "validation"} == {GOLD}


# ---- what is run -----------------------------------------------------------------------------------------------


def test_each_point_is_run_once(fake):
    assert validate("--seed", "7") == 0
    assert len(fake.asked) == len(set(fake.asked))
    assert set(fake.asked) == set(measure.requests(curves(), 7))
    assert sum(isinstance(one, Bench) and one.kind == "rw" and one.machine == "e7-8870-8x10" for one in fake.asked) \
        == len(CURVES["lines/ben/rw-read"].published)


def test_runs_are_the_simulators_defaults_of_that_machine():
    """But uprobes speculate in a process of one thread, too, and all points of pft map the same."""
    assert CURVES["pft/spf"].request(12, 7) == Config(
        engine="sim", machine=GOLD, workload="pft", cpus=12, scheme="spf", seed=7, size=8 << 20)
    assert CURVES["uprobe/mmap_lock"].request(1, 7) == Config(
        engine="sim", machine=GOLD, workload="uprobe", cpus=1, scheme="mmap_lock", seed=7, force_speculation=True)
    assert CURVES["atomics/skl/cas"].request(4, 7) == Bench("skylake-client-4", "cas add", 4)


@pytest.mark.parametrize("name, chosen", [
    ("uprobe/spf", {"uprobe/spf"}), ("pft", {"pft/mmap_lock", "pft/spf"}), (PFT, {"pft/mmap_lock", "pft/spf"}),
    (GOLD, {"uprobe/mmap_lock", "uprobe/spf", "pft/mmap_lock", "pft/spf"}),
    ("ww", {"lines/ben/ww", "lines/tom/ww"}), ("graviton1-16", {"atomics/g1-16/add", "atomics/g1-16/cas"}),
    ("atomics/icl", {"atomics/icl/add", "atomics/icl/cas"}),
])
def test_only_some(fake, capsys, name, chosen):
    assert {entry["curve"] for entry in document(capsys, "--only", name)["curves"]} == chosen
    assert set(fake.asked) == set(measure.requests([CURVES[one] for one in chosen], 1))


def test_no_such_curve_is_a_usage_error(fake, capsys):
    with pytest.raises(SystemExit) as left:
        validate("--only", "nothing")
    assert left.value.code == 2
    assert "workload is called 'nothing'; there are atomics, " in capsys.readouterr().err and not fake.asked


# ---- how errors are counted --------------------------------------------------------------------------------------


def curve(published: dict[int, float], **more) -> Curve:
    """A curve by hand."""
    return Curve(**{"name": "x", "figures": UPROBE, "machine": GOLD, "workload": "uprobe", "simulated": RATE,
                    "published": published, "scheme": "spf"} | more)


def test_the_error_of_a_shape():
    entry = errors.entry(curve({1: 10.0, 2: 20.0, 4: 30.0, 8: 50.0}), {1: 1.0, 2: 1.8, 4: 3.3, 8: 10.0})
    assert [point["published_shape"] for point in entry["points"]] == [1, 2, 3, 5]
    assert [point["simulated_shape"] for point in entry["points"]] == [1, 1.8, 3.3, 10]
    assert [point["error"] for point in entry["points"]] == pytest.approx([0, 0.1, 0.1, 1.0])
    assert entry["shape"] == {"points": 3, "median": pytest.approx(0.1), "worst": 1.0, "worst_cpus": 8}
    assert set(entry) == KEYS and entry["ratio"] is None


def test_of_elapsed_times_the_shape_is_the_speed_up():
    entry = errors.entry(curve({1: 32.0, 4: 8.0}, elapsed=True), {1: 100.0, 4: 300.0})
    assert entry["points"][1] == {"cpus": 4, "published": 8.0, "simulated": 300.0, "published_shape": 4.0,
                                  "simulated_shape": 3.0, "error": 0.25}


@pytest.mark.parametrize("elapsed, before, after, published", [
    (False, {1: 10.0, 2: 10.0, 3: 10.0}, {1: 10.0, 2: 30.0}, [1.0, 3.0]),
    (True, {1: 10.0, 2: 6.0, 3: 5.0}, {1: 10.0, 2: 2.0}, [1.0, 3.0]),
])
def test_the_error_of_a_ratio_is_where_both_were_published(elapsed, before, after, published):
    old, new = curve(before, name="old", elapsed=elapsed), curve(after, before="old", elapsed=elapsed)
    entry = errors.compare([old, new], {"old": {1: 5.0, 2: 5.0, 3: 5.0}, "x": {1: 6.0, 2: 12.0}})[1]
    values = entry["ratio"]["values"]
    assert [value["published"] for value in values] == pytest.approx(published)
    assert [value["simulated"] for value in values] == pytest.approx([1.2, 2.4])
    assert [value["error"] for value in values] == pytest.approx([0.2, 0.2])
    assert (entry["ratio"]["before"], entry["ratio"]["median"]) == ("old", pytest.approx(0.2))


def test_a_curve_alone_has_no_ratio(fake, capsys):
    (entry,) = document(capsys, "--only", "uprobe/spf")["curves"]
    assert entry["ratio"] is None


@pytest.mark.parametrize("figures, off, refuted", [
    (UPROBE, 1.21, True), (UPROBE, 0.79, True), (UPROBE, 1.19, False), (CACHELINE, 9.0, False)])
def test_only_validation_curves_refute(figures, off, refuted):
    entry = errors.entry(curve({1: 1.0, 2: 2.0, 3: 3.0}, figures=figures), {1: 1.0, 2: 2 * off, 3: 3 * off})
    assert errors.refuted(entry) == refuted


# ---- what is said --------------------------------------------------------------------------------------------------


def test_a_simulator_that_is_right_has_no_errors(fake, capsys):
    assert validate() == 0
    out, err = capsys.readouterr()
    lines = {line.split("  ")[0]: line for line in out.splitlines() if re.match(r"\w+/", line)}
    assert set(lines) == set(CURVES)
    assert re.fullmatch(rf"uprobe/spf +{GOLD} +uprobe +9 +0.0 % +0.0 % at \d+ +0.0 % +0.0 % at \d+ +"
                        r"validation \(never fitted\)", lines["uprobe/spf"].strip())
    assert re.fullmatch(r"lines/ben/ww +e7-8870-8x10 +ww +79 +0.0 % +0.0 % at \d+ +calibration",
                        lines["lines/ben/ww"].strip())
    assert "warning: spf_gorman_pft_elapsed_s: the machine is not named; assumed is gold-6138-2x20" in out
    assert "uprobe_mmap_lock_Mps, not modelled: where the scheduler puts the threads" in out
    assert [line.split()[1] for line in err.splitlines()] == [f"{name}:" for name in (CACHELINE, ATOMICS, UPROBE, PFT)]


def test_a_validation_curve_that_is_missed_is_exit_status_1(fake, capsys):
    fake.bend = lambda curve, cpus: 1.5 if curve.name == "uprobe/spf" and cpus > 1 else 1.0
    assert validate() == 1
    out = capsys.readouterr().out
    assert "uprobe/spf: the shape is off by 50 %, more than 20 %" in out and out.count("the shape is off") == 1


def test_a_calibration_curve_that_is_missed_is_not(fake, capsys):
    fake.bend = lambda curve, cpus: 1.5 if curve.simulated == WRITE and cpus > curve.base else 1.0
    assert validate() == 0
    assert re.search(r"50 % +50 % at \d+ +calibration", capsys.readouterr().out)


def test_a_narrow_terminal_loses_no_column(fake, capsys, monkeypatch):
    monkeypatch.setattr(plain_table, "WIDTH", 80)
    assert validate("--only", "uprobe/spf") == 0
    first, second = capsys.readouterr().out.split("\n\n")[:2]
    assert "uprobe/spf" in first and "uprobe/spf" in second and "…" not in first + second
    assert "worst" in first and "never fitted" in second


def test_every_point(fake, capsys):
    fake.bend = lambda curve, cpus: 0.5 if cpus == 80 and curve.name == "pft/spf" else 1.0
    assert validate("--only", "pft", "--points") == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out[out.index("\npft/spf: seconds elapsed, against ops_per_s"):].splitlines()]
    assert ["80", "2.13", "0.70423", "15.38", "7.69", "50", "%", "1.93x", "0.97x", "50", "%"] in rows
    assert ["1", "32.77", "0.091547", "1.00", "1.00", "base", "1.00x", "1.00x", "0.0", "%"] in rows


def test_the_document(fake, capsys):
    first, second = (document(capsys, "--seed", "7") for _ in range(2))
    assert first["schema"] == "shmm.validate/1" and first["seed"] == 7 and first["limit"] == 0.2
    assert [entry["curve"] for entry in first["curves"]] == list(CURVES)
    assert all(set(entry) == KEYS for entry in first["curves"])
    assert len(first["curves"][-1]["points"]) == 9 and len(first["curves"][-1]["ratio"]["values"]) == 9
    for one in (first, second):
        assert one.pop("host")["cores"] > 0
    assert json.dumps(first) == json.dumps(second)


def test_the_document_goes_to_a_file(fake, tmp_path, capsys):
    assert validate("--only", "pft", "--json", str(tmp_path / "out.json")) == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["curves"]) == 2
    with pytest.raises(SystemExit):
        validate("--json", str(tmp_path / "nowhere" / "out.json"))
    assert "is no directory" in capsys.readouterr().err


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_what_was_compared_before_an_interruption_is_kept(fake, capsys):
    fake.fail["uprobe"] = KeyboardInterrupt()
    assert validate("--json", "-") == 130
    kept = json.loads(capsys.readouterr().out)
    assert kept["interrupted"] and {entry["figures"] for entry in kept["curves"]} == {CACHELINE, ATOMICS}


def test_a_machine_that_is_missing_is_said_in_one_line(fake, capsys):
    fake.fail["uprobe"] = ValueError("there is no machine 'gold-6138-2x20'; there is skylake-2x28")
    assert validate("--only", "uprobe") == 3
    assert "shmm: there is no machine 'gold-6138-2x20'" in capsys.readouterr().err


def test_a_figure_that_is_missing_is_said_in_one_line(fake, capsys):
    fake.bend = lambda curve, cpus: 0.0 if curve.name == "uprobe/spf" and cpus == 16 else 1.0
    assert validate("--only", GOLD) == 1
    assert "shmm: the simulator has no ops_per_s of uprobe on gold-6138-2x20 with 16 CPUs (0.0): run that alone with " \
           "`shmm validate --only 'uprobe/spf'`" in capsys.readouterr().err
