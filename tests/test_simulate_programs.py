"""Before a simulation: where rounds begin, tasks out of phase, whose line is which, a machine's figures, memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from simulated import MACHINE, config, fine, job, simulated

from shmm import _sim
from shmm.cluster import machines, simulate, sizing, workloads
from shmm.cluster.config import Config
from shmm.cluster.machines import MachineError
from shmm.cluster.simulate import costs, programs, structures
from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task
from shmm.layout import DTYPES
from shmm.program import OP
from shmm.segment import VIEWS, Geometry, Segment

MIB = 1 << 20
FINITE = {"spf_test"}


def built(workload: str, pages: int = 512, cpu: int = 0):
    """A workload's program."""
    module = workloads.load(workload)
    files = tuple(range(1, 3)) if hasattr(module, "files") else ()
    return module.build(Task(cpu, 2, pages, files)).array()


def looping(*body: str) -> Program:
    """Two records, then these for ever."""
    program = Program()
    program.nop()
    program.lea(1, value=ord("a"))
    with program.forever():
        for op in body:
            program.add(op, count=8) if op == "TOUCH" else program.add(op)
    return program


# ---- rounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", workloads.available())
def test_every_endless_workload_has_rounds(workload):
    program = built(workload)
    found = programs.loop(program)
    assert (found is None) == (workload in FINITE)
    if found is None:
        assert programs.round_begins(program) == programs.NO_ROUND
    else:
        first, last = found
        assert program[last]["op"] == OP["JMP"] and program[last]["value"] == first == programs.round_begins(program)
        assert program[last + 1 :]["op"].tolist() == [OP["END"]]


def test_a_jump_forward_or_a_counted_loop_is_no_round():
    program = Program()
    with program.repeat(3, 1):
        program.nop()
    program.jmp(program.label() + 1)
    assert programs.loop(program.array()) is None
    with program.forever() as outer, program.forever():     # the last jump back is the one that matters
        program.nop()
    assert programs.loop(program.array()) == (outer, len(program) - 1)


def test_a_run_is_a_whole_number_of_rounds_and_no_shorter_than_asked():
    point = config(workload="page_fault1", cpus=2, size=64 * PAGE, seconds=0.0003)
    outcome = fine(simulated(point))
    first = outcome.run["per_cpu_ops"][0]
    assert first % 64 == 0 and outcome.found["rounds"] == first // 64 > 1
    assert outcome.run["seconds"] >= point.seconds
    assert outcome.found["begun"] > 0                   # after the first
    short = simulated(dataclasses.replace(point, seconds=1e-9))
    assert short.found["rounds"] == 1


def test_programs_that_end_are_measured_from_beginning_to_end():
    outcome = fine(simulated(config(workload="spf_test", cpus=3, workload_args=("4", "8"))))
    assert outcome.run["per_cpu_ops"] == [32] * 3
    assert (outcome.found["begun"], outcome.found["rounds"]) == (0, 0)


def test_only_what_the_clock_sees_is_measured():
    counters = fine(simulated(config(workload="pft", cpus=2, size=64 * PAGE))).run["counters"]
    assert counters["ops"] == counters["user_faults"] > 0
    assert counters["mmap"] == counters["munmap"] == 0


# ---- out of phase --------------------------------------------------------------------------------------------------


def test_a_shortened_program_begins_with_a_part_of_a_round():
    program = looping("TOUCH", "NOP").array()
    out = programs.shortened(program, 0.25)
    assert [int(count) for count in out["count"][out["op"] == OP["TOUCH"]]] == [2, 8]
    assert len(out) == len(program) + 2
    assert out[-2]["value"] == 4 and programs.loop(out) == (4, 6)
    assert np.array_equal(out[:2], program[:2])
    assert int(programs.shortened(program, 0.01)["count"][2]) == 1      # none at all would be no round
    assert int(program["count"][2]) == 8                # the original is as it was


@pytest.mark.parametrize("share", [0, 0.5])
def test_what_has_no_phases_of_its_own_stays_as_it_is(share):
    for program in (built("spf_test"), built("pft"), looping("TOUCH", "BARRIER").array()):
        assert np.array_equal(programs.shortened(program, share), program)
    assert np.array_equal(programs.shortened(built("page_fault1"), 0), built("page_fault1"))


@pytest.mark.parametrize("workload", workloads.available())
def test_a_shortened_program_does_what_it_did_before(workload):
    """Its jumps still lead where they led: it runs, and finds what it expects."""
    work = sizing.job_for(config(workload=workload, cpus=2, size=64 * PAGE if workload != "spf_test" else None))
    shorter = [programs.shortened(program, 0.5) for program in work.programs]
    run = fine(simulated(config(cpus=2, seconds=1e-4), dataclasses.replace(work, programs=shorter))).run
    assert run["ops"] > 0


