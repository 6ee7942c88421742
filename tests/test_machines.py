"""Machines: their files, what the loader refuses, and where CPUs sit and how fast they run."""

import re
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmm.cluster import machines
from shmm.cluster.machines import FIGURES, Figure, Machine, MachineError, Seat
from shmm.cluster.simulate import line_bench

SHIPPED = {
    "e7-8870-8x10", "opteron-8431-8x6", "xeon-e5-2690v3-2x12", "skylake-2x28", "gold-6138-2x20", "icelake-8336c-2x32",
    "rome-2x64", "milan-2x36", "genoa-2x96", "epyc-9965-2x192", "graviton3-64", "graviton2-16", "graviton1-16",
    "pixel6", "skylake-client-4", "icelake-client-4",
}
FOLDER = Path(machines.__file__).parent
ONE_NODE = {"graviton3-64", "graviton2-16", "graviton1-16", "pixel6", "skylake-client-4", "icelake-client-4"}
# CAS ping-pong, one way, ns: what github.com/nviennot/core-to-core-latency has for that very part or its sister
PING_PONG = {
    ("milan-2x36", "cluster"): (23, 23), ("milan-2x36", "socket"): (107, 107), ("milan-2x36", "remote"): (197, 197),
    ("genoa-2x96", "smt"): (9, 9), ("genoa-2x96", "cluster"): (22, 24), ("genoa-2x96", "socket"): (97, 104),
    ("genoa-2x96", "remote"): (193, 202), ("icelake-8336c-2x32", "cluster"): (51, 51),
    ("icelake-8336c-2x32", "remote"): (108, 108), ("skylake-2x28", "cluster"): (47, 48),
    ("skylake-2x28", "remote"): (134, 136), ("gold-6138-2x20", "cluster"): (47, 48),
    ("gold-6138-2x20", "remote"): (134, 136), ("xeon-e5-2690v3-2x12", "cluster"): (44, 44),
    ("xeon-e5-2690v3-2x12", "remote"): (118, 118), ("graviton3-64", "cluster"): (46, 46),
}
# Threads adding to one counter, ns for each addition of each thread (concurrency-hierarchy-bench), and how near the
# figures come
CONTENDED = {
    "skylake-client-4": ({2: 44.1, 3: 70.0, 4: 96.4}, 0.06),
    "icelake-client-4": ({2: 32.8, 3: 49.3, 4: 69.5}, 0.06),
    "graviton2-16": ({2: 17.0, 4: 34.7, 8: 75.5, 12: 114.6, 16: 150.3}, 0.14),
    "graviton1-16": ({2: 30.7, 4: 105.4, 8: 410.2, 12: 808.5, 16: 1372.3}, 0.5),
}
# Cores adding to one line in bursts, cycles of 2.4 GHz that one waits in the mean (logs of A. Clements' thesis)
SHARING = {
    "e7-8870-8x10": {3: 163.4, 6: 294.6, 10: 492.9, 20: 2880.8, 40: 10069.0, 60: 17674.0, 80: 24045.0},
    "opteron-8431-8x6": {3: 172.4, 6: 350.2, 12: 1057.6, 24: 2943.5, 36: 5357.6, 48: 8105.2},
}


