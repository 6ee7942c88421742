"""The record command: what perf is told, what becomes of what it says, and every way in which it cannot work."""

import json
import lzma
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shmm.cluster import doctor
from shmm.cluster.__main__ import main
from shmm.cluster.record import obstacles, perf
from shmm.cluster.replay.trace import read

FAKE = """#!{python}
import os, signal, subprocess, sys
log, mode = {log!r}, {mode!r}
with open(log, "a") as out:
    print(repr(sys.argv[1:]), file=out)
words = sys.argv[1:]
if words[0] == "record":
    if mode == "refuses":
        print("event syntax error: nothing of the kind", file=sys.stderr)
        sys.exit(255)
    at = words.index("--")
    with open(words[words.index("-o") + 1], "wb") as data:
        data.write(b"data" * (300 if mode == "large" else 1))
    if mode == "interrupted":
        os.kill(os.getppid(), signal.SIGINT)
        signal.sigwait([signal.SIGINT])
        sys.exit(0)
    status = subprocess.run(words[at + 1:]).returncode
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)
assert open(words[words.index("-i") + 1], "rb").read(4) == b"data"
if mode == "breaks":
    print("failed to open perf.data", file=sys.stderr)
    sys.exit(255)
print({text!r}, end="")
"""

TEXT = """\
         swapper     0/0     [000]     0.000000000: PERF_RECORD_MMAP -1/0: [0xffffffff81000000(0x1) @ 0]: x [kernel]
       perf-exec     0/0     [000]     0.000000000: PERF_RECORD_COMM: perf-exec:7/7
              ls     7/7     [000]     1.000000000: PERF_RECORD_COMM exec: ls:7/7
              ls     7/7     [000]     1.000001000: exceptions:page_fault_user: address=0x7f00 ip=0x7f00 error_code=0x14
              ls     7/7     [000]     1.000002000:       syscalls:sys_enter_brk: brk: 0x00000000
              ls     7/7     [000]     1.000003000:        syscalls:sys_exit_brk: 0x5592f2ac5000
              ls     7/7     [000]     1.000003500: PERF_RECORD_MMAP2 7/7: [0x1000(0x2000) @ 0 fe:00 26 0]: r-xp /me/x
              ls     7/8     [001]     1.000004000: exceptions:page_fault_user: address=0x8f00 ip=0x7f00 error_code=0x6
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A machine on which everything is as it should be, and a perf that only looks so."""
    folder, tracing = tmp_path / "bin", tmp_path / "tracing"
    folder.mkdir()
    for event in (*perf.REQUIRED, "tlb:tlb_flush"):
        (tracing / "events" / event.replace(":", "/")).mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"proc /proc proc rw 0 0\ntracefs {tracing} tracefs rw 0 0\n")
    monkeypatch.setattr(obstacles, "MOUNTS", str(mounts))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(mode: str = "", text: str = TEXT) -> Path:
        path, log = folder / "perf", tmp_path / "log"
        path.write_text(FAKE.format(python=sys.executable, log=str(log), mode=mode, text=text))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return log

    make.tracing, make.mounts = tracing, mounts
    return make


def record(tmp_path, *words: str, name: str = "out.txt") -> int:
    return main(["record", "-o", str(tmp_path / name), *words])


# ---- what perf is told, and what comes of it -----------------------------------------------------------------------


def test_the_command_lines(fake, tmp_path, capfd):
    log = fake()
    assert record(tmp_path, "--max-size", "5M", "--", "true", "-x", "--", "y") == 0
    recording, printing = (eval(line) for line in log.read_text().splitlines())
    assert recording[0] == "record" and recording[recording.index("--") + 1:] == ["true", "-x", "--", "y"]
    assert recording[recording.index("--max-size") + 1] == "5M"
    told = recording[recording.index("-e") + 1].split(",")
    assert told == [*perf.REQUIRED, "tlb:tlb_flush"]                # what this kernel has, and no more
    assert {"-d", "-N", "-B"} <= set(recording)                     # mappings of data; nothing in ~/.debug
    path = recording[recording.index("-o") + 1]
    assert path == printing[printing.index("-i") + 1] and not os.path.exists(path)
    assert printing[printing.index("-F") + 1] == "comm,pid,tid,cpu,time,event,trace"
    assert "2 user page faults and 1 calls of 2 threads" in capfd.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"bin", "tracing", "mounts", "log", "out.txt"}


@pytest.mark.parametrize("name", ["out.txt", "out.txt.xz"])
def test_what_is_written_can_be_replayed(fake, tmp_path, name):
    fake()
    assert record(tmp_path, "--", "true", name=name) == 0
    path = tmp_path / name
    assert path.read_bytes().startswith(b"\xfd7zXZ") == name.endswith(".xz")
    text = (lzma.open if name.endswith(".xz") else open)(path, "rt").read()
    assert text.startswith("# recorded by shmm record: true\n")
    kept = TEXT.replace("/me/x", "(a file)").splitlines()[2:]      # no names; nothing of perf's about itself
    assert text.splitlines()[1:] == kept
    trace = read(path)
    assert trace.faults == 2 and trace.unparsed == 0


@pytest.mark.parametrize(("script", "status", "says"), [
    ("exit 0", 0, "replay it with"), ("exit 3", 3, "exit status 3"), ("kill -KILL $$", 137, "signal 9"),
])
def test_the_program_s_exit_status_is_passed_on(fake, tmp_path, capfd, script, status, says):
    fake()
    assert record(tmp_path, "--", "sh", "-c", script) == status
    assert says in capfd.readouterr().err


