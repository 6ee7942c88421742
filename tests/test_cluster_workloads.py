"""Each workload does what its name promises, counted; and jobs that go wrong say so."""

from itertools import pairwise

import numpy as np
import pytest

from shmm.cluster import launch, results, sizing, topology, workloads
from shmm.cluster.config import Config, Job
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.launch import run_point, seed_of
from shmm.cluster.session import measure_all
from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task, WorkloadError

MIB = 1 << 20


def measure(workload: str, **changes) -> dict:
    """A short run that must be free of violations and leaks."""
    settings = {"cpus": 2, "seconds": 0.3, "size": 4 * MIB, "warmup": 0.0} | changes
    run = run_point(Config(workload=workload, **settings))
    assert run["violations"] == 0, run["violation_messages"]
    assert run["frames_leaked"] == 0
    assert run["ops"] > 0
    return run


def ratio(run: dict, part: str, whole: str = "ops") -> float:
    """One counter per another, of the whole run."""
    return run["counters"][part] / run["counters"][whole]


# ---- what each does ----------------------------------------------------------------------------------------


def test_page_fault1_takes_a_fault_per_page():
    run = measure("page_fault1", scheme="mmap_lock")
    assert ratio(run, "user_faults") == pytest.approx(1.0, rel=1e-3)
    assert run["counters"]["faults_classic"] == run["counters"]["user_faults"]
    assert run["counters"]["spf_attempt"] == 0


def test_page_fault1_speculates():
    counters = measure("page_fault1", scheme="spf")["counters"]
    assert counters["spf_success"] > counters["spf_abort"] > 0
    assert counters["SPF_ABORT_PMD"] > 0


def test_one_cpu_speculates_only_if_forced():
    assert measure("page_fault1", cpus=1)["counters"]["spf_attempt"] == 0
    forced = measure("page_fault1", cpus=1, force_speculation=True)
    assert forced["counters"]["spf_success"] > 0
    # one CPU alone meets no writer: it aborts only where there is no page table, or no anon_vma yet
    known = sum(forced["counters"][f"SPF_ABORT_{name}"] for name in ("PUD", "PMD", "ANON_VMA"))
    assert forced["counters"]["spf_abort"] == known


def test_pft_aborts_once_per_page_table():
    # large slices: each round also begins with up to four CPUs that meet a missing anon_vma or upper table
    run = measure("pft", cpus=4, seconds=0.8, size=32 * MIB)
    assert 0.0015 < ratio(run, "spf_abort", "spf_attempt") < 0.0030
    assert ratio(run, "SPF_ABORT_PMD", "spf_abort") > 0.9


def test_page_fault2_is_never_speculated():
    run = measure("page_fault2", cpus=1, force_speculation=True)
    assert run["counters"]["spf_attempt"] > 0
    assert ratio(run, "SPF_ABORT_NO_SPECULATE", "spf_attempt") == 1.0
    run = measure("page_fault2", cpus=2)
    assert run["counters"]["spf_success"] == 0
    assert ratio(run, "SPF_ABORT_NO_SPECULATE", "spf_attempt") > 0.5


def test_page_fault3_is_never_speculated():
    run = measure("page_fault3", cpus=2)
    assert run["counters"]["spf_success"] == 0
    assert run["counters"]["pgcopy"] == 0


@pytest.mark.parametrize(("args", "faults"), [("-mT", 128), ("-mTR", 1), ("-mTRp", 1)])
@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_ebizzy_faults_per_record(args, faults, scheme):
    run = measure("ebizzy", scheme=scheme, size=None, workload_args=(args,))
    records = run["counters"]["ops"]
    kept = 10                               # pages of chunks that stay mapped
    assert abs(run["counters"]["user_faults"] - kept - faults * records) <= faults * run["cpus"]
    assert abs(run["counters"]["munmap"] - records) <= run["cpus"]
    assert run["counters"]["mprotect"] == run["cpus"] + 5 * (args == "-mTRp")   # stacks, and every other kept chunk


@pytest.mark.parametrize("workload", ["mmap1", "mmap2"])
def test_mmap1_and_mmap2_touch_nothing(workload):
    run = measure(workload, size=None)
    assert run["bytes_per_cpu"] == 128 * MIB
    assert run["counters"]["user_faults"] == 0
    assert ratio(run, "mmap") == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("cpus", [1, 3])
@pytest.mark.parametrize("workload", ["brk1", "brk2"])
def test_brk1_and_brk2_count_calls(workload, cpus):
    run = measure(workload, cpus=cpus, size=None)
    assert run["counters"]["user_faults"] == 0
    assert run["counters"]["brk"] - run["counters"]["ops"] in range(3 * cpus + 1)


