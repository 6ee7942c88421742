"""The scenarios: every schedule within the bound keeps the invariants, and protections that are taken away are missed.

Two preemptions where two CPUs meet, one where there are three: that is some hundred thousand schedules, in seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from shmm import _check
from shmm.cluster.check import explore, schedule
from shmm.cluster.check.explore import Task
from shmm.cluster.check.mutants import SPARE
from shmm.cluster.check.scenario import ARENA, MEMORIES, PAGE, VARIANTS, Scenario, ScenarioError, Stage, available, load
from shmm.cluster.check.schedule import MUTANTS, NO_MUTANT
from shmm.cluster.config import SCHEMES

KEPT = sorted((Path(__file__).parent / "schedules").glob("*.txt"))
CPUS = {name: load(name).scene().cpus for name in available()}
POINTS = [(name, scheme, variant) for name in available() for scheme in SCHEMES for variant in load(name).variants]


@pytest.mark.parametrize(("name", "scheme", "variant"), POINTS)
def test_all_schedules_keep_the_invariants(name, scheme, variant):
    run = explore.run(Task(name, scheme, variant, bound=2 if CPUS[name] == 2 else 1))
    assert run["violation"] is None
    assert run["exhausted"]
    assert run["sequential_orders"] >= 1
    assert run["schedules"] > 50 and run["steps"] > run["schedules"] and run["states"] > 2


@pytest.mark.parametrize("memory", [memory for memory in MEMORIES if memory != "sc"])
@pytest.mark.parametrize("name", available())
def test_one_preemption_keeps_the_invariants_on_weaker_machines(name, memory):
    variants = load(name).variants
    run = explore.run(Task(name, "spf", "base" if "base" in variants else variants[0], memory, bound=1))
    assert run["violation"] is None
    assert run["exhausted"]


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_sampled_schedules_keep_the_invariants(strategy):
    run = explore.run(Task("two_writers_one_reader", strategy=strategy, schedules=2000))
    assert run["violation"] is None
    assert (run["schedules"], run["exhausted"]) == (2000, False)


@pytest.mark.parametrize("strategy", explore.STRATEGIES)
def test_exploring_twice_gives_the_same(strategy):
    task = Task("fault_munmap", strategy=strategy, seed=7, schedules=3000)
    first, second = explore.run(task), explore.run(task)
    first.pop("seconds")
    second.pop("seconds")
    assert first == second


def test_another_seed_gives_other_schedules():
    runs = [explore.run(Task("fault_munmap", strategy="pct", seed=seed, schedules=500)) for seed in (1, 2)]
    assert runs[0]["steps"] != runs[1]["steps"]


def test_a_limit_of_schedules_is_kept():
    run = explore.run(Task("fault_munmap", schedules=1234))
    assert (run["schedules"], run["exhausted"], run["violation"]) == (1234, False, None)


def test_whoever_interrupts_is_heard():
    with pytest.raises(explore.Stopped):
        explore.run(Task("fault_munmap"), interrupted=lambda: True)


# ---- protections taken away --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mutant", "invariant", "preemptions"), [
    ("fault_munmap", "SEQ2", "I2", 1),
    ("fault_munmap", "SEQ_SILENT", "I2", 1),
    ("two_faults", "PTE_NONE", "I4", 1),
    ("table_free_walk", "TABLE_FREE_NOW", "poison", 1),
    ("flush_under_ptl", "PTL_SPIN", "lock-order", 0),
    ("shootdown_reuse", "IRQ_ENABLE_RELAXED", "race", 0),
    ("two_writers_one_reader", "RWSEM_NO_WAKE", "lost-wakeup", 1),
])
def test_a_missing_protection_is_noticed(name, mutant, invariant, preemptions):
    found = explore.run(Task(name, mutant=mutant))["violation"]
    assert (found["invariant"], found["preemptions"], found["fewest"]) == (invariant, preemptions, True)
    assert schedule.parse(found["schedule"]).mutant == mutant


def test_a_race_names_both_sides():
    found = explore.run(Task("shootdown_reuse", mutant="IRQ_ENABLE_RELAXED"))["violation"]
    assert found["source"].startswith("shmm/mm/") and found["other_source"].startswith("shmm/exec/user.pxd:")


def test_sampling_shrinks_what_it_finds():
    task = Task("fault_munmap", strategy="random", mutant="SEQ2", seed=4)
    large, small = explore.run(replace(task, shrink=False))["violation"], explore.run(task)["violation"]
    assert large["preemptions"] > small["preemptions"] == 1
    assert not large["fewest"] and small["fewest"]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_schedules_break_something_only_without_the_protection(path):
    for kept in schedule.read(path):
        assert kept.mutant == path.stem
        for mutant, breaks in ((kept.mutant, True), (NO_MUTANT, False)):
            with explore.stage_of(kept) as stage:
                stage.explorer.sequential()
                stage.explorer.replay(kept.deviations, MUTANTS.index(mutant))
                assert (stage.explorer.violation() is not None) == breaks


def test_a_schedule_is_kept_of_every_protection_that_is_missed():
    missed = {name for name, group, _ in _check.mutants() if group != SPARE and name != NO_MUTANT}
    assert {path.stem for path in KEPT} == missed and len(missed) >= 40


# ---- scenes ------------------------------------------------------------------------------------------------


def test_the_scenarios_say_what_they_are():
    for name in available():
        scenario = load(name)
        assert scenario.description.endswith(".") and len(scenario.description) < 120
        assert set(scenario.variants) <= set(VARIANTS)


def test_cpus_begin_warm():
    with Stage(load("fault_munmap"), "spf", "base", "sc") as stage:
        cpus = stage.segment.view("cpu")
        assert (cpus["pcp_count"] >= 4).all() and (cpus["vma_count"] > 0).all() and (cpus["charge_stock"] > 4).all()
        assert (cpus["lru_count"] < 8).all()
        assert not cpus["rcu_wait_head"].any() and not cpus["rcu_next_head"].any()
        first = stage.segment.view("memory")[cpus["pcp_head"]]
        assert first.any(axis=1).all(), "the next frame has held something else"
        del cpus


def only_one(s):
    s.cpu[0].load(ARENA)


def with_a_gap(s):
    s.cpu[0].load(ARENA)
    s.cpu[2].load(ARENA)


def idle_setup(s):
    s.cpu[0].load(ARENA)
    s.cpu[1].load(ARENA)
    s.setup[2].load(ARENA)


def too_many(s):
    s.cpu[4].load(ARENA)


@pytest.mark.parametrize("build", [only_one, with_a_gap, idle_setup, too_many])
def test_a_scene_without_its_cpus_is_refused(build):
    with pytest.raises(ScenarioError, match="CPU"):
        Scenario("bad", "Bad.", ("base",), build).scene()


def test_a_set_up_that_fails_is_said():
    def build(s):
        s.setup[1].munmap(ARENA + 1, PAGE)
        s.cpu[0].nop()
        s.cpu[1].nop()

    with pytest.raises(ScenarioError, match="scenario bad: CPU 1's set-up fails"), \
            Stage(Scenario("bad", "Bad.", ("base",), build), "spf", "base", "sc"):
        pass


def test_there_is_no_such_scenario():
    with pytest.raises(ScenarioError, match=r"there is no scenario 'nothing'; there are .*cow_aba"):
        load("nothing")
