"""Replays on the native engine: the faults happen again, the machine stays whole, the report says what it must."""

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import ANON, Story, translation_of

from shmm.cluster import replay
from shmm.cluster.__main__ import main
from shmm.cluster.launch import Cluster
from shmm.cluster.replay.presence import FAULTS
from shmm.cluster.replay.trace import parse, read
from shmm.layout import CONSTANTS, COUNTERS

TRACES = Path(__file__).parent / "traces"
NAMES = ("threads", "remap", "spawn", "shell", "fixed", "memory", "bgsave", "jvm", "worker")
TOLD = NAMES[5:]                        # of `shmm record`
SCHEMES = ("mmap_lock", "spf")
BASE, LIB = 0x555555000000, 0x7F0000000000


def shmm(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run([sys.executable, "-m", "shmm.cluster", *words], capture_output=True, text=True, timeout=100,
                          env={**os.environ, "NO_COLOR": "1"})


def measure(recorded, scheme: str = "spf", **config):
    """The entry of one replay, and how many faults each recorded one took."""
    translation = replay.translate(recorded, config.get("fault_around", 16))
    job = replay.job_of("test", translation)
    taken = []

    def at_rest(segment):
        taken.extend(replay.result_words(segment, translation.faults).tolist())

    point = replay.ReplayConfig(scheme=scheme, cpus=len(job.programs), **config)
    with Cluster(point, job, at_rest=at_rest) as cluster:
        measurement = cluster.run(None)
    return measurement, taken, translation


# ---- recordings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_recorded_faults_happen_again(name, tmp_path):
    path = tmp_path / "out.json"
    assert main(["replay", str(TRACES / f"{name}.txt.xz"), "--paranoid", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert [run["scheme"] for run in document["runs"]] == list(SCHEMES)
    for run in document["runs"]:
        assert run["violations"] == run["frames_leaked"] == run["failed_calls"] == 0, run["violation_messages"]
        assert run["replayed_faults"] >= 0.99 * run["recorded_faults"], run["missing_faults"]
        assert run["extra_faults"] == 0
        assert sum(run["missing_faults"].values()) == run["recorded_faults"] - run["replayed_faults"]


@pytest.mark.parametrize("name", TOLD)
def test_they_happen_again_for_the_same_reason(name):
    """A page that is not there, or one that must not be written: as the recorded kernel found it."""
    translation = translation_of(read(TRACES / f"{name}.txt.xz"))
    assert translation.differed.total() <= 0.002 * len(translation.expected)
    assert translation.counts["kernel-mode faults"] > 0 and translation.counts["mappings of execs"] > 5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_the_engine_faults_where_the_model_says(name, scheme):
    """Two independent judges of one trace: tables and locks on one side, a dictionary of pages on the other."""
    measurement, taken, translation = measure(read(TRACES / f"{name}.txt.xz"), scheme)
    assert measurement.violations == () and measurement.frames_leaked == 0
    for number, (faults, expected) in enumerate(zip(taken, translation.expected, strict=True)):
        wanted = 1 if expected == FAULTS else -14 if expected in ("no permission", "not mapped") else 0
        assert faults == wanted, (number, expected)


@pytest.mark.parametrize("policy", [
    {"walk": "rcu", "table_free": "rcu"}, {"ipi": "signal"}, {"fault_around": 1}, {"force_speculation": True},
    {"start_method": "forkserver"},
], ids=str)
def test_policies_change_no_fault(policy):
    _, taken, translation = measure(read(TRACES / "shell.txt.xz"), **policy)
    assert sum(faults > 0 for faults in taken) >= 0.99 * len(translation.expected)


def test_speculation_is_tried_by_threads_and_counted():
    measurement, _, _ = measure(read(TRACES / "threads.txt.xz"))
    counters = dict(zip(COUNTERS, measurement.counters.sum(axis=0).tolist(), strict=True))
    assert counters["spf_attempt"] > 1000
    assert counters["spf_attempt"] == counters["spf_success"] + counters["spf_abort"]
    assert counters["SPF_ABORT_ODD"] == counters["SPF_ABORT_PTE_MAP_LOCK_SEQ1"] == 0     # one event at a time


# ---- stories -------------------------------------------------------------------------------------------------------


def test_two_threads_that_fault_at_once_are_one_fault_and_the_report_says_so(tmp_path):
    story = Story()
    story.image("a", 10, BASE)
    story.mmap("a", 10, LIB, 0x10000)
    story.call("a", 10, "clone3", 11, uargs=1, size=88)
    story.exit("a", (10, 11), "clone3", 0)
    for thread in (10, (10, 11)):
        story.fault("a", thread, LIB, "w", BASE)
    path = tmp_path / "race.txt"
    path.write_text("\n".join(story.lines))
    done = shmm("replay", str(path), "--json", "-", "--scheme", "spf")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["missing_faults"] == {"two threads faulted on it at once": 1}
    assert "two threads faulted on it at once" in done.stderr


def test_more_processes_in_turn_than_slots():
    story = Story()
    story.image("sh", 10, BASE)
    for child in range(100, 100 + CONSTANTS["MAX_MM"] + 10):
        story.call("sh", 10, "clone", child, clone_flags=0x1200011)
        story.exit("sh", child, "clone", 0)
        story.fault("sh", child, BASE + 0x40000, "cow", BASE)
    _, taken, translation = measure(story.trace())
    assert translation.slots < 5 and set(taken) == {1}


def test_more_threads_in_turn_than_cpus():
    story = Story()
    story.image("a", 10, BASE)
    story.mmap("a", 10, LIB, 0x10000000)
    for n in range(CONSTANTS["MAX_CPU"] + 10):
        story.call("a", 10, "clone3", 100 + n, uargs=1, size=88)
        story.exit("a", (10, 100 + n), "clone3", 0)
        story.fault("a", (10, 100 + n), LIB + n * 4096, "w", BASE)
    _, taken, translation = measure(story.trace())
    assert len(translation.programs) < 5 and set(taken) == {1}


@pytest.mark.parametrize(("what", "says"), [("threads", "1024 threads at once"), ("processes", "63 processes at once")])
def test_more_than_fits_at_once_is_one_clear_line(tmp_path, what, says):
    story = Story()
    for turn in range(2):
        for n in range(1100 if what == "threads" else 70):
            who = (10, 10 + n) if what == "threads" else 10 + n
            story.fault("a", who, LIB + n * 0x10000000 + turn * 4096, "w")
    path = tmp_path / "many.txt"
    path.write_text("\n".join(story.lines))
    done = shmm("replay", str(path))
    assert done.returncode == 3
    assert says in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_reservations_and_huge_files_cost_what_is_used():
    story = Story()
    story.image("a", 10, BASE)
    story.mmap("a", 10, LIB - (1 << 42), 1 << 41, prot=0, flags=ANON | 0x4000)
    story.mmap("a", 10, LIB - (1 << 40), 1 << 40, prot=1, flags=1, fd=3)
    for n in range(20):
        story.fault("a", 10, LIB - (1 << 40) + n * 0x100000, "r", BASE)
    story.fault("a", 10, LIB - 4096, "r", BASE)                 # beyond what a file can have here
    translation = translation_of(story.trace())
    assert replay.job_of("huge", translation).geometry().size < 100 << 20
    _, taken, _ = measure(story.trace())
    assert taken[-1] == -CONSTANTS["SIGBUS"] and set(taken[:-1]) == {1}


def test_faults_that_ended_in_a_signal_do_so_again():
    story = Story()
    story.image("a", 10, BASE)
    story.mmap("a", 10, LIB, 0x10000, prot=1)
    story.fault("a", 10, LIB, "w", BASE)
    story.fault("a", 10, 0x8, "r", BASE)
    _, taken, translation = measure(story.trace())
    assert taken[-2:] == [-14, -14] and translation.expected[-2:] == ["no permission", "not mapped"]


def test_shared_memory_attached_anew_faults_anew():
    story = Story()
    story.image("a", 10, BASE)
    for _ in range(2):
        for page in range(16):
            story.fault("a", 10, LIB + page * 4096, "w", BASE)
    _, taken, translation = measure(story.trace())
    assert set(taken) == {1} and translation.counts["inferred mappings renewed"] == 1


def test_a_trace_of_flushes_alone_replays_nothing():
    story = Story()
    story.flush("a", 10)
    _, taken, _ = measure(story.trace())
    assert taken == []


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done():
    """What a replay prints."""
    return shmm("replay", str(TRACES / "threads.txt.xz"), "--json", "-")


def test_document_has_the_promised_keys(done):
    document = json.loads(done.stdout)
    assert document["schema"] == "shmm.replay/1"
    about = document["trace"]
    assert (about["events"], about["threads"], about["faults"], about["unparsed"]) == (3420, 6, 2730, 0)
    assert {"host", "warnings"} <= set(document)
    for run in document["runs"]:
        assert run["recorded_faults"] == 2730 and run["cpus"] == 6
        flushes = sum(run["counters"][name] for name in replay.FLUSHES)
        assert run["tlb_flushes"] == flushes > 0 and run["recorded_tlb_flushes"] == 303
        assert run["policies"]["fault_around"] == 16


def test_report_shows_both_schemes_and_what_to_know(done):
    assert done.returncode == 0
    for text in ("mmap_lock", "spf", "2730", "one at a time", "TLB flushes"):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("contents", "says"), [
    (b"", "no memory event"), (b"nothing of the kind\n", "nothing of the kind"),
    (lzma.compress(b"x" * 100000)[:-30], "truncated"),
])
def test_files_that_are_no_trace_are_one_clear_line(tmp_path, contents, says):
    path = tmp_path / "trace.txt"
    path.write_bytes(contents)
    done = shmm("replay", str(path))
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize("words", [
    ("missing.txt",), (), ("x", "--scheme", "none"), ("x", "--fault-around", "3"), ("x", "--walk", "rcu"),
])
def test_usage_errors(words):
    done = shmm("replay", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_lines_that_are_no_event_are_told(tmp_path):
    path = tmp_path / "torn.txt"
    text = lzma.decompress((TRACES / "remap.txt.xz").read_bytes()).decode()
    path.write_text(text[:40000] + "\n[ perf record: Woken up ]\n" + text[40000:])
    document = tmp_path / "out.json"
    assert main(["replay", str(path), "--scheme", "spf", "--json", str(document)]) == 0
    about = json.loads(document.read_text())["trace"]
    assert about["unparsed"] >= 1 and about["first_unparsed"]


def test_model_and_parser_agree_about_a_line():
    trace = parse(["a 1/1 [000] 1.0: exceptions:page_fault_user: address=0x7f0000000000 ip=0x1000 error_code=0x6"])
    assert translation_of(trace).expected == [FAULTS]
