"""Execs, forks and address spaces are inferred rightly: from recordings whose truth is known, and from stories."""

from pathlib import Path

import pytest
from recorded import ANON, FIXED, SHARED_ANON, Story, count, lineage_of, translation_of

from shmm.cluster.replay.presence import FAULTS
from shmm.cluster.replay.trace import FAULT, Trace, read

TRACES = Path(__file__).parent / "traces"
TRUTH = {"threads": (1, 0), "remap": (2, 0), "spawn": (6, 4), "shell": (8, 6), "fixed": (5, 1)}
SH, LS, LIB, STACK = 0x555555000000, 0x565656000000, 0x7F0000000000, 0x7FFC00000000
CLONE_FORK, CLONE_THREAD, CLONE_VFORK = 0x1200011, 0x3D0F00, 0x4111


def recorded(name: str) -> Trace:
    return read(TRACES / f"{name}.txt.xz")


def spaces(trace: Trace) -> list[list[int]]:
    """The lines of the faults in each address space, in order of appearance."""
    out: dict[int, list[int]] = {}
    for step in lineage_of(trace).steps:
        if step.what == "fault":
            out.setdefault(id(step.space), []).append(trace.events[step.index].line)
    return list(out.values())


# ---- recordings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRUTH)
def test_as_many_execs_and_forks_as_there_were(name):
    lineage = lineage_of(recorded(name))
    assert (count(lineage, "exec"), count(lineage, "fork")) == TRUTH[name]


@pytest.mark.parametrize("name", TRUTH)
def test_flushes_are_a_help_and_no_need(name):
    trace = recorded(name)
    trace.events = [event for event in trace.events if event.name != "tlb_flush"]
    lineage = lineage_of(trace)
    assert (count(lineage, "exec"), count(lineage, "fork")) == TRUTH[name]


@pytest.mark.parametrize("name", TRUTH)
def test_one_number_per_thread_is_enough(name):
    trace = recorded(name)
    trace.paired = False
    for event in trace.events:
        event.pid = event.tid
    lineage = lineage_of(trace)
    assert (count(lineage, "exec"), count(lineage, "fork")) == TRUTH[name]


@pytest.mark.parametrize("name", TRUTH)
def test_every_fault_is_expected_again(name):
    translation = translation_of(recorded(name))
    wrong = [text for text in translation.expected if text not in (FAULTS, "no permission")]
    assert len(wrong) <= 0.003 * len(translation.expected), wrong[:5]


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_recordings_may_begin_in_the_middle(name, share):
    trace = recorded(name)
    trace.events = trace.events[int(share * len(trace.events)):]
    translation = translation_of(trace)
    wrong = [text for text in translation.expected if text not in (FAULTS, "no permission")]
    assert len(wrong) <= 0.02 * len(translation.expected), wrong[:5]


@pytest.mark.parametrize("name", TRUTH)
def test_every_thread_leaves_what_it_entered(name):
    inside: dict[int, object] = {}
    for step in lineage_of(recorded(name)).steps:
        if step.what in ("exec", "attach"):
            assert id(step.task) not in inside
            inside[id(step.task)] = step.space
        elif step.what == "leave":
            assert inside.pop(id(step.task)) is step.space
        else:
            assert inside[id(step.task)] is step.space
    assert inside == {}


# ---- exec ----------------------------------------------------------------------------------------------------------


def shell(flushes: bool = True) -> Story:
    """A program that has done a few things."""
    story = Story()
    story.image("sh", 10, SH, flushes)
    story.mmap("sh", 10, LIB, 0x100000)
    for page in range(8):
        story.fault("sh", 10, LIB + page * 4096, "w", SH + 0x200)
    story.fault("sh", 10, STACK, "w", SH + 0x300)
    return story


@pytest.mark.parametrize("comm", ["sh", "ls"])
@pytest.mark.parametrize("flushes", [True, False])
def test_a_new_image_is_an_exec_whatever_its_name(comm, flushes):
    story = shell(flushes)
    story.image(comm, 10, LS, flushes)
    story.fault(comm, 10, LS + 0x50000, "w", LS + 0x10)
    assert [len(faults) for faults in spaces(story.trace())] == [12, 4]


def test_a_static_program_without_brk_at_the_same_address_is_an_exec():
    story = Story()
    for _ in range(2):
        for page in range(6):
            story.fault("go", 10, 0x400000 + page * 0x1000, "x")
            story.fault("go", 10, 0x500000 + page * 0x1000, "w", 0x400000)
    assert [len(faults) for faults in spaces(story.trace())] == [12, 12]


