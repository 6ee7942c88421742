"""Calibration: from what /sys says to cores, from figures to the machine file.  Nothing is measured here."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from shmm.cluster import machines
from shmm.cluster.calibrate import campaign, places, probes, profile, report
from shmm.cluster.calibrate.campaign import Measured
from shmm.cluster.calibrate.places import CLUSTER, REMOTE, SMT, SOCKET, Place, Shape

GENOA = Shape(2, 2, 2, 2)       # sockets, clusters, cores, threads
VALUES = (4.0, 2.0, 1.0, 3.0, 5.0)


def sysfs(
    root: Path, shape: Shape, *, threads_last: bool = True, caches: bool = True, offline: tuple[int, ...] = (),
) -> Path:
    """A /sys/devices/system/cpu of such a machine, its CPUs numbered cores first or threads first."""
    cores = shape.sockets * shape.cores_per_socket
    number = {(core, thread): thread * cores + core if threads_last else core * shape.threads_per_core + thread
              for core in range(cores) for thread in range(shape.threads_per_core)}
    for (core, _), cpu in number.items():
        siblings = [number[core, other] for other in range(shape.threads_per_core)]
        first = core // shape.cores_per_cluster * shape.cores_per_cluster
        sharers = [number[near, other] for near in range(first, first + shape.cores_per_cluster)
                   for other in range(shape.threads_per_core)]
        files = {"cache/index0/level": "1", "cache/index0/shared_cpu_list": f"{cpu}", "cache/index0/size": "32K"}
        if cpu not in offline:
            files |= {"topology/physical_package_id": f"{core // shape.cores_per_socket}",
                      "topology/thread_siblings_list": ",".join(map(str, siblings))}
        if caches:
            files |= {"cache/index3/level": "3", "cache/index3/shared_cpu_list": ",".join(map(str, sharers)),
                      "cache/index3/size": "16384K"}
        for name, text in files.items():
            (root / f"cpu{cpu}" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / f"cpu{cpu}" / name).write_text(f"{text}\n")
    (root / "cpufreq").mkdir()
    return root


def figure(name: str, between: str = "", values: tuple[float, ...] = VALUES, refused: str | None = None) -> Measured:
    """A figure with the unit that its probe has."""
    (reading,) = (reading for probe in probes.PROBES for reading in probe.readings if reading.name == name)
    return Measured(name, between, reading.unit, reading.how, values, (), refused)


def everything(scale: float = 1.0) -> list[Measured]:
    """Every figure at every distance: each of its own size, in five launches."""
    out = []
    for number, probe in enumerate(probes.PROBES, 1):
        where = places.DISTANCES if probe.where == probes.EACH_DISTANCE else ("",)
        for near, between in enumerate(where):
            out += [figure(reading.name, between, tuple(scale * (100 * number + near + value) for value in VALUES))
                    for reading in probe.readings]
    return out


def host(measured: list[Measured], shape: Shape) -> machines.Machine:
    """The machine, by way of its file."""
    path = Path("host.toml")
    path.write_text(machines.dumps(profile.Profile(measured, shape).machine()))
    return machines.load("./host.toml")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Files are written to a folder of their own."""
    monkeypatch.chdir(tmp_path)