def small(**changes: object) -> Machine:
    """Two sockets of two clusters of two cores of two threads, with round figures."""
    figures = {name: Figure(2.0, unit, "estimate: for tests") for name, unit in FIGURES.items()}
    parts: dict = {"name": "small", "cpu": "a test's", "sockets": 2, "clusters_per_socket": 2, "cores_per_cluster": 2,
                   "threads_per_core": 2, "clock": ((1, 4.0), (2, 3.0), (4, 2.0)), "figures": figures}
    return Machine(**parts | changes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of that machine."""
    path = tmp_path / "own.toml"
    path.write_text(machines.dumps(small()))
    return path


def figure_lines(text: str) -> list[str]:
    """The figures of a file in their order, as "line.hit"; tables that have none are left out."""
    table, found = "", []
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif table not in ("", "topology", "clock") and (key := re.match(r"(\w+) = ", line)):
            found.append(f"{table}.{key[1]}")
    return found


# ---- the shipped ones --------------------------------------------------------------------------------------------

def test_the_shipped_machines_are_those_that_are_promised():
    assert set(machines.names()) == SHIPPED
    assert machines.names() == tuple(sorted(SHIPPED))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_machine_is_what_its_name_says(name):
    machine = machines.load(name)
    assert machine.name == name
    numbers = re.search(r"-(?:(\d+)x)?(\d+)$", name)
    sockets, cores = (int(numbers[1] or 1), int(numbers[2])) if numbers else (1, 8)
    assert (machine.sockets, machine.cores_per_socket) == (sockets, cores)
    assert len(machine.seats(machine.cpus)) == sockets * cores * machine.threads_per_core
    assert (sockets == 1) == (name in ONE_NODE)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_figures_of_a_shipped_machine_go_together(name):
    machine = machines.load(name)
    line = {key: machine.ns(key) for key in FIGURES if key.startswith("line.")}
    assert 0 < line["line.hit"] < line["line.rmw"] < line["line.cluster"] <= line["line.socket"] <= line["line.remote"]
    assert 0 < line["line.reader"] <= line["line.cluster"] and line["line.memory"] <= line["line.memory_remote"]
    if machine.clusters_per_socket == 1:
        assert line["line.cluster"] == line["line.socket"]
    if machine.sockets == 1:
        assert line["line.socket"] == line["line.remote"] and line["line.memory"] == line["line.memory_remote"]
    if machine.threads_per_core == 1:
        assert line["line.smt"] == 0 and machine.figures["smt.slowdown"].value == 1
    else:
        assert 0 < line["line.smt"] < line["line.cluster"] and 1.4 <= machine.figures["smt.slowdown"].value <= 1.7
    assert machine.ns("kernel.syscall") < machine.ns("kernel.trap") < machine.ns("kernel.exception")
    assert machine.ns("kernel.trap") < machine.ns("ipi.handle")
    assert machine.ns("page.clear") < machine.ns("page.copy")
    assert 4096 / machine.ns("page.clear") <= machine.figures["page.bandwidth"].value     # bytes per ns are GB/s
    speeds = [ghz for _, ghz in machine.clock]
    assert speeds == sorted(speeds, reverse=True) and machine.clock[-1][0] == machine.cores_per_socket


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_file_reads_like_the_others(name):
    text = (FOLDER / f"{name}.toml").read_text()
    assert figure_lines(text) == list(FIGURES)
    tables = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
    assert tables == ["topology", "clock", *(table for table, _ in groupby(FIGURES, lambda name: name.split(".")[0]))]
    assert max(map(len, text.splitlines())) <= 120 and len(text.splitlines()) <= 70


def test_what_is_published_says_where():
    works = re.findall(r"^    (\S+) {2,}\S", machines.__doc__.partition("What sources name:")[2], re.MULTILINE)
    assert {"core-to-core-latency", "Clements", "LATR"} <= set(works)
    for name in machines.names():
        for key, figure in machines.load(name).figures.items():
            if figure.source.startswith("published: "):
                assert any(work in figure.source for work in works), f"{name}: {key}: {figure.source}"


@pytest.mark.parametrize(("name", "key"), PING_PONG)
def test_transfers_are_the_published_ping_pongs(name, key):
    low, high = PING_PONG[name, key]
    figure = machines.load(name).figures[f"line.{key}"]
    assert low <= figure.value <= high and figure.source.startswith("published: core-to-core-latency")


@pytest.mark.parametrize("name", CONTENDED)
def test_contended_figures_give_the_curve_that_they_were_fitted_to(name):
    curve, near = CONTENDED[name]
    machine = machines.load(name)
    assert machine.ns("line.rmw") == pytest.approx({"skylake-client-4": 7.0, "icelake-client-4": 6.1,
                                                    "graviton2-16": 5.3, "graviton1-16": 8.8}[name])
    simulated = {n: line_bench(name, "atomic add", n)["ns_per_write"] for n in curve}
    assert simulated == pytest.approx(curve, rel=near)


@pytest.mark.parametrize("name", SHARING)
def test_bursts_give_the_sharing_logs_that_their_figures_were_read_from(name):
    simulated = {n: line_bench(name, "ww", n)["ns_per_write"] * 2.4 for n in SHARING[name]}
    assert simulated == pytest.approx(SHARING[name], rel=0.35)


# ---- CPUs on a machine -------------------------------------------------------------------------------------------

def test_seats_fill_clusters_then_sockets_then_second_threads():
    assert small().cpus == 16
    assert small().seats(10) == (
        Seat(0, 0, 0, 0), Seat(0, 0, 1, 0), Seat(0, 1, 2, 0), Seat(0, 1, 3, 0),
        Seat(1, 2, 4, 0), Seat(1, 2, 5, 0), Seat(1, 3, 6, 0), Seat(1, 3, 7, 0),
        Seat(0, 0, 0, 1), Seat(0, 0, 1, 1),
    )


@given(*[st.integers(1, 4)] * 4, st.data())
def test_seats_of_any_machine_are_taken_once_and_in_order(sockets, clusters, cores, threads, data):
    machine = small(sockets=sockets, clusters_per_socket=clusters, cores_per_cluster=cores, threads_per_core=threads,
                    clock=((64, 1.0),))
    cpus = data.draw(st.integers(1, machine.cpus))
    seats = machine.seats(cpus)
    assert len(set(seats)) == cpus and seats == machine.seats(machine.cpus)[:cpus]
    assert list(seats) == sorted(seats, key=lambda seat: (seat.thread, seat.socket, seat.cluster, seat.core))
    assert {seat.core for seat in machine.seats(machine.cpus)} == set(range(sockets * clusters * cores))
    assert all(seat.cluster == seat.core // cores and seat.socket == seat.cluster // clusters for seat in seats)


@pytest.mark.parametrize("cpus", [17, 0, -1])
def test_there_are_no_more_seats_than_cpus(cpus):
    for ask in (small().seats, small().slowdowns):
        with pytest.raises(MachineError, match=f"^machine small has 16 CPUs, not {cpus}: use 1 to 16 of them, or") as e:
            ask(cpus)
        assert "\n" not in str(e.value)


def test_slowdowns_follow_the_clock_of_each_socket():
    assert small().slowdowns(1) == (1.0,)
    assert small().slowdowns(2) == pytest.approx((4 / 3, 4 / 3))
    assert small().slowdowns(3) == (2.0, 2.0, 2.0)                  # 3 busy cores: the step of at most 4
    assert small().slowdowns(5) == (2.0, 2.0, 2.0, 2.0, 1.0)        # the other socket has one
    assert small(clock=((9, 3.0),)).slowdowns(8) == (1.0,) * 8


def test_slowdowns_count_busy_siblings_and_not_their_threads_as_cores():
    machine = small(clusters_per_socket=1, cores_per_cluster=1, clock=((1, 4.0),))
    assert machine.slowdowns(2) == (1.0, 1.0)
    assert machine.slowdowns(3) == (2.0, 1.0, 2.0)
    assert small().slowdowns(9)[::4] == (4.0, 2.0, 4.0)             # core 0 shared, 4 not; 4 busy cores in each


# ---- figures -----------------------------------------------------------------------------------------------------

def test_a_figure_can_be_varied_and_says_so():
    machine = machines.load("skylake-2x28")
    varied = machine.with_figures({"line.remote": 200.0, "page.bandwidth": 50.0})
    assert varied.ns("line.remote") == 200 and varied.figures["page.bandwidth"].unit == "GB_per_s"
    assert varied.figures["line.remote"].source.startswith("varied: it was 135 ns, published: core-to-core-latency")
    assert machine.ns("line.remote") == 135
    same = {name: figure for name, figure in varied.figures.items() if figure == machine.figures[name]}
    assert set(FIGURES) - set(same) == {"line.remote", "page.bandwidth"}
    assert hash(varied) == hash(machine) and varied != machine


@pytest.mark.parametrize(("values", "said"), [
    ({"line.far": 1.0}, r"^there is no figure 'line.far'; there are line.hit, line.rmw"),
    ({"line.hit": 0.0}, r"^machine 'small': line.hit must be a number greater than 0"),
    ({"line.hit": float("nan")}, "line.hit must be a number greater than 0 and at most 1e[+]09, not nan"),
    ({"line.rmw": 2e9}, "line.rmw must be a number of at least 0 and at most 1e[+]09, not 2000000000.0"),
    ({"line.smt": -1.0}, "line.smt must be a number of at least 0"),
    ({"smt.slowdown": 0.9}, "smt.slowdown must be a number of at least 1"),
])
def test_a_figure_cannot_become_what_it_cannot_be(values, said):
    with pytest.raises(MachineError, match=said):
        small().with_figures(values)


def test_nanoseconds_are_asked_of_what_is_in_nanoseconds():
    assert small().with_figures({"line.smt": 0}).ns("line.smt") == 0
    with pytest.raises(MachineError, match=r"page\.bandwidth is in GB_per_s, not in ns: take figures"):
        small().ns("page.bandwidth")
    with pytest.raises(MachineError, match="there is no figure 'hit'"):
        small().ns("hit")


# ---- files -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_what_is_dumped_loads_again(name, tmp_path):
    machine = machines.load(name)
    (tmp_path / "copy.toml").write_text(machines.dumps(machine))
    assert machines.load(str(tmp_path / "copy.toml")) == machine


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.floats(0.001, 1e9))
@example("quoted \" \\ and\n\x7f", 1e-3)
def test_any_source_and_value_survives_a_file(tmp_path_factory, words, value):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    figure = Figure(value, "ns", f"measured: {words}")
    machine = small(figures={**small().figures, "spin.pause": figure}, clock_source=f"published: {words}")
    path.write_text(machines.dumps(machine), encoding="utf-8", newline="")
    assert machines.load(str(path)) == machine


def test_what_was_varied_is_an_estimate_in_a_file(file):
    file.write_text(machines.dumps(small().with_figures({"line.hit": 3.0})))
    assert machines.load(str(file)).figures["line.hit"] == Figure(
        3.0, "ns", "estimate: varied: it was 2 ns, estimate: for tests")


def test_a_path_is_told_from_a_name(file, tmp_path, monkeypatch):
    assert machines.load(str(file)) == small()
    monkeypatch.chdir(tmp_path)
    assert machines.load("own.toml") == machines.load("./own.toml") == small()
    file.rename(tmp_path / "skylake-2x28")
    assert machines.load("skylake-2x28").name == "skylake-2x28"
    assert machines.load("./skylake-2x28") == small()


HIT = 'hit = {ns = 2.0, source = "estimate: for tests"}'


@pytest.mark.parametrize(("old", "new", "said"), [
    (HIT, "", r"line.hit is missing: \[line\] needs hit, rmw"),
    (HIT, f"{HIT}\nhits = 1", r"unknown key 'hits': \[line\] has hit, rmw"),
    (HIT, 'hit = {us = 2.0, source = "estimate: x"}', r'line.hit must be \{ns = NUMBER, source = "..."\}, not'),
    (HIT, "hit = 2.0", r'line.hit must be \{ns = NUMBER, source = "..."\}, not 2.0'),
    (HIT, "hit = {ns = 2.0}", r'line.hit must be \{ns = NUMBER, source = "..."\}, not'),
    (HIT, 'hit = {ns = "2", source = "estimate: x"}', "line.hit must be a number greater than 0 .* not '2'"),
    (HIT, 'hit = {ns = true, source = "estimate: x"}', "line.hit must be a number"),
    (HIT, 'hit = {ns = inf, source = "estimate: x"}', "line.hit must be a number"),
    (HIT, 'hit = {ns = -1, source = "estimate: x"}', "line.hit must be a number"),
    (HIT, 'hit = {ns = 2.0, source = "guess: x"}', "line.hit: source must begin with one of 'published: ', 'me"),
    (HIT, 'hit = {ns = 2.0, source = "estimate: "}', "line.hit: source must begin with .* and go on to say it"),
    (HIT, 'hit = {ns = 2.0, source = "estimated"}', "line.hit: source must begin with"),
    (HIT, "hit = {ns = 2.0, source = 1}", "line.hit: source must begin with .* not 1"),
    (HIT, 'hit = {ns = 2.0, source = "varied: x"}', "line.hit: a file does not vary"),
    ("[ipi]", "[ipis]", "unknown key 'ipis': a machine has name, cpu, topology, clock, line"),
    ('name = "small"\n', "", "name is missing: a machine needs name, cpu"),
    ('name = "small"', 'name = ""', "name must be a line of text, not ''"),
    ('cpu = "a test\'s"', "cpu = 1", "cpu must be a line of text, not 1"),
    ('cpu = "a test\'s"', 'cpu = "a\\nb"', "cpu must be a line of text"),
    ("sockets = 2", "sockets = 0", "topology.sockets must be a whole number of at least 1, not 0"),
    ("sockets = 2", "sockets = 2.0", "topology.sockets must be a whole number of at least 1, not 2.0"),
    ("sockets = 2", "", "topology.sockets is missing"),
    ("[4, 2.0]]", "[3, 2.0]]", r"must reach the 4 cores of a socket, not 3: add \[4, GHz\]"),
    ("[[1, 4.0]", "[[5, 4.0]", "the numbers of cores must be whole, at least 1, and ascend"),
    ("[1, 4.0]", "[1, 0.0]", "each GHz must be a number greater than 0"),
    ("[[1, 4.0], [2, 3.0], [4, 2.0]]", "2.0", r"clock.ghz_by_active_cores must be \[\[cores, GHz\], ...\], not 2.0"),
    ("[[1, 4.0], [2, 3.0], [4, 2.0]]", "[]", "must reach the 4 cores of a socket, not 0"),
    ("[smt]", "[smt", "not TOML: "),
    ("small", "\\", "not TOML: "),
])
def test_a_file_that_cannot_be_is_refused_in_one_line(file, old, new, said):
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(MachineError, match=said) as error:
        machines.load(str(file))
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_refused_in_one_line(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"name = \xff")
    for path, said in (("none.toml", "No such file or directory: give another file, or one of the machines e7-8870"),
                       ("bytes.toml", "not TOML: "), ("", "Is a directory: ")):
        with pytest.raises(MachineError, match=said) as error:
            machines.load(f"{tmp_path}/{path}")
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["skylake", "", "..", "Host"])
def test_an_unknown_name_is_told_what_there_is(name):
    with pytest.raises(MachineError) as error:
        machines.load(name)
    assert str(error.value).startswith(f"there is no machine {name!r}; there are e7-8870-8x10, ")
    assert all(shipped in str(error.value) for shipped in SHIPPED) and "\n" not in str(error.value)


# ---- the calibrated one ------------------------------------------------------------------------------------------

def test_the_host_is_a_file_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert machines.host_path() == tmp_path / "data/shmm/host.toml"
    with pytest.raises(MachineError) as error:
        machines.load("host")
    assert str(error.value) == "machine host is not calibrated yet: run `shmm calibrate`"
    machines.host_path().parent.mkdir(parents=True)
    machines.host_path().write_text(machines.dumps(small(name="host")))
    assert machines.load("host") == small(name="host")
    assert "host" not in machines.names()


@pytest.mark.parametrize("data", ["", "relative", None])
def test_the_host_is_in_the_home_directory_otherwise(monkeypatch, tmp_path, data):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if data is not None:
        monkeypatch.setenv("XDG_DATA_HOME", data)
    assert machines.host_path() == tmp_path / ".local/share/shmm/host.toml"
