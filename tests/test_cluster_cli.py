"""The command line: what it prints where, its exit statuses, and the JSON document that others rely on."""

import json
import os
import re
import subprocess
import sys

import pytest
from terminal import stderr_on_a_terminal

from shmm.cluster import results
from shmm.cluster.__main__ import main
from shmm.cluster.workloads import available
from shmm.layout import COUNTERS
from shmm.segment import object_name

QUICK = ("--seconds", "0.2", "--repeats", "1", "--size", "2M")
ENVIRONMENT = {**os.environ, "NO_COLOR": "1"}


def shmm(*words: str, **options) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run(
        [sys.executable, "-m", "shmm.cluster", *words], capture_output=True, text=True, timeout=60,
        env=ENVIRONMENT, **options,
    )


@pytest.fixture(scope="module")
def document():
    """What two schemes on two workloads at two CPU counts are reported as."""
    words = ("--cpus", "1,2", "--workload", "page_fault1,mmap1", "--seed", "7")
    done = shmm("run", *words, *QUICK, "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- the document ------------------------------------------------------------------------------------------


def test_document_has_the_promised_keys(document):
    assert document["schema"] == "shmm.run/1"
    assert document["seed"] == 7
    host = {"kernel", "cpu_model", "cores", "python", "numpy", "shmm", "load_average"}
    assert host <= set(document["host"])
    assert all(isinstance(warning, str) for warning in document["warnings"])
    points = [(run["workload"], run["cpus"], run["scheme"]) for run in document["runs"]]
    assert points == [(workload, cpus, scheme) for workload in ("page_fault1", "mmap1") for cpus in (1, 2)
                      for scheme in ("mmap_lock", "spf")]


def test_each_run_has_the_promised_keys(document):
    for run in document["runs"]:
        assert (run["engine"], run["machine"], run["clock"]) == ("native", None, "wall")
        assert len(run["per_cpu_ops"]) == run["cpus"]
        assert sum(run["per_cpu_ops"]) == run["ops"] > 0
        assert run["ops_per_s"] == pytest.approx(run["ops"] / run["seconds"])
        assert run["ops_per_s_min"] <= run["ops_per_s"] <= run["ops_per_s_max"]
        assert set(run["counters"]) == set(COUNTERS)
        assert all(isinstance(value, int) for value in run["counters"].values())
        assert run["violations"] == 0 and run["frames_leaked"] == 0, run["violation_messages"]
        assert run["bytes_per_cpu"] == 2 << 20
        assert {"count", "median_ns", "p99_ns", "max_ns"} == set(run["shootdown"])


def test_speculation_counters_add_up(document):
    for run in document["runs"]:
        counters = run["counters"]
        assert counters["spf_attempt"] == counters["spf_success"] + counters["spf_abort"]
        named = sum(value for name, value in counters.items() if name.startswith("SPF_ABORT_"))
        assert counters["spf_abort"] == named
        if run["scheme"] == "mmap_lock" or run["cpus"] == 1:
            assert counters["spf_attempt"] == 0


def test_json_goes_to_a_file_and_tables_to_stdout(tmp_path):
    saved = tmp_path / "result.json"
    done = shmm("--cpus", "2", *QUICK, "--json", str(saved))
    assert done.returncode == 0, done.stderr
    assert "mmap_lock" in done.stdout and re.search(r"spf .*\d\.\d\dx", done.stdout)
    assert "2 MiB per task, 128 MiB in the original" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert len(json.loads(saved.read_text())["runs"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_json_on_stdout_moves_tables_to_stderr():
    done = shmm("--cpus", "1", "--scheme", "spf", *QUICK, "--json", "-")
    assert json.loads(done.stdout)["runs"]
    assert "page_fault1" in done.stderr


def test_more_cpus_than_cores_is_said():
    cpus = os.cpu_count() + 1
    done = shmm("--cpus", str(cpus), "--scheme", "spf", *QUICK, "--json", "-")
    assert f"{cpus} CPUs on" in "".join(json.loads(done.stdout)["warnings"])
    assert "contention is understated" in done.stderr


def test_a_terminal_gets_a_live_view():
    seen = stderr_on_a_terminal("--cpus", "1", "--scheme", "spf", *QUICK)
    assert b"page_fault1, spf, 1 CPU" in seen and b"ops/s" in seen and b"\x1b[" in seen


# ---- exit statuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    (["--engine", "host"], "there is no engine 'host'; there is native, sim"),
    (["--engine", "native", "--machine", "rome-2x64"], "--machine is what --engine sim models"),
    (["--scheme", "rcu_tree"], "there is no scheme 'rcu_tree'; there are mmap_lock, spf"),
    (["--workload", "page_fault9"], "there is no workload 'page_fault9'; there are brk1"),
    (["--workload", "ebizzy", "--workload-args=-q"], "ebizzy takes -mT, -mTR or -mTRp"),
    (["--workload-args", "x"], "takes no arguments"),
    (["--walk", "rcu"], "--walk rcu needs --table-free rcu"),
    (["--cpus", "0"], "1 to 1024 CPUs"),
    (["--cpus", "two"], "not a list of numbers"),
    (["--seconds", "-1"], "not a number greater than 0"),
    (["--size", "5000"], "multiple of 4096"),
    (["--size", "many"], "not a size"),
    (["--json", "/nonexistent/result.json"], "cannot write"),
    (["--ipi", "pigeon"], "there is no ipi 'pigeon'"),
    (["--start-method", "spawn"], "there is fork, forkserver"),
    (["frobnicate"], "unrecognized arguments"),
])
def test_usage_errors(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_too_little_memory_is_the_environments_fault(capsys):
    assert main(["--cpus", "1", "--scheme", "spf", "--size", "4000G"]) == 3
    assert "/dev/shm" in capsys.readouterr().err


def test_list_shows_every_workload(capsys):
    assert main(["--list"]) == 0
    workloads, _, models = capsys.readouterr().out.partition("\n\n")
    assert [line.split()[0] for line in workloads.splitlines()] == sorted(available())
    assert models.startswith("machines that --engine sim models: e7-8870-8x10, ") and models.endswith(", host\n")
    assert {"page_fault1", "page_fault2", "page_fault3", "mmap1", "mmap2", "brk1", "brk2", "malloc1", "malloc2",
            "tlb_flush1", "tlb_flush2", "tlb_flush3", "pft", "ebizzy", "spf_test", "uprobe",
            "mapbench_local", "mapbench_pipeline", "mapbench_global"} <= set(available())


def test_help_and_version():
    assert "doctor" in shmm("--help").stdout
    assert shmm("--version").stdout.startswith("shmm ")


def test_output_to_a_closed_pipe_is_quiet():
    line = f"{sys.executable} -m shmm.cluster --list | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


# ---- ways to run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [
    ["--start-method", "forkserver"],
    ["--ipi", "signal"],
    ["--walk", "rcu", "--table-free", "rcu"],
    ["--table-free", "rcu"],
    ["--no-zero"],
    ["--paranoid"],
    ["--force-speculation", "--no-pin"],
    ["--pin"],
])
def test_ways_to_run(words):
    point = ("--cpus", "3", "--scheme", "spf", "--workload", "page_fault1,tlb_flush2")
    done = shmm("run", *point, *words, *QUICK, "--json", "-")
    assert done.returncode == 0, done.stderr
    for run in json.loads(done.stdout)["runs"]:
        assert run["ops"] > 0 and run["violations"] == 0 and run["frames_leaked"] == 0


def test_two_runs_side_by_side():
    words = [sys.executable, "-m", "shmm.cluster", "--cpus", "2", "--scheme", "spf", *QUICK, "--json", "-"]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
            for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(out)["runs"][0]["ops"] > 0


# ---- doctor and clean --------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_fit():
    done = shmm("doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) >= 10
    assert all(re.match(r"(ok|warn) +[a-z ]+:", line) for line in lines), done.stdout


def test_clean_removes_what_a_dead_run_left(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = object_name().replace(f"-{os.getpid()}-", f"-{dead.pid}-", 1)
    path = f"/dev/shm{name}"
    with open(path, "w"):
        pass
    try:
        assert "shmm clean" in shmm("doctor").stdout
        done = shmm("clean")
        assert done.returncode == 0 and path in done.stdout
        assert not os.path.exists(path)
    finally:
        if os.path.exists(path):
            os.unlink(path)
    assert "nothing to clean" in shmm("clean").stdout


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        results.write({"schema": "a test's"}, pipe)
        replaced = not pipe.is_fifo()
        if replaced:                # nobody will ever write to the pipe that is gone
            reader.kill()
        assert not replaced and json.loads(reader.communicate(timeout=20)[0]) == {"schema": "a test's"}
