"""The sim engine as a whole: the same again, where the time goes, cut-offs, interruptions, failures, a second run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from simulated import MACHINE, config, costs, fine, job, seats, simulated

from shmm import _sim
from shmm.cluster import simulate
from shmm.cluster.crew import ClusterError, Interrupted
from shmm.cluster.simulate.structures import structure_map
from shmm.cluster.workloads import ANON, PAGE, RW, Program
from shmm.segment import Geometry, Segment

POINTS = [("pft", 8), ("page_fault1", 6), ("ebizzy", 4), ("tlb_flush2", 3)]
SCHEMES = ["mmap_lock", "spf"]
NO_ROUND = 2**64 - 1


def waits() -> Program:
    """Waits at a barrier that the others never reach."""
    program = Program()
    program.barrier()
    return program


def works(pages: int = 4) -> Program:
    """Writes a few pages, and is done."""
    program = Program()
    program.mmap(0, pages * PAGE, RW, ANON, dst=1)
    program.touch(0, pages, base=1)
    return program


def counts() -> Program:
    """Counts down from 2**64: nothing else, and no end."""
    program = Program()
    program.djnz(1, 0)
    return program


# ---- the same again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("workload", "cpus"), POINTS)
def test_a_seed_is_a_run_however_often_somebody_looks(workload, cpus, scheme, monkeypatch):
    def once(accesses: int, seed: int = 1) -> str:
        monkeypatch.setattr(simulate, "SLICE", accesses)
        point = config(workload=workload, cpus=cpus, scheme=scheme, seed=seed, seconds=0.0002)
        return json.dumps(simulate.run_point(point))

    first = once(10**7)
    assert once(10**7) == first
    assert once(10**5) == first
    assert once(777) == first
    assert once(10**7, seed=2) != first


def test_two_processes_say_the_same():
    words = ["-c", "import json, sys; sys.path.insert(0, sys.argv[1]); from simulated import config, simulate\n"
             "print(json.dumps(simulate.run_point(config(workload='ebizzy', cpus=5, size=None, repeats=2))))",
             os.path.dirname(__file__)]
    one, two = [subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, env=os.environ | {
        "PYTHONHASHSEED": seed}) for seed in ("1", "2")]
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout != ""


@pytest.mark.parametrize(("workload", "seeds"), [("ebizzy", 100), ("tlb_flush2", 300)])
def test_no_waiter_is_forgotten_and_no_time_is_negative(workload, seeds, monkeypatch):
    """Many short runs with many interrupts: a lost wake-up would end in a cut-off, a part of the time that is taken
    back after it was counted would be below 0."""
    monkeypatch.setattr(simulate, "MOST_SECONDS", 0.5)
    for seed in range(1, seeds + 1):
        outcome = simulated(config(workload=workload, cpus=6, size=4 * PAGE, seconds=2e-5, seed=seed))
        assert min(outcome.found["stack"].values()) >= 0, seed


# ---- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_clock_runs_backwards(scheme):
    point = config(workload="ebizzy", cpus=5, scheme=scheme)
    work = simulate.job_for(point)
    with simulate.Simulated(point, work, simulate.machine_of(point), 1) as running:
        running.simulation.begin(NO_ROUND, 0, 0, 10**12, most_accesses=60_000)
        before: dict[int, int] = {}
        while running.simulation.run(29) == "running":
            now = {cpu: clock for cpu, _, _, clock in running.simulation.blocked()}
            assert all(now[cpu] >= clock for cpu, clock in before.items())
            before = now
        assert min(before.values()) > 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("workload", ["page_fault1", "pft", "uprobe", "mmap1"])
def test_the_parts_of_the_time_are_all_of_it(workload, scheme):
    outcome = fine(simulated(config(workload=workload, cpus=5, scheme=scheme)))
    parts = outcome.run["time_stack"]
    assert all(part["ps"] > 0 for part in parts)
    assert sum(part["share"] for part in parts) == pytest.approx(1)
    assert [part["ps"] for part in parts] == sorted((part["ps"] for part in parts), reverse=True)
    of_all_cpus = 5 * outcome.run["seconds"]
    assert sum(part["ps"] for part in parts) / 1e12 == pytest.approx(of_all_cpus, rel=0.01)


def test_a_fault_costs_what_the_machine_says():
    run = fine(simulated(config(workload="pft", cpus=1))).run
    machine = simulate.load(MACHINE)
    ps = {part["part"]: part["ps"] / run["counters"]["user_faults"] / 1000 for part in run["time_stack"]}
    assert ps["exception"] == pytest.approx(machine.ns("kernel.exception"), rel=0.02)
    assert ps["clear"] == pytest.approx(machine.ns("page.clear"), rel=0.02)


@pytest.mark.parametrize("cpus", [2, 28, 112])
def test_a_busy_sibling_and_a_lower_clock_slow_a_cpu_down(cpus):
    outcome, machine = simulated(config(workload="pft", cpus=cpus, size=256 << 10)), simulate.load(MACHINE)
    slower = sum(machine.slowdowns(cpus)) / cpus
    each = outcome.ns("exception") / outcome.run["counters"]["user_faults"]
    assert each == pytest.approx(machine.ns("kernel.exception") * slower, rel=0.02)
    assert cpus == 2 or slower > 1.1


# ---- where it goes -------------------------------------------------------------------------------------------------


def test_a_writer_makes_the_others_wait_for_the_mmap_lock():
    alone = fine(simulated(config(workload="page_fault1", cpus=1, scheme="mmap_lock")))
    assert alone.ns("wait") == alone.ns("transfer", "mmap_lock") == 0
    assert fine(simulated(config(workload="page_fault1", cpus=8, scheme="mmap_lock"))).ns("wait", "mmap_lock") > 0


def test_flushing_the_tlbs_of_others_is_interrupts():
    alone = fine(simulated(config(workload="tlb_flush2", cpus=1, size=None)))
    assert alone.ns("ipi_send") == alone.ns("ipi_wait") == alone.ns("interrupt") == 0
    outcome = fine(simulated(config(workload="tlb_flush2", cpus=8, size=None)))
    counters, machine = outcome.run["counters"], simulate.load(MACHINE)
    received = counters["nr_tlb_remote_flush_received"]
    assert received > 1000
    slow = machine.slowdowns(8)[0]
    assert outcome.ns("interrupt") / received == pytest.approx(machine.ns("ipi.handle") * slow, rel=0.05)
    assert outcome.ns("ipi_send") > counters["nr_tlb_remote_flush"] * machine.ns("ipi.send")
    assert outcome.ns("ipi_wait") > 0
    far = fine(simulated(config(workload="tlb_flush2", cpus=8, size=None, figures=(("ipi.deliver", 20_000.0),))))
    assert far.run["shootdown"]["median_ns"] > 15_000 > 2 * outcome.run["shootdown"]["median_ns"]


def test_memory_can_be_too_slow_for_all():
    assert fine(simulated(config(workload="pft", cpus=8))).ns("bandwidth") == 0
    outcome = fine(simulated(config(workload="pft", cpus=8, figures=(("page.bandwidth", 1.0),))))
    assert outcome.run["time_stack"][0]["part"] == "bandwidth"
    assert outcome.run["ops_per_s"] * PAGE == pytest.approx(1e9, rel=0.02)


def test_only_what_speculates_can_be_dropped():
    classical, speculative = [fine(simulated(config(workload="page_fault1", cpus=8, scheme=scheme)))
                              for scheme in SCHEMES]
    assert classical.ns("retry") == 0
    assert speculative.ns("retry") > speculative.run["counters"]["spf_abort"] * 10


def late(pages: int, clear_ns: float):
    """CPU 0 clears pages; CPU 1 waits for it at a barrier."""
    first = works(pages)
    first.barrier()
    return fine(simulated(config(cpus=2, figures=(("page.clear", clear_ns),)), job(first, waits())))


def test_whoever_waits_at_a_barrier_is_idle():
    short, long = late(1, 10_000), late(20, 10_000)
    assert long.ns("idle") - short.ns("idle") == pytest.approx(190_000, rel=0.15)


# ---- waiting -------------------------------------------------------------------------------------------------------


def test_a_sleeper_looks_up_when_its_time_is_over():
    """Who waits at a barrier sleeps for 20 ms at most, then looks at the stop word, and sleeps again."""
    short, long = late(1, 1e6), late(100, 1e6)
    assert long.run["seconds"] == pytest.approx(0.1, rel=0.1)
    naps = (long.ns("sleep") - short.ns("sleep")) / simulate.load(MACHINE).ns("sleep.block")
    assert round(naps) in (4, 5, 6)


def test_whoever_waits_does_nothing():
    """One spins for an acknowledgement, one for the mmap_lock that it holds: a hundred times as long a wait, and
    not a hundred times the accesses."""
    def run(clear_ns: float):
        first, second, third = works(2), works(0x10), Program()
        first.barrier()
        first.touch(0, 400, 0, base=1, write=False)
        first.munmap(0, 2 * PAGE, base=1)
        second.barrier()
        second.mmap(0, 4 * PAGE, RW, ANON, dst=1)
        second.touch(0, 4, base=1)
        third.mmap(0, PAGE, RW, ANON, dst=1)
        third.store(0, base=1)
        third.barrier()
        third.touch(0, 500, 0, base=1, write=False)
        third.mmap(0, PAGE, RW, ANON, dst=1)
        return fine(simulated(config(cpus=3, figures=(("page.clear", clear_ns),)), job(first, second, third)))

    short, long = run(10_000), run(1_000_000)
    assert long.ns("wait") + long.ns("ipi_wait") > 30 * (short.ns("wait") + short.ns("ipi_wait"))
    assert long.run["simulation"]["accesses_in_all"] < 1.1 * short.run["simulation"]["accesses_in_all"]


# ---- cut off, stuck, interrupted, failed ---------------------------------------------------------------------------


def test_a_barrier_that_nobody_else_meets_is_cut_off_in_virtual_time():
    told = (r"^the run is not over after 100 s of virtual time: "
            r"CPU 1 sleeps \(barrier\), in BARRIER at 0x0, in user mode, asleep$")
    with pytest.raises(ClusterError, match=told):
        simulated(config(cpus=3), job(works(), waits(), works()))


def test_a_run_that_only_runs_is_cut_off_after_so_many_accesses(monkeypatch):
    monkeypatch.setattr(simulate, "MOST_ACCESSES", 10_000)
    for cpus in (1, 3):
        with pytest.raises(ClusterError, match=r"^the run is not over after 1e\+04 accesses: CPU 0 runs .*, in DJNZ"):
            simulated(config(cpus=cpus), job(*[counts()] * cpus))


def test_a_cpu_alone_is_cut_off_in_virtual_time_too(monkeypatch):
    monkeypatch.setattr(simulate, "MOST_SECONDS", 0.01)
    with pytest.raises(ClusterError, match=r"^the run is not over after 0 s of virtual time: CPU 0 runs"):
        simulated(config(cpus=1), job(counts()))


def test_more_than_four_are_counted(monkeypatch):
    monkeypatch.setattr(simulate, "MOST_SECONDS", 0.1)
    with pytest.raises(ClusterError, match=r"CPU 4 sleeps [^;]*; and 2 more$"):
        simulated(config(cpus=7), job(works(), *[waits()] * 6))


def test_a_lock_that_nobody_gives_back_is_a_deadlock():
    """Somebody who does not exist holds a spinlock: nothing can ever happen again, and that is known at once."""
    point = config(cpus=1, scheme="mmap_lock")
    with simulate.Simulated(point, job(works()), simulate.machine_of(point), 1) as running:
        running.segment.view("mm")["page_table_lock"][1] = 99
        with pytest.raises(ClusterError, match=r"^every CPU waits for another: CPU 0 spins \(page_table_lock\)"):
            running.run()


def test_an_interrupted_run_says_so(monkeypatch):
    monkeypatch.setattr(simulate, "SLICE", 1000)
    told: list[tuple[int, float, int]] = []
    with pytest.raises(Interrupted):
        simulate.run_point(config(workload="pft", cpus=4), interrupted=lambda: len(told) == 3,
                           progress=lambda *so_far: told.append(so_far))
    assert [accesses // 1000 for _, _, accesses in told] == [1, 2, 3]
    assert [seconds for _, seconds, _ in told] == sorted(seconds for _, seconds, _ in told)


def test_a_wrong_result_is_a_violation_that_names_its_record():
    wrong = works()
    wrong.munmap(0, PAGE, base=1, expect=12345)
    run = simulated(config(cpus=2), job(works(), wrong)).run
    assert run["violations"] >= 1
    told = "CPU 1: its program failed at record 2 (MUNMAP): the result was 0, expected 12345"
    assert told in run["violation_messages"]
    assert run["frames_leaked"] == 0


def test_whoever_waits_for_a_program_that_failed_is_stopped():
    wrong = works()
    wrong.load(0x1000)
    wrong.barrier()
    run = simulated(config(cpus=3), job(waits(), wrong, waits())).run
    (message,) = run["violation_messages"]
    assert message.startswith("CPU 1: its program failed at record 2 (LOAD)")
    assert run["seconds"] < 0.1


def test_a_program_that_should_not_end_and_fails_ends_the_run():
    wrong = Program()
    with wrong.forever():
        wrong.load(0x1000)
    good = Program()
    with good.forever():
        good.nop()
    run = simulated(config(cpus=2), job(good, wrong)).run
    assert any("CPU 1: its program failed at record 0 (LOAD)" in message for message in run["violation_messages"])


# ---- one after the other -------------------------------------------------------------------------------------------


def memory() -> int:
    """Bytes of addresses that this process has mapped."""
    with open("/proc/self/statm") as line:
        return int(line.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_a_simulation_gives_its_memory_back():
    point, work = config(cpus=4), job(*[works()] * 4, frames=400_000)     # 6 MiB of directory, 3 MiB of pages
    for _ in range(2):
        fine(simulated(point, work))
    before = memory()
    for _ in range(4):
        fine(simulated(point, work))
    assert memory() - before < 4 << 20


def test_one_simulation_at_a_time():
    point = config(cpus=1)
    with simulate.Simulated(point, job(works()), simulate.machine_of(point), 1) as first:
        with pytest.raises(RuntimeError, match="another Simulation is open in this process: close it first"):
            simulated(point, job(works()))
        with pytest.raises(RuntimeError, match="another Simulation is open"):
            _sim.line_bench("write", costs(), seats())
        assert first.run()["results"] == [0]    # whoever was refused has not taken it away
    fine(simulated(point, job(works())))


def test_what_does_not_fit_the_segment_is_refused():
    with Segment.private(Geometry.for_run(2, 64)) as segment:
        lines = structure_map(segment)
        for where, structure in ((seats(cores=3), lines), (seats(cores=2), lines[:-1])):
            with pytest.raises(ValueError, match=rf"2 CPUs and {len(lines)} lines need a seat and a structure each"):
                _sim.Simulation(segment.address, costs(), where, structure)
        with _sim.Simulation(segment.address, costs(), seats(cores=2), lines) as simulation:
            assert simulation.measured() is None
        simulation.close()                      # twice is fine
        del lines, structure
    empty = bytearray(8192)
    with pytest.raises(ValueError, match="no shmm segment at this address"):
        _sim.Simulation(address_of(empty), costs(), seats(), bytearray(1))


def address_of(buffer: bytearray) -> int:
    """Where its bytes are."""
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def test_all_engines_have_one_layout():
    from shmm import _fast

    for question in ("layout_fields", "struct_sizes", "counter_names", "op_names", "constants"):
        assert getattr(_fast, question)() == getattr(_sim, question)()
    assert set(_sim.structures()) >= {"mmap_lock", "vma_tree", "mailbox", "ptl", "frame", "user_page", "other"}
    assert re.fullmatch(r"[a-z_ ]+", " ".join(_sim.structures()))
