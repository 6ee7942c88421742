"""`run --engine host`: the workloads on this machine's own kernel, in the document and table of the emulated ones."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shmm.cluster import host, options, sizing
from shmm.cluster.__main__ import main
from shmm.cluster.config import HOST, Config, Job
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.doctor import check_host_kernel
from shmm.cluster.workloads import RW, WorkloadError, available
from shmm.layout import COUNTERS
from shmm.program import Program

MEASURED = {"ops", "pgfault", "syscalls", "mmap", "munmap", "mprotect", "brk", "madvise"}
WORKLOADS = sorted(set(available()) - {"uprobe"})


def config(workload: str = "page_fault1", **more) -> Config:
    """A short point."""
    return Config(engine=HOST, workload=workload, **{"cpus": 2, "seconds": 0.05, "size": None, "warmup": 0.0} | more)


def job(*programs: Program, **more) -> Job:
    """A job of these programs."""
    return Job("test", [program.array() for program in programs], 64, **{"finite": True} | more)


def shmm(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run([sys.executable, "-m", "shmm.cluster", *words], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "NO_COLOR": "1"})


def alone(pid: int) -> bool:
    """Whether the process is gone."""
    return not Path(f"/proc/{pid}").exists()


# ---- the document ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def document():
    """One workload on both engines."""
    done = shmm("run", "--engine", "native,host", "--cpus", "1,2", "--size", "2M", "--seconds", "0.2", "--repeats", "2",
                "--scheme", "spf", "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_host_stands_beside_the_emulated_machine(document):
    runs = document[0]["runs"]
    assert [(run["engine"], run["scheme"], run["cpus"]) for run in runs] == [
        ("native", "spf", 1), ("native", "spf", 2), ("host", "host", 1), ("host", "host", 2)]
    for run in runs[2:]:
        assert set(runs[0]) | {"kernel"} == set(run)
        assert (run["machine"], run["clock"], run["start_method"], run["repeats"]) == (None, "wall", None, 2)
        assert run["bytes_per_cpu"] == 2 << 20 and run["violations"] == 0 and run["frames_leaked"] == 0
        assert sum(run["per_cpu_ops"]) == run["ops"] > 0
        assert run["ops_per_s"] == pytest.approx(run["ops"] / run["seconds"])
        assert set(run["counters"]) == set(COUNTERS)
        assert {name for name, value in run["counters"].items() if value} <= MEASURED
        assert run["policies"]["scheme"] == "host" and run["policies"]["walk"] is None
        assert run["counters"]["pgfault"] >= run["ops"] > 100 * run["counters"]["mmap"]


def test_the_table_names_the_kernel(document):
    table = document[1]
    assert re.search(r"^page_fault1 +2 +spf ", table, re.MULTILINE)
    assert re.search(r"^page_fault1 +2 +host +[\d.]+ [kMG]? ", table, re.MULTILINE)
    kernel = re.escape(os.uname().release)
    assert re.search(rf"^warning: host: Linux {kernel} itself, with its own locking", table, re.MULTILINE)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_runs(workload):
    size = None if workload in ("brk1", "tlb_flush2", "ebizzy") else 2 << 20
    seen: list[int] = []
    try:                                    # until it has done something, however long this machine takes for it
        run = host.run_point(config(workload, seconds=60.0, size=size), interrupted=lambda: max(seen, default=0) > 50,
                             progress=lambda run, seconds, ops: seen.append(ops))
    except Interrupted as stopped:
        run = stopped.result
    assert run["violations"] == 0 and run["ops"] > 50, run["violation_messages"]
    counters = run["counters"]
    assert counters["unexpected"] == counters["faults_segv"] == counters["faults_sigbus"] == 0
    assert counters["syscalls"] >= counters["mmap"] > 0
    touching = workload.startswith(("page_fault", "pft", "spf_test", "tlb_flush2", "ebizzy"))
    assert (counters["pgfault"] >= counters["ops"]) == touching


def test_a_finite_workload_does_exactly_what_it_says():
    run = host.run_point(config("spf_test", workload_args=("8", "16"), size=1 << 20))
    assert run["per_cpu_ops"] == [128, 128]
    assert run["counters"]["pgfault"] >= 256                # with transparent huge pages it would be one or two
    assert run["counters"]["mmap"] == 2 * (8 + 1) and run["counters"]["munmap"] == 0
    assert run["host_faults"] == run["counters"]["pgfault"]


def test_a_clock_measures_a_part():
    p = Program()
    p.clock(True)
    p.ops(5)
    p.clock(False)
    with p.repeat(100_000, 1):
        p.nop()
    run = host.HostRun(config(), job(p), lambda: False, None)
    with run.host:
        measured = run.run(None)
        state = run.control.cpu(0)
    assert measured.ops.tolist() == [5]
    assert 0 < measured.seconds * 1e9 < state["ended_ns"] - state["begun_ns"]


def test_random_numbers_follow_the_seed_and_differ_between_cpus_and_repeats():
    from shmm.cluster.launch import seed_of

    seen = []
    p = Program()
    p.rand(1, 1 << 30)
    run = host.HostRun(config(seed=9), job(p, p), lambda: False, None)
    with run.host:
        for _ in range(2):
            run.run(None)
            seen += [run.control.cpu(cpu)["registers"][1] for cpu in range(2)]

    def first(x: int) -> int:
        x ^= x >> 12
        x = (x ^ (x << 25)) % 2**64
        x ^= x >> 27
        return (x * 0x2545f4914f6cdd1d % 2**64 >> 33) % (1 << 30)

    assert seen == [first(seed_of(9, repeat, cpu)) for repeat in range(2) for cpu in range(2)]
    assert len(set(seen)) == 4


def test_cpus_are_pinned_where_they_are_told():
    p = Program()
    with p.repeat(1000, 1):
        p.nop()
    cores = sorted(os.sched_getaffinity(0))
    run = host.run_point(config(cpus=3, pin=True), job(p, p, p))
    assert set(run["pinned"]) <= set(cores) and len(run["pinned"]) == 3
    assert host.run_point(config(cpus=3, pin=False), job(p, p, p))["pinned"] is None


# ---- what goes wrong -------------------------------------------------------------------------------------------------

def test_a_program_that_meets_what_it_did_not_expect_is_a_violation():
    p, q = Program(), Program()
    p.barrier()
    p.mmap(0, 4096, RW, 0x22, dst=1)
    p.load(0, base=1, expect=3)
    q.barrier()
    with q.forever():
        q.nop()
    run = host.run_point(config(), job(p, q))
    assert run["violation_messages"] == ["CPU 0: its program failed at record 2 (LOAD): the result was 0, expected 3"]
    assert run["violations"] == 1 and run["counters"]["unexpected"] == 1


@pytest.mark.parametrize("seconds", [60.0, None])
def test_an_interrupted_run_says_what_it_measured(seconds):
    asked = []
    finite = seconds is None
    p = Program()
    with p.forever():
        p.ops(1)
    with pytest.raises(Interrupted) as stopped:
        host.run_point(config(seconds=60.0), job(p, p, finite=finite), interrupted=lambda: bool(asked),
                       progress=lambda run, time, ops: asked.append(ops) if ops else None)
    assert stopped.value.result["interrupted"] and stopped.value.result["ops"] > 0
    assert stopped.value.result["seconds"] < 30


@pytest.mark.parametrize("victim", ["executor", "zygote"])
def test_a_killed_process_is_named_and_leaves_nothing(victim):
    p = Program()
    with p.forever():
        p.nop()
    pids = []

    def strike(*_) -> None:
        pids[:] = pids or [run.control.pid(0), run.host.process.pid]
        os.kill(pids[victim == "zygote"], signal.SIGKILL)

    run = host.HostRun(config(), job(p, p), lambda: False, None)
    run.progress = strike
    said = {"executor": r"^the process on the host's kernel was killed by SIGKILL \(by hand, or .*\): "
                        r"CPU 0 at record \d \((NOP|JMP)\); CPU 1 at record \d \((NOP|JMP)\)$",
            "zygote": r"^the process that executes programs was killed by SIGKILL$"}[victim]
    with run.host, pytest.raises(ClusterError, match=said):
        run.run(60.0)
    assert alone(pids[1]) and (victim == "zygote" or alone(pids[0]))


def test_too_little_memory_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr(host, "memory_available", lambda: 100 << 20)
    with pytest.raises(MemoryError, match=r"^page_fault1 on 2 CPUs needs 256 MiB of real memory, 100 MiB are "
                                          r"available: use --size 2M$"):
        host.run_point(config(size=128 << 20))


def test_the_original_size_is_used_where_it_fits(monkeypatch):
    monkeypatch.setattr(sizing, "memory_available", lambda: 8 << 30)
    assert sizing.job_for(config(cpus=16)).bytes_per_cpu == 128 << 20
    assert sizing.job_for(config(cpus=64)).bytes_per_cpu < 128 << 20


def test_what_means_nothing_here_is_refused():
    with pytest.raises(WorkloadError, match=r"^uprobe traps into the kernel as a uprobe does"):
        host.run_point(config("uprobe"))
    p = Program()
    p.fork(2)
    with pytest.raises(WorkloadError, match=r"^test changes address spaces: on --engine host all CPUs are threads of"):
        host.run_point(config(), job(p))


@pytest.mark.parametrize(("words", "message"), [
    (["--scheme", "spf"], "--scheme does not apply to --engine host: its kernel is this machine's, as it is"),
    (["--paranoid"], "--paranoid does not apply to --engine host"),
    (["--no-zero"], "--no-zero does not apply to --engine host"),
    (["--walk", "rcu", "--table-free", "rcu"], "--walk does not apply to --engine host"),
    (["--start-method", "forkserver"], "--start-method does not apply to --engine host"),
    (["--machine", "skylake-2x28"], "--machine is what --engine sim models"),
    (["--vary", "transfer=10..200ns"], "--vary needs --engine sim"),
    (["--workload", "uprobe"], "--engine host has no PROBE to measure"),
    (["--engine", "guest"], "there is no engine 'guest'; there is native, sim, host, native,host"),
])
def test_usage_errors(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--engine", "host", "--cpus", "2", *words])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_both_engines_get_the_same_memory_per_task(monkeypatch):
    monkeypatch.setattr(sizing, "frame_budget", lambda cpus: 16 << 8)
    monkeypatch.setitem(sizing.BUDGETS, "native", lambda cpus: 16 << 8)
    parser_args = main_args("--engine", options.BESIDE, "--cpus", "2", "--workload", "page_fault1,brk1")
    points = options.points(parser_args)
    assert [(point.engine, point.workload) for point in points] == [
        ("native", "page_fault1")] * 2 + [("native", "brk1")] * 2 + [(HOST, "page_fault1"), (HOST, "brk1")]
    for point, like in ((points[4], points[0]), (points[5], points[2])):
        assert sizing.job_for(point).bytes_per_cpu == sizing.job_for(like).bytes_per_cpu
    assert options.modelled(parser_args) == []


def main_args(*words: str):
    """The parsed options of `run`."""
    from shmm.cluster.__main__ import build_parser

    return build_parser("run").parse_args(["run", *words])


def test_doctor_tries_the_hosts_kernel():
    verdict, text = check_host_kernel()
    assert verdict == "ok" and text.startswith(f"{os.uname().release} executes programs (--engine host), each in ")