def test_a_new_name_is_no_exec():
    story = shell()
    story.fault("worker", 10, SH + 0x1000, "x")
    story.fault("worker", 10, SH + 0x42000, "w", SH + 0x1000)
    story.call("worker", 10, "brk", SH + 0x1000000, brk=0)
    story.fault("worker", 10, LIB + 0x20000, "w", SH + 0x1000)
    assert len(spaces(story.trace())) == 1


def test_no_exec_while_another_thread_lives_on():
    story = shell()
    story.call("sh", 10, "clone3", 11, uargs=1, size=88)
    story.exit("sh", (10, 11), "clone3", 0)
    story.image("other", 10, LS)
    story.fault("sh", (10, 11), LIB + 0x30000, "w", SH + 0x200)
    assert len(spaces(story.trace())) == 1


# ---- fork, vfork, threads ------------------------------------------------------------------------------------------


def test_fork_copies_and_the_child_goes_on_alone():
    story = shell()
    story.enter("sh", 10, "clone", clone_flags=CLONE_FORK)
    story.exit("sh", 10, "clone", 11)
    story.fault("sh", 10, LIB, "cow", SH)
    story.exit("sh", 11, "clone", 0)
    story.fault("sh", 11, LIB + 4096, "cow", SH)
    trace = story.trace()
    assert [len(faults) for faults in spaces(trace)] == [13, 1]
    assert set(translation_of(trace).expected) == {FAULTS}


def test_a_thread_shares_and_a_vforked_child_shares_until_it_execs():
    story = shell()
    story.call("sh", 10, "clone", 11, clone_flags=CLONE_THREAD)
    story.exit("sh", (10, 11), "clone", 0)
    story.fault("sh", (10, 11), LIB + 0x10000, "w", SH)
    story.enter("sh", 10, "clone", clone_flags=CLONE_VFORK)
    story.exit("sh", 12, "clone", 0)
    story.fault("sh", 12, LIB + 0x11000, "w", SH)
    story.image("ls", 12, LS)
    story.exit("sh", 10, "clone", 12)
    story.fault("sh", 10, LIB + 0x12000, "w", SH)
    assert [len(faults) for faults in spaces(story.trace())] == [12 + 3, 3]


def test_clone3_was_a_fork_if_parent_and_child_run_on():
    story = shell()
    story.call("sh", 10, "clone3", 11, uargs=1, size=88)
    story.exit("sh", 11, "clone3", 0)
    story.fault("sh", 11, LIB, "cow", SH)
    story.fault("sh", 10, LIB, "cow", SH)
    lineage = lineage_of(story.trace())
    assert (count(lineage, "fork"), count(lineage, "exec")) == (1, 1)


def test_an_unrecorded_vfork_is_recognised_by_its_addresses():
    story = shell()
    story.fault("sh", 12, LIB + 0x40000, "w", SH)
    story.image("ls", 12, LS)
    story.fault("sh", 10, LIB + 0x41000, "w", SH)
    assert [len(faults) for faults in spaces(story.trace())] == [14, 3]


def test_a_process_beside_its_like_is_no_vfork():
    story = shell()
    for page in range(3):
        story.fault("sh", 12, LIB + 0x40000 + page * 4096, "w", SH)
        story.fault("sh", 10, LIB + 0x60000 + page * 4096, "w", SH)
    assert [len(faults) for faults in spaces(story.trace())] == [15, 3]


def test_children_of_another_pid_namespace_are_matched_in_order():
    story = shell()
    story.call("sh", 10, "clone", 3, clone_flags=CLONE_FORK)
    story.exit("sh", 4711, "clone", 0)
    story.fault("sh", 4711, LIB, "cow", SH)
    lineage = lineage_of(story.trace())
    assert (count(lineage, "fork"), count(lineage, "bury")) == (1, 0)


def test_a_fork_whose_child_is_never_seen_still_shares_the_parents_pages():
    story = shell()
    story.call("sh", 10, "clone", 11, clone_flags=CLONE_FORK)
    story.fault("sh", 10, LIB, "cow", SH)
    trace = story.trace()
    assert count(lineage_of(trace), "bury") == 1
    assert set(translation_of(trace).expected) == {FAULTS}