def test_tasks_are_out_of_phase_and_the_first_is_not():
    some = [built("page_fault1")] * 4
    out = programs.stagger(some)
    assert np.array_equal(out[0], some[0])
    touched = [int(program["count"][program["op"] == OP["TOUCH"]][0]) for program in out]
    assert touched == [512, 128, 256, 384]


def test_no_two_programs_share_a_line_of_results():
    """Result words are written all the time, each by one CPU: in one line they would be everybody's bottleneck."""
    work = job(*[looping(*["NOP"] * n) for n in (1, 20, 7, 2)])
    with simulate.Simulated(config(cpus=4), work, machines.load(MACHINE), 1) as running:
        cpus = running.segment.view("cpu")
        firsts, lengths = cpus["program_first"].astype(int).tolist(), cpus["program_len"].astype(int).tolist()
        assert int(running.segment.view("seg")["result_off"]) % 64 == 0
        del cpus
    ranges = zip(firsts, lengths, strict=True)
    of_each = [set(range(first // 8, (first + length - 1) // 8 + 1)) for first, length in ranges]
    assert lengths[0] == 5 and lengths[1] > 24          # the first's own, the others after a shortened round
    assert len(set.union(*of_each)) == sum(map(len, of_each))


# ---- whose line is which -------------------------------------------------------------------------------------------

WHOSE = {
    "seg_t": {"magic": "other", "stop": "other", "barrier_count": "barrier", "barrier_gen": "barrier",
              "vma_pool": "pool", "anon_pool": "pool", "cache_lock": "file", "cache_used": "file", "charged": "charge",
              "rcu_seq": "rcu", "rcu_lock": "rcu",
              "zone": "zone", "lru_lock": "lru", "lru_head": "lru", "lru_pages": "lru"},    # or of each of its nodes
    "cpu_t": {"state": "cpu_state", "mm": "cpu_state", "host_pid": "cpu_state", "ipi_req": "mailbox", "wake": "wake",
              "waiter_next": "wake", "irq_depth": "other", "pcp_head": "other", "lru_frame": "other",
              "rcu_wait_head": "other", "rcu_snapshot": "rcu", "rcu_done": "rcu", "percpu_readers": "notifier_lock",
              "counter": "other", "failed_pc": "other", "tlb_l1": "other", "tlb_l2": "other"},
    "mm_t": {"mmap_lock": "mmap_lock", "mmap_seq": "mmap_lock", "vma_root": "vma_tree", "map_count": "vma_tree",
             "total_vm": "vma_tree", "pgd": "mm", "users": "mm", "page_table_lock": "page_table_lock",
             "rss_anon": "rss", "pgtables": "rss", "notifier_lock": "notifier_lock", "cpumask": "cpumask"},
    "vma_t": {"start": "vma", "flags": "vma", "parent": "vma", "freed": "vma"},
    "anon_vma_t": {"refs": "anon_vma"}, "file_t": {"refs": "file"},
}
ARRAYS = {"cpu_t": "cpu", "mm_t": "mm", "vma_t": "vma", "anon_vma_t": "anon", "file_t": "file"}


def offsets(structure: str, field: str) -> list[tuple[int, int]]:
    """(offset, bytes) of the field in the structure, or in each element of the array in it that has such a field."""
    for name, (dtype, at, *_) in (DTYPES[structure].fields or {}).items():
        if name == field:
            return [(at, dtype.itemsize)]
        if dtype.base.fields and field in dtype.base.fields:
            inner, inside, *_ = dtype.base.fields[field]
            return [(at + i * dtype.base.itemsize + inside, inner.itemsize) for i in range(dtype.shape[0])]
    raise KeyError(f"{structure} has no {field}")


def lines_of(segment: Segment, structure: str, field: str) -> list[int]:
    """The lines in which the field lies in the first, a middle and the last element of the segment's array."""
    head = segment.view("seg")
    _, offset, count = VIEWS[ARRAYS[structure]] if structure in ARRAYS else (None, "", "")
    begin, elements = (int(head[offset]), int(head[count])) if offset else (0, 1)
    firsts = [begin + i * DTYPES[structure].itemsize for i in {0, elements // 2, elements - 1}]
    return [line for first in firsts for at, size in offsets(structure, field)
            for line in range((first + at) // 64, (first + at + size - 1) // 64 + 1)]


def test_every_line_belongs_to_the_structure_whose_field_lies_there():
    with Segment.private(Geometry.for_run(3, 512, mms=2, files=4, file_pages=32)) as segment:
        names = [structures.STRUCTURES[number] for number in structures.structure_map(segment)]
        for structure, fields in WHOSE.items():
            for field, wanted in fields.items():
                found = {names[line] for line in lines_of(segment, structure, field)}
                assert found == {wanted}, (structure, field)
        cache, slots, frames = [int(segment.view("seg")[name]) for name in ("cache_off", "ncache", "frame_off")]
        assert set(names[cache // 64 : (cache + slots * 4) // 64]) == {"file"}
        assert len(names) == frames // 64


def test_every_field_that_begins_a_run_exists_and_begins_a_line():
    for structure, fields in structures.FIELDS.items():
        offsets = [DTYPES[structure].fields[field][1] for field in fields]
        assert offsets == sorted(offsets)
        assert all(offset % 64 == 0 for offset in offsets), structure
        assert set(fields.values()) <= set(_sim.structures())
        assert sum(size for _, size, _ in structures.runs(structure)) == DTYPES[structure].itemsize - offsets[0]


# ---- figures -------------------------------------------------------------------------------------------------------


def test_the_engine_gets_every_figure_in_picoseconds():
    machine = machines.load(MACHINE)
    ps = costs.costs(machine, 4)
    assert set(ps) >= set(_sim.COSTS)
    for name, figure in costs.NAMES.items():
        assert ps[name] == round(machine.ns(figure) * 1000), name
    assert set(costs.NAMES) >= set(_sim.COSTS) - {"channel", "lookahead", "jitter"}
    assert ps["channel"] == round(4096 / 76.8 * 1000)
    assert costs.costs(machine.with_figures({"page.bandwidth": 1.0}), 4)["channel"] == 4096_000
    assert costs.costs(machine, 4, jitter=0)["jitter"] == 0


@pytest.mark.parametrize(("name", "cpus", "figure"), [
    (MACHINE, 4, "line.cluster"), (MACHINE, 112, "line.cluster"), ("milan-2x36", 8, "line.cluster"),
])
def test_hits_run_ahead_less_than_the_shortest_way(name, cpus, figure):
    machine = machines.load(name)
    ahead = costs.costs(machine, cpus)["lookahead"]
    assert 0 < ahead < machine.ns(figure) * 1000
    assert ahead == int(machine.ns(figure) * 1000 * costs.AHEAD)
    assert costs.costs(machine, cpus, exact=True)["lookahead"] == 0
    assert costs.costs(machine, cpus, exact=True) | {"lookahead": ahead} == costs.costs(machine, cpus)


def test_the_shortest_way_is_between_cores_that_are_used():
    ps = {"cluster": 10, "socket": 100, "remote": 1000}
    seats = machines.load("milan-2x36").seats(72)
    assert len({seat.socket for seat in seats}) == 2 and len({seat.cluster for seat in seats}) > 2
    assert costs.lookahead(ps, seats) == 10 * costs.AHEAD
    one_each = {seat.cluster: seat for seat in seats}.values()
    assert costs.lookahead(ps, [*one_each]) == 100 * costs.AHEAD
    assert costs.lookahead(ps, [*{seat.socket: seat for seat in seats}.values()]) == 1000 * costs.AHEAD
    siblings = [dataclasses.replace(seats[0], thread=thread) for thread in (0, 1)]
    assert costs.lookahead(ps, [*siblings, seats[1]]) == 10 * costs.AHEAD


def test_seats_know_how_slow_they_are():
    machine = machines.load(MACHINE)
    seats = costs.engine_seats(machine, 60)
    assert [seat[:3] for seat in seats] == [(s.core, s.cluster, s.socket) for s in machine.seats(60)]
    assert [seat[3] for seat in seats] == [round(each * 1024) for each in machine.slowdowns(60)]
    assert seats[0][3] > seats[10][3] > 1024            # the first has a sibling, all share the power


def test_a_figure_that_no_engine_can_count_is_refused():
    point = config(cpus=1, figures=(("sleep.resume", 5e6),))
    with pytest.raises(MachineError, match=r"^sleep\.resume of 5e\+06 ns cannot be simulated"):
        simulate.run_point(point)
    with pytest.raises(MachineError, match=r"^page\.bandwidth of 0\.0001 GB_per_s cannot be simulated"):
        simulate.run_point(config(cpus=1, figures=(("page.bandwidth", 1e-4),)))


# ---- points --------------------------------------------------------------------------------------------------------


def test_a_simulated_task_has_what_the_original_has_if_it_fits(monkeypatch):
    monkeypatch.setattr(sizing, "memory_available", lambda: 8 << 30)
    assert sizing.job_for(config(workload="page_fault1", cpus=4, size=None)).bytes_per_cpu == 128 * MIB
    assert sizing.job_for(config(workload="page_fault1", cpus=112, size=None)).bytes_per_cpu < 128 * MIB
    monkeypatch.setattr(sizing, "memory_available", lambda: 256 << 20)
    assert sizing.simulated_budget(1) * sizing.SIMULATED_PAGE <= 64 << 20
    assert sizing.job_for(config(workload="page_fault1", cpus=4, size=None)).bytes_per_cpu == 128 * MIB
    assert sizing.job_for(config(workload="page_fault1", cpus=32, size=None)).bytes_per_cpu == 64 * MIB


def test_all_points_of_a_curve_map_the_same(monkeypatch):
    monkeypatch.setattr(sizing, "memory_available", lambda: 8 << 30)
    points = [config(workload=workload, cpus=cpus, size=None)
              for workload in ("page_fault1", "brk1") for cpus in (1, 56, 112)]
    sizes = [point.size for point in simulate.common_size(points)]
    assert len(set(sizes[:3])) == 1 and sizes[0] < 128 * MIB
    assert sizes[0] == sizing.job_for(points[2]).bytes_per_cpu
    assert sizes[3:] == [PAGE] * 3
    asked = simulate.common_size([config(size=7 * PAGE, cpus=1), config(size=None, cpus=2)])
    assert [point.size for point in asked] == [7 * PAGE, 128 * MIB]


def test_points_side_by_side_are_those_one_by_one():
    points = [config(workload="page_fault1", cpus=cpus, scheme=scheme, size=32 * PAGE, seconds=1e-5)
              for cpus in (1, 4, 2) for scheme in ("mmap_lock", "spf")]
    told: list[int] = []

    def notice(number: int, so_far: int, result: object) -> None:
        if result is not None:
            told.append(number)

    runs = simulate.run_points(points, jobs=2, notice=notice)
    assert [(run["cpus"], run["scheme"]) for run in runs] == [(point.cpus, point.scheme) for point in points]
    assert runs == [simulate.run_point(point) for point in points]
    assert sorted(told) == list(range(6))
    assert set(told[:2]) <= {2, 3, 0, 1, 4, 5} and told[0] in (2, 3)    # the most CPUs first


def test_repeats_have_seeds_of_their_own():
    point = config(workload="ebizzy", cpus=3, size=None, seconds=1e-4)
    three = simulate.run_point(dataclasses.replace(point, repeats=3, seed=5))
    each = [simulate.run_point(dataclasses.replace(point, seed=seed)) for seed in (5, 6, 7)]
    assert three["ops_per_s_all"] == [run["ops_per_s"] for run in each]
    middle = sorted(each, key=lambda run: run["ops_per_s"])[1]
    assert (three["ops"], three["time_stack"]) == (middle["ops"], middle["time_stack"])
    assert three["repeats"] == 3


def test_a_machine_is_what_the_point_says():
    point = config(cpus=2, figures=(("line.remote", 200.0),))
    assert simulate.machine_of(point).ns("line.remote") == 200
    assert simulate.run_point(dataclasses.replace(point, size=PAGE, seconds=1e-6))["simulation"]["figures"] == {
        "line.remote": 200.0}
    with pytest.raises(MachineError, match="machine skylake-2x28 has 112 CPUs, not 113"):
        simulate.machine_of(config(cpus=113))
    with pytest.raises(MachineError, match=r"there is no figure 'line\.moat'"):
        simulate.machine_of(config(figures=(("line.moat", 1.0),)))


def test_lines_of_a_machine():
    slower = 3.8 / 3.6                                  # with four cores busy
    assert simulate.line_bench(MACHINE, "wx", 4) == {
        "ns_per_write": pytest.approx(4.74 * slower, rel=1e-3), "ns_per_read": None}
    reads = simulate.line_bench(MACHINE, "rx", 1)
    assert reads["ns_per_write"] is None and reads["ns_per_read"] == pytest.approx(0.724)
    both = simulate.line_bench(MACHINE, "rw", 4)
    assert both["ns_per_read"] > both["ns_per_write"] > 48
    assert simulate.line_bench(MACHINE, "atomic add", 8)["ns_per_write"] == pytest.approx(8 * 48, rel=0.02)
    assert simulate.line_bench(MACHINE, "ww", 8)["ns_per_write"] == pytest.approx(48 * 4.5, rel=0.02)
    assert set(simulate.KINDS) == {"ww", "rr", "rw", "wx", "rx", "atomic add", "cas add"}


def test_the_defaults_of_the_engine_are_its_own():
    assert (Config(engine="sim").seconds, Config(engine="sim").ipi) == (0.002, "signal")
    assert (Config().seconds, Config().ipi) == (2.0, "mailbox")
    program = Program()
    program.mmap(0, PAGE, RW, ANON)
    run = simulated(config(cpus=1, seconds=0.0), job(program)).run
    assert (run["engine"], run["clock"], run["machine"], run["start_method"]) == ("sim", "virtual", MACHINE, None)
