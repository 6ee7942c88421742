"""Grace periods and what waits for them."""

import pytest
from rooms.crew import counter, crew, machine, nanoseconds

pytest_plugins = ("engines",)

HOW = {"in the kernel": 0, "in an instruction": 1, "with interrupts off": 2}    # READ_* of grace.pxi
RCU_HIGH = 2000                                                                 # call_rcu.pxd


@pytest.fixture
def segment():
    with machine() as made:
        yield made


@pytest.fixture
def cpus(rooms, segment):
    return [rooms.Cpu(segment.address, n) for n in range(4)]


def waiting(segment, cpu: int = 0) -> tuple[int, int]:
    """How many objects wait for a known grace period, and how many are newer."""
    one = segment.view("cpu")[cpu]
    return int(one["rcu_wait_count"]), int(one["rcu_next_count"])


# ---- readers and writers that race ---------------------------------------------------------------------------


@pytest.mark.parametrize("expedited", [False, True], ids=["normal", "expedited"])
@pytest.mark.parametrize("how", HOW)
def test_D_no_reader_sees_what_was_freed_after_a_grace_period(rooms, segment, how, expedited):
    ns = nanoseconds(0.3)
    replaced, *ends = crew(
        lambda: rooms.rcu_writer(rooms.Cpu(segment.address, 0), 4, ns, expedited),
        *(lambda n=n: rooms.rcu_readers(rooms.Cpu(segment.address, n), 4, ns, HOW[how]) for n in (1, 2, 3)),
    )
    assert sum(poisoned for _, poisoned in ends) == 0
    assert replaced > 0 and min(sections for sections, _ in ends) > 0
    assert counter(segment, "rcu_grace_periods") > 0


# ---- whom a grace period waits for, one step at a time ----------------------------------------------------------


@pytest.mark.parametrize("state", [["kernel"], ["insn"], ["insn", "fault"], ["off"], ["sleep", "wake", "kernel"]],
                         ids=" ".join)
def test_a_grace_period_waits_for_a_cpu_that_was_in_the_kernel(rooms, cpus, state):
    rooms.mode(cpus[1], "wake")
    for to in state:
        rooms.mode(cpus[1], to)
    target = rooms.snap(cpus[0])
    assert not rooms.grace(cpus[0], target)
    rooms.mode(cpus[1], {"insn": "endinsn", "off": "on"}.get(state[-1], "user"))
    assert rooms.grace(cpus[0], target)


@pytest.mark.parametrize("state", [[], ["wake"], ["wake", "kernel", "user"], ["wake", "insn", "endinsn"],
                                   ["wake", "kernel", "sleep"], ["wake", "off", "on"]], ids=" ".join)
def test_G2_a_grace_period_does_not_wait_for_user_mode_or_sleep(rooms, cpus, state):
    for to in state:
        rooms.mode(cpus[1], to)
    assert rooms.grace(cpus[0], rooms.snap(cpus[0]))


@pytest.mark.parametrize("anew", [["user", "kernel"], ["user", "insn"], ["sleep", "wake", "kernel"]], ids=" ".join)
def test_a_reader_that_entered_anew_is_another_reader(rooms, cpus, anew):
    rooms.mode(cpus[1], "wake")
    rooms.mode(cpus[1], "kernel")
    target = rooms.snap(cpus[0])
    assert not rooms.grace(cpus[0], target)
    for to in anew:
        rooms.mode(cpus[1], to)
    assert rooms.grace(cpus[0], target)
    assert not rooms.grace(cpus[0], rooms.snap(cpus[0]))        # but the next grace period waits for it


def test_a_grace_period_that_has_begun_does_not_count(rooms, segment, cpus):
    rooms.mode(cpus[1], "wake")
    rooms.mode(cpus[1], "kernel")
    first = rooms.snap(cpus[0])
    assert not rooms.grace(cpus[0], first)                      # begun, and held up
    later = rooms.snap(cpus[2])
    assert later > first
    rooms.mode(cpus[1], "user")
    assert rooms.grace(cpus[0], later)
    assert counter(segment, "rcu_grace_periods") == 2