def test_failed_clones_make_nobody():
    story = shell()
    story.call("sh", 10, "clone", -11, clone_flags=CLONE_FORK)
    assert count(lineage_of(story.trace()), "fork") == 0


def test_a_thread_number_may_be_used_again():
    story = shell()
    for turn in range(2):
        story.call("sh", 10, "clone", 11, clone_flags=CLONE_FORK)
        story.exit("sh", 11, "clone", 0)
        story.fault("sh", 11, LIB + turn * 4096, "cow", SH)
    lineage = lineage_of(story.trace())
    assert (count(lineage, "fork"), count(lineage, "attach"), count(lineage, "leave")) == (2, 2, 3)


# ---- calls ---------------------------------------------------------------------------------------------------------


def test_a_call_that_frees_acts_when_entered_and_one_that_takes_when_it_returns():
    story = shell()
    story.call("sh", 10, "clone3", 11, uargs=1, size=88)
    story.exit("sh", (10, 11), "clone3", 0)
    story.enter("sh", (10, 11), "mmap", addr=0, len=0x100000, prot=3, flags=ANON, fd=0xFFFFFFFF, off=0)
    story.enter("sh", 10, "munmap", addr=LIB, len=0x100000)
    story.exit("sh", 10, "munmap", 0)
    story.exit("sh", (10, 11), "mmap", LIB)
    story.fault("sh", (10, 11), LIB + 4096, "w", SH)
    assert translation_of(story.trace()).expected[-1] == FAULTS


def test_two_mremaps_at_once_keep_apart():
    story = shell()
    story.call("sh", 10, "clone3", 11, uargs=1, size=88)
    story.exit("sh", (10, 11), "clone3", 0)
    story.mmap("sh", 10, LIB - 0x200000, 0x10000)
    story.enter("sh", 10, "mremap", addr=LIB - 0x200000, old_len=0x10000, new_len=0x20000, flags=1, new_addr=0)
    story.enter("sh", (10, 11), "mremap", addr=LIB, old_len=0x100000, new_len=0x200000, flags=1, new_addr=0)
    story.exit("sh", 10, "mremap", LIB - 0x400000)
    story.exit("sh", (10, 11), "mremap", LIB - 0x800000)
    story.fault("sh", 10, LIB - 0x400000 + 0x1F000, "w", SH)
    story.fault("sh", (10, 11), LIB - 0x800000 + 0x1FF000, "w", SH)
    translation = translation_of(story.trace())
    assert translation.expected[-2:] == [FAULTS, FAULTS]
    assert translation.counts["mremaps in two steps"] == 2


def test_refused_and_unfinished_calls_change_nothing():
    story = shell()
    story.call("sh", 10, "mmap", -12, addr=LIB, len=0x100000, prot=0, flags=FIXED, fd=0xFFFFFFFF, off=0)
    story.fault("sh", 10, LIB + 0x80000, "w", SH)
    story.enter("sh", 10, "munmap", addr=LIB, len=0x100000)
    translation = translation_of(story.trace())
    assert translation.expected[-1] == FAULTS
    assert (translation.counts["failed calls"], translation.counts["calls without a result"]) == (1, 1)


def test_what_nobody_mapped_is_found_and_what_is_no_memory_is_not():
    story = shell()
    for address in (0x10, 0x10, LIB - 0x40000000, 2**64 - 0xA00000):
        story.fault("sh", 10, address, "r", SH)
    assert translation_of(story.trace()).expected[-4:] == ["not mapped", "not mapped", FAULTS, "not mapped"]


def test_shared_memory_is_not_copied_by_fork():
    story = shell()
    story.mmap("sh", 10, LIB + 0x1000000, 0x10000, flags=SHARED_ANON)
    story.fault("sh", 10, LIB + 0x1000000, "w", SH)
    story.call("sh", 10, "clone", 11, clone_flags=CLONE_FORK)
    story.exit("sh", 11, "clone", 0)
    story.fault("sh", 11, LIB + 0x1000000, "w", SH)
    story.fault("sh", 10, LIB + 0x1000000, "cow", SH)
    translation = translation_of(story.trace())
    assert translation.expected[-2] == FAULTS
    assert translation.expected[-1] != FAULTS               # still writable in the parent
    assert translation.files[-1] == (16, True)


def test_steps_keep_the_recorded_order():
    trace = recorded("spawn")
    faults = [step.index for step in lineage_of(trace).steps if step.what == "fault"]
    assert faults == [i for i, event in enumerate(trace.events) if event.name == FAULT]
