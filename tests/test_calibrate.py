"""Calibration: it measures, drops what cannot be believed, and leaves nothing behind whatever ends it."""

import errno
import io
import json
import mmap
import os
import signal
import stat
import subprocess
import sys
import time

import multiprocess
import pytest
from rich.console import Console
from stress.kill_storm import descendants, session, wait_until

from shmm import _calibrate
from shmm.cluster import calibrate, machines, progress
from shmm.cluster.__main__ import main
from shmm.cluster.calibrate import campaign, launches, places, probes
from shmm.cluster.calibrate.launches import Launch, LaunchError
from shmm.cluster.crew import Interrupted

CORES = sorted(os.sched_getaffinity(0))
CORE = CORES[0]
USABLE = [place for place in places.places(CORES) if place.cpu in CORES]
TASKS = campaign.plan(USABLE)
PLAUSIBLE = {"ns": (0.01, 1e7), "GHz": (0.3, 8), "GB/s": (0.1, 5000), "%": (10, 90), "ops": (1, 1000)}
DIFFERENCES = {"transfer, contended", "transfer, handshake", "kill, interrupting"}      # of noisy figures: may be < 0
READY = {"values": (1.0, 1.0, 1.0, 1.0), "ops": 100, "losses": 10, "voluntary": 0, "involuntary": 0, "status": 0}


def report(*values: float, **changed: int) -> dict:
    """A report of a process that nothing disturbed."""
    return READY | ({"values": values} if values else {}) | changed


def name(task: campaign.Task) -> str:
    """A task's name for pytest."""
    return f"{task.probe.method}-{task.between or task.probe.where}".replace(" ", "_")


def believed_launch(task: campaign.Task) -> dict[str, float]:
    """The readings of a launch that could be believed: others may be using this machine."""
    for _ in range(100):
        task.attempt(lambda: False)
        if task.used:
            return task.used[-1]
    raise AssertionError(f"not one of {task.attempts} launches: {set(task.dropped)}")


# ---- what is measured ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("task", [task for task in TASKS if task.cores], ids=name)
def test_every_probe_yields_figures_of_a_machine(task):
    figures = believed_launch(task)
    assert set(figures) == {reading.name for reading in task.probe.readings}
    for reading in task.probe.readings:
        low, high = PLAUSIBLE[reading.unit]
        assert (-100 if reading.name in DIFFERENCES else low) <= figures[reading.name] <= high, reading


@pytest.mark.parametrize(("less", "more"), [
    ("access", "load"), ("clear, hot", "clear, cold"), ("copy, hot", "copy, cold"), ("fault, its clearing", "fault"),
    ("membarrier, no peer", "membarrier"), ("system call", "wake to run"), ("load", "transfer, handshake"),
    ("fetch_add, own line", "transfer, ping-pong"), ("load", "memory"), ("system call", "fault"),
    ("kill, blocked", "signal, round trip"), ("access", "fetch_add, own line"), ("system call", "handoff"),
])
def test_what_is_surely_dearer_is_dearer_by_a_third(less, more):
    cheap, dear = ([task for task in TASKS if any(reading.name == name for reading in task.probe.readings)]
                   for name in (less, more))
    for task in dear:
        if task.cores and task.between != places.SMT:
            assert 1.3 * believed_launch(cheap[0])[less] < believed_launch(task)[more]


def test_there_is_a_probe_for_every_method_and_every_place():
    assert {probe.method for probe in probes.PROBES} == set(_calibrate.methods())
    pairs = {task.between for task in TASKS if task.probe.where == probes.EACH_DISTANCE}
    assert pairs == set(places.pairs(USABLE)) or (len(CORES) == 1 and pairs == {""})


def test_a_pair_sees_the_same_line():
    """Both sides of a contended line report about the same time, in which each sees the other's additions."""
    for task in TASKS:
        if task.probe.method == "contended" and task.cores:
            figures = believed_launch(task)
            assert figures["run length"] < probes.LONGEST_RUN
            turn = figures["contended operation"] * figures["run length"]
            assert turn == pytest.approx(figures["transfer, contended"] + figures["line kept"])


def test_what_the_extension_is_not_given_it_refuses():
    area = mmap.mmap(-1, _calibrate.area_size())
    with pytest.raises(ValueError, match="no method 'guess'; there are clock, load"):
        _calibrate.measure(area, "guess", 0, 1)
    with pytest.raises(ValueError, match="no role 512"):
        _calibrate.report(area, 512)
    with pytest.raises(ValueError, match="an area is"):
        _calibrate.measure(bytearray(64), "load", 0, 1)
    assert _calibrate.report(area, 0) is None