# ---- call_rcu ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tables", [False, True], ids=["VMAs", "tables"])
def test_deferred_objects_are_freed_after_a_grace_period_in_batches(rooms, segment, cpus, tables):
    rooms.mode(cpus[1], "wake")
    rooms.mode(cpus[1], "kernel")
    first = rooms.defer(cpus[0], 3, tables)
    rooms.rcu_step(cpus[0], "process")
    second = rooms.defer(cpus[0], 2, tables)
    for _ in range(200):
        rooms.rcu_step(cpus[0], "process")
    assert waiting(segment) == (3, 2)                           # the reader holds all of it up
    assert counter(segment, "rcu_callbacks") == 0
    rooms.mode(cpus[1], "user")
    freed = []
    while waiting(segment) != (0, 0):
        before = counter(segment, "rcu_callbacks")
        rooms.rcu_step(cpus[0], "process")
        freed.append(counter(segment, "rcu_callbacks") - before)
    assert [n for n in freed if n] == [3, 2]                    # the older batch first
    if tables:
        assert counter(segment, "pgfree") == 5
        assert counter(segment, "nr_page_table_pages") == 0
    else:
        stack = rooms.vma_stack(cpus[0], 5)
        assert set(stack[:2]) == set(second) and set(stack[2:]) == set(first)


@pytest.mark.parametrize("users", [1, 2])
def test_T2_an_unmapped_vma_is_kept_for_a_grace_period_if_others_may_look(rooms, segment, cpus, users):
    start, length, rw, anon_fixed = 0x2000_0000_0000, 4096, 3, 0x32
    assert cpus[0].exec(1) == 0
    if users == 2:
        assert cpus[1].attach(1) == 0
    assert cpus[0].mmap(start, length, rw, anon_fixed) == start
    vma = int(segment.view("mm")["vma_first"][1])
    assert cpus[0].munmap(start, length) == 0
    assert segment.view("vma")["freed"][vma] == 1
    assert (vma in rooms.vma_stack(cpus[0], 100)) == (users == 1)
    cpus[0].rcu_drain()
    assert vma in rooms.vma_stack(cpus[0], 100)


def test_polling_is_enough(rooms, segment, cpus):
    rooms.defer(cpus[0], 1)
    for _ in range(4 * 64):
        rooms.rcu_step(cpus[0], "poll")
    assert waiting(segment) == (0, 0)
    assert counter(segment, "rcu_callbacks") == 1


@pytest.mark.parametrize("deferred, drained", [(RCU_HIGH, False), (RCU_HIGH + 1, True)])
def test_a_cpu_that_defers_too_much_drives_a_grace_period(rooms, segment, cpus, deferred, drained):
    rooms.defer(cpus[0], deferred)
    rooms.rcu_step(cpus[0], "relieve")
    assert counter(segment, "rcu_backpressure") == drained
    assert (waiting(segment) == (0, 0)) == drained


def test_short_memory_lowers_the_mark(rooms, segment, cpus):
    rooms.defer(cpus[0], 65)
    rooms.rcu_step(cpus[0], "relieve")
    assert counter(segment, "rcu_backpressure") == 0
    while segment.view("seg")["node"]["zone"]["free"].sum() >= len(segment.view("frame")) >> 4:
        assert rooms.take(cpus[0])
    rooms.rcu_step(cpus[0], "relieve")
    assert counter(segment, "rcu_backpressure") == 1
    assert waiting(segment) == (0, 0)


def test_a_barrier_finishes_both_batches(rooms, segment, cpus):
    rooms.defer(cpus[0], 10)
    rooms.rcu_step(cpus[0], "process")
    rooms.defer(cpus[0], 10, True)
    rooms.rcu_step(cpus[0], "barrier")
    assert waiting(segment) == (0, 0)
    assert counter(segment, "rcu_callbacks") == 20
