"""`shmm check` from outside: exit statuses, tables, the JSON document that others rely on."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import stderr_on_a_terminal

from shmm.cluster.__main__ import main
from shmm.cluster.check import mutants, questions, schedule
from shmm.cluster.check.scenario import ScenarioError, available
from shmm.segment import SegmentError

SPARE = "VMA_COPY"
ENVIRONMENT = {**os.environ, "NO_COLOR": "1"}
RUN_KEYS = {"scenario", "scheme", "variant", "mutant", "strategy", "bound", "memory", "schedules", "steps", "exhausted",
            "seconds", "sequential_orders", "states", "violation"}
VIOLATION_KEYS = {"invariant", "what", "schedule", "preemptions", "steps", "source", "other_source"}
MUTANT_KEYS = {"mutant", "group", "missing", "killed", "scenario", "scheme", "memory", "strategy", "schedules",
               "preemptions", "invariant", "schedule", "explanation"}


def shmm(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run([sys.executable, "-m", "shmm.cluster", "check", *words], capture_output=True, text=True,
                          timeout=100, env=ENVIRONMENT)


# ---- the document ------------------------------------------------------------------------------------------


def test_the_document_of_an_exploration():
    done = shmm("fault_munmap", "two_faults", "--memory", "sc,weak", "--variant", "base", "--bound", "1", "--seed", "7",
                "--json", "-")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema"], document["seed"], document["warnings"]) == ("shmm.check/1", 7, [])
    assert {"kernel", "cpu_model", "cores", "python", "shmm"} <= set(document["host"])
    points = [(run["scenario"], run["scheme"], run["variant"], run["memory"]) for run in document["runs"]]
    assert points == [(scenario, scheme, "base", memory) for scenario in ("fault_munmap", "two_faults")
                      for scheme in ("mmap_lock", "spf") for memory in ("sc", "weak")]
    for run in document["runs"]:
        assert set(run) >= RUN_KEYS
        assert (run["mutant"], run["strategy"], run["bound"], run["violation"]) == (None, "dfs", 1, None)
        assert run["exhausted"] is True and run["schedules"] > 0 and run["steps"] > 0 and run["seconds"] > 0
    assert "fault_munmap" in done.stderr


def test_the_document_of_a_violation(tmp_path):
    saved, kept, timeline = tmp_path / "out.json", tmp_path / "kept", tmp_path / "timeline.json"
    done = shmm("fault_munmap", "--scheme", "spf", "--variant", "base", "--mutant", "SEQ2", "--json", str(saved),
                "--keep", str(kept), "--timeline", str(timeline))
    assert done.returncode == 1, done.stderr
    (run,) = json.loads(saved.read_text())["runs"]
    found = run["violation"]
    assert run["mutant"] == "SEQ2" and set(found) >= VIOLATION_KEYS
    assert (found["invariant"], found["preemptions"], found["other_source"]) == ("I2", 1, None)
    assert f"shmm check --replay {found['schedule']}" in done.stdout
    assert re.search(r"^CPU 0 +CPU 1$", done.stdout, re.MULTILINE) and "\x1b" not in done.stdout + done.stderr
    (path,) = kept.iterdir()
    assert schedule.format(schedule.read(path)[0]) == found["schedule"]
    assert json.loads(timeline.read_text())["traceEvents"]


def test_the_document_of_mutants(tmp_path):
    done = shmm("--mutants", "--mutant", f"SEQ2,PTE_NONE,{SPARE}", "--json", "-", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    by_name = {mutant["mutant"]: mutant for mutant in document["mutants"]}
    assert set(by_name) == {"SEQ2", "PTE_NONE"}
    (spare,) = document["spare"]
    for mutant in (*document["mutants"], spare):
        assert set(mutant) >= MUTANT_KEYS
    assert by_name["SEQ2"]["killed"] and by_name["SEQ2"]["group"] == "spf" and by_name["SEQ2"]["invariant"] == "I2"
    assert by_name["SEQ2"]["schedules"] > 0 and by_name["SEQ2"]["preemptions"] == 1
    assert spare["mutant"] == SPARE and not spare["killed"] and spare["explanation"] and spare["schedules"] > 10_000
    assert {run["mutant"] for run in document["runs"]} == {*by_name, SPARE}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["PTE_NONE.txt", "SEQ2.txt"]
    assert f"{SPARE}: spare, not missed in " in done.stderr


def test_a_protection_that_nobody_misses_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(mutants, "SPARE", "none")
    assert main(["check", "--mutants", "--mutant", SPARE, "--jobs", "1"]) == 1
    assert "survives" in capsys.readouterr().out


def test_the_mutants_plans_name_what_exists():
    names = {mutant.mutant for mutant in mutants.tasks((), 1)}
    assert set(mutants.PLANS) <= names
    assert set(mutants.EXPLANATIONS) == {mutant.mutant for mutant in mutants.tasks((), 1) if mutant.group == "spare"}
    for plan in (*mutants.PLANS.values(), *mutants.GROUPS.values()):
        assert set(plan.scenarios) <= set(available())


# ---- what people see ---------------------------------------------------------------------------------------


def test_the_table(capsys):
    assert main(["check", "two_faults", "--scheme", "spf", "--bound", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"two_faults +spf +base +sc +dfs 1 .*exhausted +fine", out)


def test_sampling_is_not_said_to_be_all(capsys):
    assert main(["check", "two_faults", "--scheme", "spf", "--strategy", "pct", "--schedules", "300"]) == 0
    assert re.search(r"pct 3 +300 .*sampled +fine", capsys.readouterr().out)


def test_what_was_cut_short_is_said(capsys):
    assert main(["check", "two_faults", "--scheme", "spf", "--variant", "base", "--schedules", "100"]) == 0
    out = capsys.readouterr().out
    assert "cut short" in out and "warning: 1 of the explorations were cut short: " in out


def test_lists(capsys):
    assert main(["check", "--list"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == len(available()) and all(name in out for name in available())
    assert main(["check", "--questions"]) == 0
    assert "irq-off" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(questions.QUESTIONS))
def test_questions_are_answered(name, capsys):
    question = questions.find(name)
    assert main(["check", "--question", name]) == 0
    out = " ".join(capsys.readouterr().out.split())                 # however the lines are broken
    assert " ".join(question.asked.split()) in out and " ".join(question.answer.split()) in out
    for mutant in question.mutants:
        assert f"/{mutant}:" in out


def test_a_terminal_gets_a_live_view():
    seen = stderr_on_a_terminal("check", "two_faults", "--scheme", "spf")
    assert b"two_faults, spf, base, sc" in seen and b"schedules/s" in seen


# ---- replay ------------------------------------------------------------------------------------------------


def test_replay_of_a_word_and_of_a_file(tmp_path, capsys):
    main(["check", "fault_munmap", "--scheme", "spf", "--variant", "base", "--mutant", "SEQ2", "--keep", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    word = schedule.format(schedule.read(path)[0])
    capsys.readouterr()
    for what in (word, str(path)):
        assert main(["check", "--replay", what]) == 1
        assert "I2: mm 1: page mapped outside any VMA" in capsys.readouterr().out
        assert main(["check", "--replay", what, "--without-mutant"]) == 0
        assert "nothing is broken" in capsys.readouterr().out


# ---- exit statuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    ([], "say what to check"),
    (["--list", "--all"], "one of them"),
    (["--all", "--scheme", "rcu"], "there is no scheme 'rcu'; there are mmap_lock, spf"),
    (["--all", "--variant", "x"], "there is no variant 'x'; there are base, rcu, signal"),
    (["--all", "--memory", "arm"], "there is no memory model 'arm'; there are sc, tso, weak"),
    (["--all", "--mutant", "SEQ3"], "there is no mutant 'SEQ3'"),
    (["--all", "--mutant", "SEQ1,SEQ2"], "one at a time, or with --mutants"),
    (["--all", "--strategy", "bfs"], "there is no strategy 'bfs'"),
    (["--all", "--bound", "-1"], "not a number from 0 to 8"),
    (["--all", "--depth", "two"], "not a number from 0 to 8"),
    (["--all", "--schedules", "0"], "not a number greater than 0"),
    (["--all", "--without-mutant"], "--without-mutant goes with --replay"),
    (["--all", "--json", "/nonexistent/x.json"], "cannot write /nonexistent/x.json"),
    (["--all", "--timeline", "/tmp"], "it is a directory"),
    (["--all", "--keep", __file__], "is not a directory"),
])
def test_usage_errors(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["check", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["nothing"], "there is no scenario 'nothing'; there are collapse_dontneed, cow_aba"),
    (["--question", "why"], "there is no question 'why'; there are"),
    (["--replay", "two_faults/spf/base/sc/NONE:zz"], "'zz' is not a deviation"),
    (["--replay", "/nonexistent"], "cannot read /nonexistent"),
])
def test_what_does_not_exist_is_one_line(words, message, capsys):
    assert main(["check", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("shmm: ") and message in err and err.count("\n") == 1


def test_ctrl_c_keeps_what_there_is(tmp_path):
    saved = tmp_path / "out.json"
    words = ["two_faults", "downgrade_window", "--scheme", "spf", "--variant", "base", "--bound", "3", "--jobs", "1",
             "--json", str(saved)]
    process = subprocess.Popen([sys.executable, "-m", "shmm.cluster", "check", *words], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in process.stderr:
        if line.startswith("[1/2]"):
            process.send_signal(signal.SIGINT)
            break
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: this is what was explored until then" in out
    document = json.loads(saved.read_text())
    assert document["interrupted"] is True and document["runs"][0]["scenario"] == "two_faults"


def test_a_worker_that_dies_is_said(monkeypatch, capfd):
    from shmm.cluster import check

    monkeypatch.setattr(check, "explore_one", lambda task, tell: os.kill(os.getpid(), signal.SIGKILL))
    assert main(["check", "two_faults", "--scheme", "spf", "--variant", "base"]) == 1
    assert "the process that worked on two_faults, spf, base, sc died (exit status -9)" in capfd.readouterr().err


@pytest.mark.parametrize(("error", "status"), [
    (ScenarioError("scenario bad: CPU 0's set-up fails"), 2), (SegmentError("there is no /dev/shm"), 3),
    (RuntimeError("what?"), 1),
])
def test_what_a_worker_raises_is_said(error, status, monkeypatch, capfd):
    from shmm.cluster import check

    def fail(task, tell):
        raise error

    monkeypatch.setattr(check, "explore_one", fail)
    assert main(["check", "two_faults", "--scheme", "spf"]) == status
    assert str(error) in capfd.readouterr().err


def test_the_scenarios_lie_in_the_package():
    import shmm.scenarios

    (folder,) = map(Path, shmm.scenarios.__path__)
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(available())