# ---- what is not believed ------------------------------------------------------------------------------------------

def test_whoever_has_no_peer_gives_up():
    area = mmap.mmap(-1, _calibrate.area_size())
    assert _calibrate.measure(area, "pingpong", 0, 2) == -errno.ETIMEDOUT
    assert _calibrate.report(area, 0)["status"] == -errno.ETIMEDOUT


def test_a_peer_that_does_not_run_is_noticed():
    with pytest.raises(LaunchError, match="gave up after 2 s: the peer was not running"):
        launches.run(Launch("pingpong", (CORE, CORE)))
    assert "the peer" in probes.contended_doubt(launches.run(Launch("contended", (CORE, CORE))))


def test_a_process_that_cannot_begin_says_why():
    with pytest.raises(LaunchError, match=f"on core 999999 did not report: {os.strerror(errno.EINVAL)}"):
        launches.run(Launch("load", (999999,)))
    assert multiprocess.active_children() == []


def test_a_process_that_dies_is_noticed(monkeypatch):
    monkeypatch.setattr(_calibrate, "measure", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(LaunchError, match=f"did not report: killed by signal {signal.SIGUSR1}"):
        launches.run(Launch("load", (CORE,)))


def test_a_process_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(_calibrate, "measure", lambda *_: time.sleep(60))
    monkeypatch.setattr(launches, "SECONDS", 0.2)
    with pytest.raises(LaunchError, match="did not report: killed after"):
        launches.run(Launch("load", (CORE,)))
    assert multiprocess.active_children() == []


@pytest.mark.parametrize(("launch", "reports", "reason"), [
    (Launch("load", (0,)), [report(involuntary=1)], "the process on core 0 was switched out while it measured"),
    (Launch("load", (0,)), [report(voluntary=1)], "the process on core 0 was switched out while it measured"),
    (Launch("contended", (0, 3)), [report(), report(involuntary=2)], "the process on core 3 was switched out"),
    (Launch("futex_pair", (0, 1), sleepers=(1,)), [report(voluntary=1), report(voluntary=9)], "on core 0 was switched"),
    (Launch("futex_pair", (0, 1), sleepers=(1,)), [report(), report(involuntary=1)], "on core 1 was switched"),
    (Launch("membarrier", (0, 1)), [report(status=-errno.ETIMEDOUT), report(status=-errno.ENOSYS)],
     f"membarrier failed: {os.strerror(errno.ENOSYS)}"),
    (Launch("load", (0, 1)), [report(), None], "the process on core 1 did not report: it ended early"),
])
def test_reports_are_refused_for_a_reason(launch, reports, reason):
    with pytest.raises(LaunchError, match=reason):
        launches.believed(launch, reports, [0] * len(reports))


@pytest.mark.parametrize(("launch", "reports"), [
    (Launch("load", (0,)), [report()]),
    (Launch("futex_pair", (0, 1), sleepers=(1,)), [report(), report(voluntary=30)]),
    (Launch("handoff", (1, 1)), [report(voluntary=400, involuntary=250), report(voluntary=400)]),
])
def test_reports_of_undisturbed_processes_are_believed(launch, reports):
    assert launches.believed(launch, reports, [0] * len(reports)) == reports


@pytest.mark.parametrize(("doubt", "reports", "reason"), [
    (probes.contended_doubt, [report(ops=10**5, losses=1), report(ops=10**5, losses=0)], "200000 own operations"),
    (probes.contended_doubt, [report(1, 2), report(20, 2)], "the peer's share of the operations was 5%"),
    (probes.contended_doubt, [report(20, 2), report(1, 2)], "the peer's share of the operations was 95%"),
    (probes.contended_doubt, [report(4, 2), report(5, 2)], None),
    (probes.membarrier_doubt, [report(440, 430), report()], "nobody was interrupted"),
    (probes.membarrier_doubt, [report(9800, 430), report()], None),
    (probes.sleeper_doubt, [report(ops=30, losses=20), report()], "the sleeper was awake at 20 of 30 wakes"),
    (probes.sleeper_doubt, [report(ops=30, losses=1), report()], None),
])
def test_each_method_has_its_own_doubts(doubt, reports, reason):
    found = doubt(reports)
    assert (found is None) == (reason is None) and (reason or "") in (found or "")


def test_a_contended_line_is_a_turn_of_transfer_and_own_operations():
    """Two CPUs, 10 operations of 2 ns in each turn, 60 ns from one to the other: 79 ns for 10 operations."""
    each = 2 * 79 / 10                                       # of one CPU, which adds half of the time
    reports = [report(each, 2.0, ops=1000, losses=100), report(each, 2.0, ops=1000, losses=100)]
    assert probes.run_length(reports) == 10
    assert probes.each_operation(reports) == pytest.approx(7.9)
    assert probes.kept(reports) == pytest.approx(19)
    assert probes.moved(reports) == pytest.approx(60)
    assert 1 + probes.kept(reports) // 2.0 == 10            # as the machine file's model counts
    assert probes.share(reports) == 0.5


# ---- the campaign --------------------------------------------------------------------------------------------------

def fake_task(outcomes: list[float | None]) -> campaign.Task:
    """A task whose launches yield these, None being one that cannot be believed."""
    class Fake(campaign.Task):
        def attempt(self, interrupted) -> None:
            outcome = outcomes[self.attempts % len(outcomes)]
            if outcome is None:
                self.dropped.append("the peer was not running")
            else:
                self.used.append({"pause": outcome})

    pause = next(probe for probe in probes.PROBES if probe.method == "pause")
    return Fake(pause, "", [(0,)])


def test_what_was_dropped_is_tried_again_until_there_is_enough():
    task = fake_task([None, 3.0, 1.0, 2.0])
    assert campaign.measure([task], 6, lambda: False, lambda task: None) is False
    (pause,) = campaign.results([task])
    assert pause.refused is None and len(pause.values) == 6 and len(pause.dropped) == 2
    assert [pause.quantile(share) for share in (0, 0.25, 0.5)] == pytest.approx([1, 1.25, 2])


def test_a_figure_with_too_few_launches_is_refused_with_the_reason():
    task = fake_task([None, None, None, 1.0])
    campaign.measure([task], 5, lambda: False, lambda task: None)
    assert task.attempts == 15
    assert task.refusal() == "3 of 15 launches could be believed, 5 are needed: the peer was not running"


def test_launches_end_when_their_time_is_over():
    task = fake_task([1.0])
    assert campaign.measure([task], 5, lambda: False, lambda task: None, seconds=-1) is False
    assert task.refusal() == "0 of 0 launches could be believed, 5 are needed"


def test_tasks_take_turns():
    seen = []
    tasks = [fake_task([1.0]), fake_task([2.0])]
    campaign.measure(tasks, 5, lambda: False, seen.append)
    assert seen == tasks * 5


def test_no_launch_takes_more_memory_than_there_is(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   65536 kB\n")
    assert campaign.available_bytes(tmp_path / "meminfo") == 64 << 20
    cold = next(probe for probe in probes.PROBES if probe.memory == probes.COLD)
    assert 2 << 20 <= campaign.buffer(cold, 1, USABLE) <= max(2 << 20, campaign.available_bytes() // 4)
    assert campaign.buffer(cold, 10**6, USABLE) == 2 << 20


# ---- the command ---------------------------------------------------------------------------------------------------

def command(*words: str, **options) -> subprocess.Popen:
    """`shmm calibrate`, in a session of its own."""
    return subprocess.Popen([sys.executable, "-m", "shmm.cluster", "calibrate", *words], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A whole calibration: status, document, stderr, and where it wrote to."""
    folder = tmp_path_factory.mktemp("data")
    with command("--launches", "5", "--json", "-", env={**os.environ, "XDG_DATA_HOME": str(folder / "deep/er")}) as run:
        out, err = run.communicate(timeout=100)
    return run.returncode, json.loads(out), err, folder / "deep/er/shmm/host.toml"


def test_the_document_has_the_promised_keys(done):
    status, document, _, path = done
    assert status == (0 if len(CORES) > 1 else 3)
    assert document["schema"] == "shmm.calibrate/1" and document["launches"] == 5
    assert {"kernel", "cpu_model", "cores", "load_average"} <= set(document["host"])
    assert document["written"] == str(path) and "interrupted" not in document
    assert [one["figure"] for one in document["figures"]] == [
        reading.name for task in TASKS for reading in task.probe.readings]
    for one in document["figures"]:
        quantiles = [one[name] for name in ("min", "q25", "median", "q75")]
        if one["refused"] is None:
            assert quantiles == sorted(quantiles) and one["launches_used"] == len(one["values"]) == 5
        else:
            assert quantiles == [None] * 4 and any(one["refused"] in warning for warning in document["warnings"])
        assert sum(one["dropped"].values()) == one["launches_dropped"]


def test_the_machine_file_is_the_users_own_and_loads(done):
    _, document, _, path = done
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.parents[number].stat().st_mode) for number in range(3)} == {0o700}
    assert list(path.parent.iterdir()) == [path]
    machine = machines.load(str(path))
    assert machine.name == "host" and set(machine.figures) == set(machines.FIGURES)
    for key, figure in document["machine"]["figures"].items():
        assert machine.figures[key] == machines.Figure(**figure)


def test_tables_say_what_was_measured_and_why_it_was_chosen(done):
    _, _, err, path = done
    for text in ("transfer, ping-pong", "run length", "peer's share", "cycle counter, step", "line.cluster",
                 "spin.pause", f"written to {path}"):
        assert text in err
    assert "launches dropped" not in err and "\x1b" not in err      # the live line is for terminals


def test_one_core_is_not_enough_for_lines(tmp_path):
    with command("--launches", "5", "--json", "-", "--output", str(tmp_path / "one.toml"),
                 preexec_fn=lambda: os.sched_setaffinity(0, {CORE})) as run:
        out, err = run.communicate(timeout=100)
    assert run.returncode == 3
    assert "could not be measured: needs two cores, this process may use one; host has estimates" in err
    document = json.loads(out)
    assert {one["refused"] for one in document["figures"] if one["figure"].startswith("transfer")} == {
        "needs two cores, this process may use one"}
    machine = machines.load(str(tmp_path / "one.toml"))
    for key in ("line.cluster", "line.retention", "ipi.send", "ipi.deliver", "sleep.wake"):
        assert machine.figures[key].source.startswith("estimate: "), key


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_calibration_shows_what_there_is_and_leaves_no_process(tmp_path, number):
    with command("--launches", "1000", "--json", "-", "--output", str(tmp_path / "host.toml")) as run:
        assert wait_until(lambda: descendants(run.pid), 30)
        os.killpg(run.pid, number) if number == signal.SIGINT else run.send_signal(number)
        out, err = run.communicate(timeout=30)
        assert run.returncode == 130
        assert wait_until(lambda: not session(run.pid), 5), session(run.pid)
    document = json.loads(out)
    assert document["interrupted"] and document["machine"] is None
    assert "interrupted" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_calibration_takes_its_processes_along():
    """Also one that would go on for long."""
    code = ("import time; from shmm import _calibrate; _calibrate.measure = lambda *_: time.sleep(60)\n"
            f"from shmm.cluster.calibrate import launches; launches.run(launches.Launch('load', ({CORE},)))")
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as run:
        assert wait_until(lambda: descendants(run.pid), 30)
        run.kill()
        run.wait(30)
        assert wait_until(lambda: not session(run.pid), 5), session(run.pid)


def test_an_interrupted_launch_leaves_no_process():
    with pytest.raises(Interrupted):
        launches.run(Launch("pingpong", (CORE, CORE)), interrupted=lambda: True)
    assert multiprocess.active_children() == []


@pytest.mark.parametrize(("words", "message"), [
    (["--launches", "4"], "'4' is not a number from 5 to 1000: fewer launches than 5"),
    (["--launches", "many"], "'many' is not a number"),
    (["--output", "missing/host.toml"], "cannot write missing/host.toml"),
    (["--output", "pipe"], "cannot write pipe: it is there already and no regular file"),
    (["--output", "."], "it is there already and no regular file"),
    (["--json", "pipe"], "cannot write pipe: it is there already and no regular file"),
])
def test_usage_errors_come_before_anything_is_measured(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)             # where nothing is lost if the error does not come
    os.mkfifo("pipe")
    monkeypatch.setattr(campaign, "measure", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "host.toml"
    calibrate.write("first", path)
    calibrate.write("second", path)
    assert path.read_text() == "second"

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        calibrate.write("third", path)
    assert path.read_text() == "second" and list(tmp_path.iterdir()) == [path]


def test_only_a_regular_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            calibrate.write("text", path)
    assert (tmp_path / "pipe").is_fifo()


def test_a_terminal_gets_a_live_line(monkeypatch):
    seen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=seen, force_terminal=True, width=100))
    monkeypatch.setenv("TERM", "xterm")
    task = fake_task([None, 1.0])
    with calibrate.View([task], 5) as view:
        campaign.measure([task], 5, lambda: False, view.notice)
    assert "pause" in seen.getvalue() and "5 launches dropped" in seen.getvalue()
