"""--engine sim on the command line: what it asks for, what it prints, the document, Ctrl-C, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from simulated import MACHINE
from terminal import stderr_on_a_terminal

from shmm.cluster import machines, simulate, topology, workloads
from shmm.cluster.__main__ import main
from shmm.cluster.workloads import PAGE, Program
from shmm.layout import COUNTERS

SIM = ("run", "--engine", "sim", "--machine", MACHINE)
QUICK = ("--size", "1M", "--seconds", "0.0002")
BESIDE = topology.usable_cores() + 1        # more CPUs than cores: a default run models them


def document(*words: str, status: int = 0, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command line writes as JSON."""
    assert main([*words, "--json", "-"]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    loaded: dict[str, Any] = json.loads(out)
    return loaded


@pytest.fixture
def nothing_calibrated(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """There is no machine `host`."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


# ---- what it asks for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    (["--engine", "sim"], "machine host is not calibrated yet: run `shmm calibrate`"),
    (["--engine", "sim", "--machine", "vax"], "there is no machine 'vax'; there are e7-8870-8x10, "),
    (["--engine", "sim", "--machine", "./vax.toml"], "machine file vax.toml: No such file or directory"),
    ([*SIM[1:], "--cpus", "4,113"], "machine skylake-2x28 has 112 CPUs, not 113: use 1 to 112 of them, or another"),
    ([*SIM[1:], "--workload", "page_fault9"], "there is no workload 'page_fault9'"),
    ([*SIM[1:], "--size", "5000"], "multiple of 4096"),
    ([*SIM[1:], "--jobs", "0"], "not a number greater than 0"),
    (["--engine", "qemu"], "there is no engine 'qemu'; there is native, sim"),
])
def test_usage_errors(words, message, capsys, nothing_calibrated):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("shmm run: error: ") and message in error


def test_a_replay_is_native(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["replay", "--engine", "sim", "trace.txt"])
    assert caught.value.code == 2 and "there is no engine 'sim'; there is native" in capsys.readouterr().err


def test_the_list_names_the_machines(capsys):
    assert main(["--list"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("machines that --engine sim models: ") and last.endswith(", host")
    assert all(name in last for name in machines.names())


# ---- the document --------------------------------------------------------------------------------------------------


def test_the_document_of_a_simulation_has_the_promised_keys(capsys):
    found = document(*SIM, "--cpus", "1,3", "--seed", "5", *QUICK, capsys=capsys)
    assert (found["schema"], found["seed"]) == ("shmm.run/1", 5)
    assert set(found["host"]["simulation"]) == {"seconds", "accesses", "accesses_per_s"}
    assert [(run["cpus"], run["scheme"]) for run in found["runs"]] == [
        (cpus, scheme) for cpus in (1, 3) for scheme in ("mmap_lock", "spf")]
    for run in found["runs"]:
        assert (run["engine"], run["clock"], run["machine"]) == ("sim", "virtual", MACHINE)
        assert (run["violations"], run["frames_leaked"], run["violation_messages"]) == (0, 0, [])
        assert set(run["counters"]) == set(COUNTERS)
        assert len(run["per_cpu_ops"]) == run["cpus"] and sum(run["per_cpu_ops"]) == run["ops"] > 0
        assert run["ops_per_s"] == pytest.approx(run["ops"] / run["seconds"])
        assert (run["repeats"], run["bytes_per_cpu"], run["policies"]["ipi"]) == (1, 1 << 20, "signal")
        assert run["start_method"] is run["pinned"] is None and run["host_faults"] == 0
        assert set(run["simulation"]) >= {"accesses", "accesses_in_all", "rounds", "begun_ps", "lasted_ps", "figures"}
        assert run["simulation"]["lasted_ps"] == pytest.approx(run["seconds"] * 1e12)
        assert sum(part["share"] for part in run["time_stack"]) == pytest.approx(1)
    warned = [text for text in found["warnings"] if "modelled on skylake-2x28" in text]
    assert len(warned) == 1 == len(found["warnings"])


def test_two_runs_differ_in_nothing_but_the_host(capsys):
    words = (*SIM, "--workload", "ebizzy,mmap1", "--cpus", "2,5", "--seconds", "0.0002", "--repeats", "2")
    one, two = [document(*words, "--jobs", jobs, capsys=capsys) for jobs in ("1", "2")]
    assert one.pop("host")["simulation"]["accesses"] == two.pop("host")["simulation"]["accesses"] > 0
    assert json.dumps(one) == json.dumps(two)
    other = document(*words, "--seed", "2", capsys=capsys)
    assert other["runs"] != one["runs"]


def test_policies_reach_the_simulation(capsys):
    run, = document(*SIM, "--cpus", "2", "--scheme", "spf", "--walk", "rcu", "--table-free", "rcu", "--ipi", "mailbox",
                    "--no-zero", "--exact", "--vma-free", "rcu", "--vma-tree", "latched", "--preempt-rt", *QUICK,
                    capsys=capsys)["runs"]
    assert run["policies"] == {"scheme": "spf", "walk": "rcu", "table_free": "rcu", "ipi": "mailbox", "zero": False,
                               "force_speculation": False, "paranoid": False, "vma_free": "rcu",
                               "vma_tree": "latched", "preempt_rt": True, "thp": "never"}
    assert not any(part["part"] == "clear" and part["share"] > 0.02 for part in run["time_stack"])


# ---- what it prints ------------------------------------------------------------------------------------------------


def test_the_tables_say_on_what_machine(capsys):
    assert main([*SIM, "--workload", "pft,mmap1", "--cpus", "1,2,4,8", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("modelled on skylake-2x28")
    assert out.count("ns per op") == 2 and "clearing and copying pages" in out and "lines of mmap lock" not in out
    assert [line.split()[0] for line in err.splitlines()] == [f"[{n}/16]" for n in range(1, 17)]


def test_a_terminal_gets_a_live_view():
    seen = stderr_on_a_terminal(*SIM, "--cpus", "2", "--workload", "pft", "--size", "4M", "--seconds", "0.02")
    assert b"pft, " in seen and b"accesses/s" in seen and b"\x1b[" in seen


def test_more_cpus_than_cores_are_modelled_beside(capsys):
    found = document("run", "--cpus", f"1,{BESIDE}", "--scheme", "spf", "--size", "1M", "--seconds", "0.05",
                     "--repeats", "1", capsys=capsys)
    assert [(run["engine"], run["cpus"], run["machine"]) for run in found["runs"]] == [
        ("native", 1, None), ("native", BESIDE, None), ("sim", BESIDE, MACHINE)]
    assert found["runs"][2]["seconds"] < 0.05           # --seconds is the native clock's
    assert any("time-shared" in text for text in found["warnings"])
    assert any("modelled on skylake-2x28" in text for text in found["warnings"])


def test_the_tables_show_both_engines(capsys):
    assert main(["run", "--cpus", str(BESIDE), "--size", "1M", "--seconds", "0.05", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert out.index("shootdown p50") < out.index("modelled on skylake-2x28") < out.index("ns per op")


def test_who_asks_for_native_gets_nothing_else(capsys):
    found = document("run", "--engine", "native", "--cpus", str(BESIDE), "--scheme", "spf", "--size", "1M",
                     "--seconds", "0.05", "--repeats", "1", capsys=capsys)
    assert [run["engine"] for run in found["runs"]] == ["native"]
    assert "simulation" not in found["host"] and not any("modelled" in text for text in found["warnings"])
    few = document("run", "--cpus", "1", "--scheme", "spf", "--size", "1M", "--seconds", "0.05", capsys=capsys)
    assert [run["engine"] for run in few["runs"]] == ["native"]


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_cut_off_is_one_line_and_exit_status_1(capsys, monkeypatch):
    monkeypatch.setattr(simulate, "MOST_SECONDS", 1e-6)
    found = document(*SIM, "--workload", "uprobe", "--cpus", "2", "--scheme", "spf", status=1, capsys=capsys)
    assert found["runs"] == [] and "the run is not over after" in found["error"] and "CPU 0" in found["error"]
    assert main([*SIM, "--workload", "uprobe", "--cpus", "2", "--scheme", "spf"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("shmm: ") and "CPU 0" in last and "Traceback" not in last


def test_a_violation_is_exit_status_1(capsys, monkeypatch):
    def wrong(task: Any) -> Program:
        program = task.thread()
        program.munmap(0x10000, PAGE, expect=1)
        with program.forever():
            program.nop()
        return program

    monkeypatch.setattr(workloads.load("mmap1"), "build", wrong)
    found = document(*SIM, "--workload", "mmap1", "--cpus", "2", "--scheme", "spf", status=1, capsys=capsys)
    messages = found["runs"][0]["violation_messages"]
    assert "CPU 0: its program failed at record 2 (MUNMAP): the result was 0, expected 1" in messages


def test_ctrl_c_gives_what_there_is():
    """Two short points, one after the other, then a long one."""
    words = (*SIM, "--jobs", "1", "--cpus", "4", "--workload", "spf_test,page_fault1", "--size", "1M",
             "--seconds", "1000", "--json", "-")
    with subprocess.Popen([sys.executable, "-m", "shmm.cluster", *words], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=os.environ | {"NO_COLOR": "1"}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/4]"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(out)
    assert found["interrupted"] is True and "error" not in found
    assert [run["workload"] for run in found["runs"]] == ["spf_test"] * 2
    assert "interrupted: these are the figures until then" in err


def test_ctrl_c_at_once_has_nothing(capsys, monkeypatch):
    def stops(*_: Any, interrupted: Any, **__: Any) -> None:
        raise simulate.Interrupted([None, None])

    monkeypatch.setattr(simulate, "run_points", stops)
    found = document(*SIM, "--cpus", "1", status=130, capsys=capsys)
    assert found["runs"] == [] and found["interrupted"] is True