def test_brk2_makes_no_vma():
    seen: list[int] = []

    def heap(segment) -> None:
        mm = segment.view("mm")[1]
        seen.append(int(mm["brk"]) - int(mm["start_brk"]))

    run = run_point(Config(workload="brk2", cpus=1, seconds=0.2, warmup=0.0), at_rest=heap)
    assert run["violations"] == 0 and seen[0] in (PAGE, 2 * PAGE)


def test_malloc1_writes_one_header_per_mapping():
    counters = measure("malloc1", size=None)["counters"]
    assert abs(counters["user_faults"] - counters["ops"]) <= 2
    assert abs(counters["mmap"] - counters["ops"]) <= 4                 # and the stacks


def test_malloc2_leaves_the_address_space_alone():
    counters = measure("malloc2", cpus=3, size=None)["counters"]
    assert (counters["user_faults"], counters["mmap"], counters["munmap"]) == (3, 6, 0)
    assert counters["ops"] > 1000


def test_mapbench_local_shares_nothing():
    counters = measure("mapbench_local", cpus=3, size=None)["counters"]
    assert abs(counters["user_faults"] - counters["ops"]) <= 3
    assert abs(counters["munmap"] - counters["ops"]) <= 3
    # each place is a page table of its own, which goes with its page: speculation finds none, ever
    assert counters["spf_attempt"] == 0 or counters["spf_success"] == 0


def test_mapbench_pipeline_hands_each_page_on():
    counters = measure("mapbench_pipeline", cpus=3, size=None)["counters"]
    assert counters["ops"] - counters["munmap"] in range(4)
    assert counters["user_faults"] - counters["munmap"] in range(-3, 7)     # the neighbour finds the page there
    assert counters["nr_tlb_remote_flush"] > 0


def test_mapbench_global_maps_once_and_touches_by_all():
    cpus, pages = 3, 16
    counters = measure("mapbench_global", cpus=cpus, size=None)["counters"]
    assert abs(counters["ops"] - cpus * pages * counters["munmap"]) <= 2 * cpus * cpus * pages      # a round cut short
    # a page's first touch faults, and so do others that come at the same time
    assert pages * counters["munmap"] <= counters["user_faults"] <= counters["ops"]


@pytest.mark.parametrize("workload", ["tlb_flush1", "tlb_flush2", "tlb_flush3"])
def test_tlb_flushes_reach_the_other_cpus(workload):
    run = measure(workload, size=MIB)
    assert ratio(run, "user_faults") == pytest.approx(2.0, rel=1e-2)
    assert ratio(run, "madvise") == pytest.approx(1.0, rel=1e-2)
    assert run["counters"]["nr_tlb_remote_flush"] > 0
    assert run["shootdown"]["count"] > 0


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_uprobe_only_looks_up_its_vma(scheme):
    counters = measure("uprobe", scheme=scheme, cpus=3, size=None)["counters"]
    assert counters["probe_speculated"] + counters["probe_locked"] in range(counters["ops"], counters["ops"] + 4)
    assert counters["user_faults"] == counters["spf_attempt"] == 0
    assert (counters["probe_speculated"] == 0) == (scheme == "mmap_lock")
    assert counters["probe_locked"] < 10 or scheme == "mmap_lock"       # nobody writes, but one may find itself alone


def test_one_cpu_probes_speculatively_only_if_forced():
    assert measure("uprobe", cpus=1, size=None)["counters"]["probe_speculated"] == 0
    assert measure("uprobe", cpus=1, size=None, force_speculation=True)["counters"]["probe_locked"] == 0


def test_spf_test_ends_by_itself():
    run = measure("spf_test", cpus=3, workload_args=("8", "32"))
    assert run["per_cpu_ops"] == [256] * 3
    assert run["counters"]["user_faults"] == 3 * 256
    assert 0 < run["seconds"] < 10


@pytest.mark.parametrize("workload", sorted(workloads.available()))
@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_every_workload_under_oversubscription(workload, scheme):
    size = 2 * MIB if workload.startswith(("page_fault", "pft", "spf", "tlb_flush")) else None
    measure(workload, scheme=scheme, cpus=6, size=size, seconds=0.2)


@pytest.mark.parametrize("path", sorted(workloads.available()))
def test_workload_files_are_short(path):
    with open(workloads.load(path).__file__) as file:
        assert len(file.readlines()) <= 40


# ---- memory ------------------------------------------------------------------------------------------------


def test_tasks_get_what_the_original_has_if_it_fits():
    def each(cpus: int, pages: int) -> int:
        return cpus * pages

    budget = (1 << 30) // PAGE
    assert sizing.pages_per_task(1, 128 * MIB, each, budget) * PAGE == 128 * MIB
    assert sizing.pages_per_task(8, 128 * MIB, each, budget) * PAGE == 128 * MIB
    assert sizing.pages_per_task(64, 128 * MIB, each, budget) * PAGE == 16 * MIB
    assert sizing.pages_per_task(60, 128 * MIB, each, budget) * PAGE == 16 * MIB
    assert sizing.pages_per_task(600, 128 * MIB, each, budget) * PAGE == 2 * MIB
    assert sizing.pages_per_task(64, 512 << 10, each, 0) * PAGE == 512 << 10