# ---- places --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("threads_last", [True, False])
@pytest.mark.parametrize("shape", [GENOA, Shape(1, 1, 2, 1), Shape(4, 1, 3, 1), Shape(1, 3, 1, 4)])
def test_the_shape_of_a_machine_is_read_back(tmp_path, shape, threads_last):
    found = places.places([0], sysfs(tmp_path / "cpu", shape, threads_last=threads_last))
    assert places.shape(found) == shape and len(found) == shape.cpus
    assert sorted({place.core for place in found}) == list(range(shape.cpus // shape.threads_per_core))


def test_without_a_third_level_cache_a_socket_is_one_cluster(tmp_path):
    found = places.places([0], sysfs(tmp_path / "cpu", GENOA, caches=False))
    assert places.shape(found) == Shape(2, 1, 4, 2)
    assert places.cache_bytes(0, tmp_path / "cpu") == places.CACHE_BYTES


def test_what_is_offline_is_not_there(tmp_path):
    found = places.places([0], sysfs(tmp_path / "cpu", GENOA, offline=(15, 7)))
    assert {place.cpu for place in found} == set(range(15)) - {7}
    assert places.shape(found) == GENOA                     # the smallest regular machine that holds them
    assert places.shape(found).cpus != len(found)           # which is said


def test_where_nothing_is_described_each_cpu_is_a_core(tmp_path):
    assert places.places([3, 5], tmp_path) == [Place(3, 0, 0, 0), Place(5, 0, 0, 1)]


def test_pairs_are_found_at_every_distance(tmp_path):
    found = places.places([0], sysfs(tmp_path / "cpu", GENOA))
    pairs = places.pairs(found)
    assert list(pairs) == [SMT, CLUSTER, SOCKET, REMOTE]
    assert {(0, 8), (1, 9)} <= set(pairs[SMT]) and (0, 1) in pairs[CLUSTER] and (0, 2) in pairs[SOCKET]
    assert all(len(some) == places.PAIRS == len(set(some)) for some in pairs.values())
    by_cpu = {place.cpu: place for place in found}
    for name, some in pairs.items():
        assert {places.distance(by_cpu[a], by_cpu[b]) for a, b in some} == {name}
    assert {a.cpu for a in places.one_of_each_core(found)} == set(range(8))
    assert places.cache_bytes(0, tmp_path / "cpu") == 16 << 20


def test_each_probe_has_its_place(tmp_path):
    tasks = campaign.plan(places.places([0], sysfs(tmp_path / "cpu", GENOA)))
    named = {(task.probe.method, task.between or task.probe.where): task for task in tasks}
    assert {between for method, between in named if method == "pingpong"} == {SMT, CLUSTER, SOCKET, REMOTE}
    assert named["bandwidth", probes.ALL].cores == [(0, 1, 2, 3)]       # one thread of each core of a socket
    assert named["handoff", probes.SAME_CORE].cores[0] == (0, 0)
    assert all(places_of[0] != places_of[1] for places_of in named["signal", probes.TWO_CORES].cores)
    far = named["memory", probes.FAR_MEMORY]
    assert far.touched_by == 0 and far.cores[0][0] in range(4, 8)
    alone = campaign.plan([Place(0, 0, 0, 0)])
    assert {task.refusal() for task in alone if task.probe.method in ("pingpong", "signal", "futex_pair")} == {
        "needs two cores, this process may use one"}
    assert not any(task.probe.where == probes.FAR_MEMORY for task in alone)


# ---- the machine file ----------------------------------------------------------------------------------------------

def test_every_figure_has_its_source_and_the_file_loads():
    machine = host(everything(), GENOA)
    assert (machine.name, machine.cpus, machine.threads_per_core) == ("host", 16, 2)
    measured = {key for key, figure in machine.figures.items() if figure.source.startswith("measured: ")}
    assert measured == {*profile.DIRECT, "line.retention", "kernel.exception"}
    estimated = {key for key, figure in machine.figures.items() if figure.source.startswith("estimate: ")}
    assert estimated == set(machines.FIGURES) - measured


def test_the_lower_quartile_is_taken_and_of_rates_the_upper():
    machine = host([figure("clear, all cores"), figure("pause"), *everything()[:20]], GENOA)
    assert machine.ns("line.cluster") == 103                # 100 + 1 for the distance + the lower quartile of VALUES
    assert machine.ns("line.remote") == 105
    assert machine.ns("spin.pause") == 2
    assert machine.figures["page.bandwidth"].value == 4


def test_what_a_shape_has_no_room_for_is_filled_in():
    machine = host([one for one in everything() if one.between in ("", CLUSTER)], Shape(1, 1, 2, 1))
    assert machine.ns("line.smt") == 0 and machine.figures["smt.slowdown"].value == 1
    assert machine.ns("line.cluster") == machine.ns("line.socket") == machine.ns("line.remote") == 103
    assert machine.ns("line.memory") == machine.ns("line.memory_remote")
    assert "; as line.cluster: one cluster per socket" in machine.figures["line.socket"].source
    assert machine.figures["line.remote"].source.endswith("; as line.socket: one socket")


def test_what_was_refused_is_an_estimate_that_says_why():
    refused = [figure(one.name, one.between, (), "2 of 9 launches") for one in everything()]
    machine = host(refused, GENOA)
    for key in (*profile.DIRECT, "line.retention", "kernel.exception", "ipi.send", "ipi.deliver", "sleep.block"):
        assert machine.figures[key].source.startswith("estimate: typical of servers") and machine.figures[key].value > 0
        assert "2 of 9 launches" in machine.figures[key].source
    assert not profile.lines_measured(refused) and profile.lines_measured(everything())


def test_a_handshake_stands_in_for_a_ping_pong():
    measured = [figure(one.name, one.between, (), "no") if one.name == "transfer, ping-pong" else one
                for one in everything()]
    machine = host(measured, GENOA)
    assert machine.ns("line.cluster") == 203 and "handshake" in machine.figures["line.cluster"].source


def test_an_interrupts_parts_add_up_to_what_was_seen():
    one = {"kill, interrupting": 2000.0, "interrupt, round trip": 5000.0, "system call": 100.0, "clock, one core": 3.0}
    measured = [figure(name, values=(value,) * 5) for name, value in one.items()]
    measured.append(figure("transfer, ping-pong", CLUSTER, (50.0,) * 5))
    machine = host(measured, Shape(1, 1, 2, 1))
    assert machine.ns("kernel.trap") == machine.ns("ipi.handle") == 150                 # 150 cycles at 3 GHz
    assert machine.ns("ipi.send") == 2000
    assert machine.ns("ipi.deliver") == 5000 - 2000 - 150 - 50


@pytest.mark.parametrize(("fault", "exception"), [(1000.0, 900), (200.0, 160)])
def test_an_exception_is_a_fault_without_what_is_charged_apart(fault, exception):
    one = {"fault without clearing": fault, "system call": 100.0, "clock, one core": 2.5}
    machine = host([figure(name, values=(value,) * 5) for name, value in one.items()], Shape(1, 1, 2, 1))
    assert machine.ns("kernel.exception") == exception      # never less than the bare trap, which is part of it


@pytest.mark.parametrize(("one", "every", "steps"), [
    (3.7, 3.0, ((1, 3.7), (4, 3.0))), (3.7, 3.7, ((4, 3.7),)), (3.0, 3.1, ((4, 3.0),)), (3.5, None, ((4, 3.5),)),
])
def test_the_clock_falls_with_busy_cores_and_never_rises(one, every, steps):
    measured = [figure("clock, one core", values=(one,) * 5)]
    measured += [figure("clock, all cores", values=(every,) * 5)] if every else []
    assert host(measured, Shape(1, 2, 2, 1)).clock == steps


def test_without_a_measured_clock_the_hosts_word_is_taken(tmp_path):
    (tmp_path / "cpu0/cpufreq").mkdir(parents=True)
    (tmp_path / "cpuinfo").write_text("processor : 0\ncpu MHz\t\t: 2596.134\n")
    assert profile.nominal_ghz(tmp_path, tmp_path / "cpuinfo") == (2.6, "specification: /proc/cpuinfo")
    (tmp_path / "cpu0/cpufreq/cpuinfo_max_freq").write_text("3900000\n")
    assert profile.nominal_ghz(tmp_path, tmp_path / "cpuinfo") == (3.9, "specification: cpufreq's highest clock")
    assert profile.nominal_ghz(tmp_path / "no", tmp_path / "no") == (3.0, "estimate: this host tells no clock")


# ---- the report ----------------------------------------------------------------------------------------------------

def test_a_report_says_what_was_dropped_and_refused():
    scarce = Measured("pause", "", "ns", "how", (1.0,) * 5, ("switched out",) * 4 + ("gave up",) * 2, None)
    refused = figure("wake", values=(), refused="2 of 9 launches could be believed")
    machine = profile.Profile([scarce, refused], Shape(1, 1, 2, 1)).machine()
    document = report.document([scarce, refused], 5, Shape(1, 1, 2, 1), 3, machine)
    assert document["figures"][0]["dropped"] == {"switched out": 4, "gave up": 2}
    assert "more than half of the launches were dropped of: pause" in document["warnings"]
    assert "not reported: wake: 2 of 9 launches could be believed" in document["warnings"]
    assert any(warning.startswith("3 CPUs are described as 2") for warning in document["warnings"])
    out = Console(file=io.StringIO(), width=100)
    report.show(document, out)
    lines = out.file.getvalue().splitlines()
    assert any(line.split() == ["pause", "ns", "1", "1", "1", "1", "5", "6", "how"] for line in lines)
    assert any(line.split()[:6] == ["wake", "ns", "-", "-", "-", "-"] for line in lines)
