"""PREEMPT_RT: spinlocks whose waiters sleep, and the one rule that follows for whoever turns interrupts off."""

import pytest
from rooms.crew import counter, crew, machine, nanoseconds

from shmm import _fast
from shmm.cluster.check import explore, questions
from shmm.cluster.check.explore import Task
from shmm.machine import Machine

pytest_plugins = ("engines",)

PAGE, RW, ANON = 4096, 3, 0x22
TOTAL = 3                               # of words.pxi, as in test_rooms_locks.py


@pytest.fixture
def rt():
    with machine(cpus=8, preempt_rt=1) as segment:
        yield segment


@pytest.mark.parametrize("parties", [2, 5])
def test_a_sleeping_spinlock_lets_one_in_at_a_time(rooms, rt, parties):
    ns = nanoseconds(0.4)
    ends = crew(*(lambda n=n: rooms.spin(rooms.Cpu(rt.address, n), parties, ns) for n in range(parties)))
    total, broken = map(sum, zip(*ends, strict=True))
    assert broken == 0 < total
    assert counter(rt, "rt_lock_sleep") > 0             # it was held while others ran
    assert counter(rt, "rt_atomic_sleep") == counter(rt, "spinlock_queued") == 0
    assert rt.view("mm")["page_table_lock"][1].item() == (0, 0)
    assert _fast.check(rt.address) == []


@pytest.mark.parametrize(("what", "broken"), [("lock", 1), ("try", 0), ("raw", 0)])
def test_I8_only_waiting_for_a_sleeping_lock_is_forbidden_with_interrupts_off(rooms, rt, what, broken):
    cpu = rooms.Cpu(rt.address, 1)
    for _ in range(2):
        rooms.spin_with_irqs_off(cpu, what)
    assert counter(rt, "rt_atomic_sleep") == counter(rt, "violations") == 2 * broken
    found = [line for line in rooms.check(rt.address) if line.startswith("I8")]
    assert len(found) == broken
    assert all("page_table_lock waited for with interrupts off, by cpu at 0x1" in line for line in found)


def test_I8_is_a_rule_of_preempt_rt_alone(rooms):
    with machine(cpus=2) as segment:
        rooms.spin_with_irqs_off(rooms.Cpu(segment.address, 1), "lock")
        assert rooms.check(segment.address) == []


@pytest.mark.parametrize(("scheme", "walk", "table_free"), [
    ("mmap_lock", "irq", "ipi"), ("spf", "irq", "ipi"), ("spf", "rcu", "rcu"),
])
def test_no_operation_waits_for_a_sleeping_lock_with_interrupts_off(scheme, walk, table_free):
    with Machine(cpus=2, scheme=scheme, walk=walk, table_free=table_free, preempt_rt=True, force_speculation=True,
                 mmu_notifier=True, address_spaces=4) as m:
        at = m.mmap(None, 600 * PAGE, RW, ANON)
        m.touch(at, 600 * PAGE)
        m.notifier()
        child = m.fork()
        m.touch(at, 600 * PAGE, cpu=1)                  # copies
        m.mprotect(at, 9 * PAGE, 1)
        m.madvise(at, 300 * PAGE, 4, cpu=1)
        assert m.secondary_read(at + 500 * PAGE) == 1
        m.munmap(at, 600 * PAGE, cpu=1)
        m.attach(child, cpu=1)
        m.touch(at, 10 * PAGE, cpu=1)
        assert m.check() == []
        assert m.counters()["rt_atomic_sleep"] == 0
        assert (m.counters()["spf_success"] > 500) == (scheme == "spf")


# ---- every schedule ------------------------------------------------------------------------------------------------


def test_a_spinlock_in_place_of_the_trylock_is_reported_by_name_contended_or_not():
    for scenario in ("flush_under_ptl", "two_faults"):
        found = explore.run(Task(scenario, variant="rt", mutant="PTL_SPIN"))["violation"]
        assert (found["invariant"], found["preemptions"]) == ("preempt-rt", 0)
        assert found["what"] == "waits for a sleeping lock with interrupts off"


def test_without_preempt_rt_it_is_another_rule():
    assert explore.run(Task("flush_under_ptl", mutant="PTL_SPIN"))["violation"]["invariant"] == "lock-order"


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_the_trylock_passes_in_all_schedules_and_somebody_sleeps(scheme):
    run = explore.run(Task("two_faults", scheme, variant="rt"))
    assert run["violation"] is None and run["exhausted"]


def test_the_question_is_about_the_trylock_under_preempt_rt():
    asked = questions.tasks(questions.find("preempt-rt"))
    assert {task.variant for task in asked} == {"rt"}
    assert {task.mutant for task in asked} == {"NONE", "PTL_SPIN"}