def test_the_program_keeps_its_streams(tmp_path):
    """As a user sees it; if this machine cannot record, it says so and runs nothing."""
    words = [sys.executable, "-m", "shmm.cluster", "record", "-o", str(tmp_path / "out.txt"), "--", "tr", "a-z", "A-Z"]
    done = subprocess.run(words, input="hello", capture_output=True, text=True, timeout=100)
    if obstacles.find() is None:
        assert (done.returncode, done.stdout) == (0, "HELLO")
    else:
        assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("shmm: ") and "Traceback" not in done.stderr


def test_an_interruption_keeps_what_was_recorded(fake, tmp_path, capfd):
    fake("interrupted")
    before = signal.getsignal(signal.SIGINT)
    assert record(tmp_path, "--", "sleep", "100") == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert read(tmp_path / "out.txt").faults == 2


def test_lost_events_are_told(fake, tmp_path, capfd):
    lost = "              ls     7/7     [000]     1.000002500: PERF_RECORD_LOST lost 41\n"
    fake(text=TEXT + lost + lost)
    assert record(tmp_path, "--", "true") == 0
    assert "perf lost 82 events" in capfd.readouterr().err


def test_a_full_recording_is_told(fake, tmp_path, capfd):
    fake("large")
    assert record(tmp_path, "--max-size", "1K", "--", "true") == 0
    assert "perf's data reached 1K" in capfd.readouterr().err


# ---- what cannot work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "text", "says"), [
    ("refuses", TEXT, "ended with status 255; what it said is above"),
    ("breaks", TEXT, "perf script failed: failed to open perf.data"),
    ("", "", "perf has recorded nothing"),
])
def test_a_perf_that_fails_leaves_nothing(fake, tmp_path, capfd, mode, text, says):
    fake(mode, text)
    assert record(tmp_path, "--", "true") == 3
    assert says in capfd.readouterr().err
    assert not (tmp_path / "out.txt").exists()


def said(tmp_path, capfd) -> str:
    """The one line with which a recording that cannot be is refused."""
    assert record(tmp_path, "--", "true") == 3
    text = capfd.readouterr().err
    assert text.startswith("shmm: cannot record: ") and text.count("\n") == 1
    assert not (tmp_path / "out.txt").exists()
    assert doctor.check_recording() == (doctor.WARN, f"`shmm record` cannot work here: {text[21:-1]}")
    return text


def test_without_perf(fake, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install linux-perf" in said(tmp_path, capfd)


def test_without_root(fake, tmp_path, capfd, monkeypatch):
    fake()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "paranoid").write_text("2\n")
    monkeypatch.setattr(obstacles, "PARANOID", str(tmp_path / "paranoid"))
    text = said(tmp_path, capfd)
    assert "sudo" in text and "perf_event_paranoid=-1" in text
    (tmp_path / "paranoid").write_text("-1\n")
    assert obstacles.find() is None


def test_without_tracefs(fake, tmp_path, capfd):
    fake()
    fake.mounts.write_text("proc /proc proc rw 0 0\n")
    assert "mount -t tracefs tracefs /sys/kernel/tracing" in said(tmp_path, capfd)
    fake.mounts.write_text(f"debugfs {tmp_path} debugfs rw 0 0\n")      # tracefs shows below it
    assert obstacles.find() is None


def test_without_the_tracepoints(fake, tmp_path, capfd):
    fake()
    (fake.tracing / "events" / "exceptions" / "page_fault_user").rmdir()
    assert "no tracepoint exceptions:page_fault_user" in said(tmp_path, capfd)


@pytest.mark.parametrize(("name", "status", "says"), [
    ("no-such-program", 127, "no such program in PATH"), ("./no/such", 127, "no such program"),
    ("{}/mounts", 126, "not executable"), ("/etc", 126, "is a directory"),
])
def test_programs_that_cannot_be_run(fake, tmp_path, capfd, name, status, says):
    log = fake()
    assert record(tmp_path, "--", name.format(tmp_path)) == status
    assert says in capfd.readouterr().err
    assert not log.exists() and not (tmp_path / "out.txt").exists()


def test_an_output_that_cannot_be_written_is_told_before_the_program_runs(fake, tmp_path, capfd):
    log = fake()
    assert record(tmp_path, "--", "true", name="no/such/folder") == 2
    assert "No such file or directory" in capfd.readouterr().err and not log.exists()


@pytest.mark.parametrize("words", [
    (), ("--",), ("--seconds", "0", "--", "true"), ("--max-size", "many", "--", "true"),
    ("--max-size", "0G", "--", "true"),
])
def test_usage_errors(tmp_path, words):
    with pytest.raises(SystemExit) as caught:
        record(tmp_path, *words)
    assert caught.value.code == 2


# ---- for real --------------------------------------------------------------------------------------------------------


def test_a_real_recording_replays(tmp_path, capfd):
    path, out = tmp_path / "real.txt.xz", tmp_path / "real.json"
    status = main(["record", "-o", str(path), "--", "sh", "-c", "ls / | sort | wc -l; exit 5"])
    text = capfd.readouterr().err
    obstacle = obstacles.find()
    if obstacle is not None:                    # this machine cannot, and must say why
        assert status == 3 and text == f"shmm: cannot record: {obstacle}\n" and not path.exists()
        return
    assert status == 5 and "exit status 5" in text
    assert main(["replay", str(path), "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["trace"]["unparsed"] == 0
    for run in document["runs"]:
        assert run["replayed_faults"] >= 0.99 * run["recorded_faults"] > 300, run["missing_faults"]
        assert run["extra_faults"] <= 0.01 * run["recorded_faults"] and run["violations"] == 0