def test_a_run_of_64_cpus_stays_below_2_gib():
    for workload in workloads.available():
        assert sizing.job_for(Config(workload=workload, cpus=64)).geometry().size < 2 << 30, workload


def test_private_files_need_room_for_copies():
    job = sizing.job_for(Config(workload="page_fault2", cpus=2, size=4 * MIB))
    assert sum(pages for pages, _ in job.files) == 2048
    assert job.frames >= 2048


# ---- jobs that are not a named workload --------------------------------------------------------------------


def job(*programs: Program, **settings) -> Job:
    """A job of these programs, which end by themselves."""
    return Job("test", [program.array() for program in programs], frames=256, finite=True, **settings)


def wrong() -> Program:
    """Expects what mmap never returns."""
    program = Program()
    program.mmap(0, PAGE, RW, ANON, dst=1)
    program.munmap(0, PAGE, base=1, expect=12345)
    return program


def waits() -> Program:
    """Waits at a barrier that the others never reach."""
    program = Program()
    program.barrier()
    return program


def test_a_wrong_result_is_a_violation_that_names_its_record():
    run = run_point(Config(scheme="spf", cpus=1), job(wrong()))
    assert run["violations"] >= 1
    assert any("record 1 (MUNMAP)" in message and "12345" in message for message in run["violation_messages"])
    assert run["frames_leaked"] == 0


def test_a_failed_program_ends_the_others_wait():
    run = run_point(Config(scheme="spf", cpus=2), job(wrong(), waits()))
    assert run["violations"] >= 1


def test_a_violation_is_exit_status_1(capsys):
    def measure_wrong(config, interrupted, progress):
        return run_point(config, job(wrong()), interrupted=interrupted, progress=progress)

    assert measure_all([Config(cpus=1)], None, measure=measure_wrong) == 1
    assert "record 1 (MUNMAP)" in capsys.readouterr().out


def test_a_run_in_which_nothing_moves_is_given_up(monkeypatch):
    monkeypatch.setattr(launch, "STALL_POLLS", 10)
    program = Program()
    program.turn(5)                         # nobody says that event 5 is next
    with pytest.raises(ClusterError, match=r"nothing has moved for .* CPU 0 is in TURN"):
        run_point(Config(cpus=1), job(program))


def test_an_interruption_before_anything_was_measured_has_no_result():
    with pytest.raises(Interrupted) as caught:
        run_point(Config(cpus=1, size=2 * MIB), interrupted=lambda: True)
    assert caught.value.result is None


def test_at_rest_sees_the_machine_before_it_is_torn_down():
    program = Program()
    program.mmap(0, 3 * PAGE, RW, ANON, dst=1)
    program.touch(0, 3, base=1)
    seen = []
    run_point(Config(cpus=1), job(program), at_rest=lambda segment: seen.append(
        int(segment.view("mm")["map_count"][1])))
    assert seen == [1]


def test_workloads_refuse_what_they_do_not_know():
    with pytest.raises(WorkloadError, match="takes no arguments"):
        workloads.load("pft").build(Task(0, 1, 512, args=("-x",)))
    with pytest.raises(WorkloadError, match="there is no workload"):
        workloads.load("../crew")


# ---- small parts -------------------------------------------------------------------------------------------


def test_histogram_buckets_are_contiguous():
    edges = [results.bucket_ns(bucket) for bucket in range(200)]
    assert all(high == low for (_, high), (low, _) in pairwise(edges))
    assert results.bucket_ns(8) == (8, 9) and results.bucket_ns(16) == (16, 18)


def test_shootdown_quantiles():
    histogram = np.zeros(512, np.int64)
    assert results.shootdown(histogram)["median_ns"] is None
    histogram[5], histogram[16] = 99, 1
    assert results.shootdown(histogram) == {"count": 100, "median_ns": 5, "p99_ns": 5, "max_ns": 17}


def test_pins_give_each_cpu_its_own_core_or_none():
    cores = topology.allowed_cores()
    assert topology.pins(len(cores) + 1, None) == [None] * (len(cores) + 1)
    assert topology.pins(1, False) == [None]
    assert set(topology.pins(2 * len(cores), True)) == set(cores)


def test_seeds_differ_and_are_never_zero():
    seeds = {seed_of(seed, run, cpu) for seed in range(4) for run in range(4) for cpu in range(64)}
    assert len(seeds) == 4 * 4 * 64 and 0 not in seeds
