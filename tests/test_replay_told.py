"""Replays of what `shmm record` records: told execs, files and flags, and pages that come without a user's fault.

Stories are judged by the model, which says of each fault whether it will happen again, and whether for the same reason;
test_replay.py runs recordings of the same things on the engine."""

import pytest
from recorded import ANON, PRIVATE_FILE, STACK, Story, count, lineage_of, translation_of

from shmm.cluster.replay.calls import ABSENT_THERE, PRESENT_THERE
from shmm.cluster.replay.presence import AROUND, FAULTS, FILE_PAGE
from shmm.cluster.replay.trace import parse
from shmm.program import OP

BASE, LIB, FAR = 0x555555000000, 0x7F0000000000, 0x7E0000000000
PAGE, HUGE = 4096, 2 << 20
FORK, THREAD, SPAWN = 0x1200000, 0x3D0F00, 0x4100
POPULATE, SHARED_MEMORY = 0x8022, 0x21
HUGEPAGE, WIPEONFORK, POPULATE_WRITE, DONTNEED = 14, 18, 23, 4


@pytest.fixture
def story():
    made = Story()
    made.told("a", 10, BASE)
    return made


def operations(translation) -> list[str]:
    """The names of all records, CPU by CPU."""
    names = {number: name for name, number in OP.items()}
    return [names[int(record["op"])] for program in translation.programs for record in program]


def fork(story: Story, child: int, call: str = "clone3", flags: int = FORK, before=lambda: None) -> None:
    """A clone as it is recorded.  before: what the kernel does in the child before it returns."""
    story.enter("a", 10, call, **({"uargs": 1, "size": 88} if call == "clone3" else {}))
    story.new_task("a", 10, flags)
    story.exit("a", 10, call, child)
    before()
    story.exit("a", child, call, 0)


# ---- told, not inferred --------------------------------------------------------------------------------------------


def test_an_exec_is_where_perf_says(story):
    story.fault("a", 10, BASE, "x")
    story.fault("a", 10, BASE + 0x1F000, "x", BASE)         # would be taken for an exec, if none was told
    story.call("a", 10, "brk", BASE + 0x1000000, brk=0)
    story.told("b", 10, BASE + 0x10000000)
    story.fault("b", 10, BASE + 0x10000000, "x")
    lineage = lineage_of(story.trace())
    assert count(lineage, "exec") == 2 and count(lineage, "mapped") == 4


def test_a_file_is_one_file_wherever_it_is_mapped(story):
    story.fault("a", 10, BASE, "x")
    story.told("b", 11, BASE + 0x10000000)
    story.mmap("b", 11, LIB, 0x20000, 1, PRIVATE_FILE, 3)
    trace = story.trace()
    translation = translation_of(trace)
    assert len(translation.files) == 1 + 1                  # the program's, and one that nothing is told of
    story.enter("b", 11, "mmap", addr=0, len=0x8000, prot=1, flags=PRIVATE_FILE, fd=3, off=0x4000)
    story.mapped("b", 11, FAR, 0x8000, "r--p", offset=0x4000)
    story.exit("b", 11, "mmap", FAR)
    assert len(translation_of(story.trace()).files) == 1 + 1


def test_told_data_is_written_apart_from_its_text(story):
    story.fault("a", 10, BASE + 0x20000, "w")
    story.fault("a", 10, BASE + 0x10000, "r")
    story.fault("a", 10, STACK + 0x20000, "w")
    translation = translation_of(story.trace())
    assert translation.expected == [FAULTS] * 3 and not translation.differed
    assert translation.counts["inferred mappings"] == 1     # the stack, of which all is there from the beginning


def test_the_vdso_knows_no_fault_around(story):
    story.mapped("a", 10, LIB, 2 * PAGE, "r-xp", 0, 0, "[vdso]")
    for page in range(2):
        story.fault("a", 10, LIB + page * PAGE, "r", BASE)
    assert translation_of(story.trace()).expected == [FAULTS] * 2


@pytest.mark.parametrize(("call", "flags", "forks"), [
    ("clone3", FORK, 1), ("clone3", THREAD, 0), ("clone3", SPAWN, 0), ("vfork", SPAWN, 0), ("fork", FORK, 1),
])
def test_the_flags_say_whether_a_clone_was_a_fork(story, call, flags, forks):
    fork(story, 11, call, flags)
    story.fault("a", 11, BASE + 0x20000, "w")
    assert count(lineage_of(story.trace()), "fork") == forks


# ---- pages that come without a user's fault -------------------------------------------------------------------------


def test_a_fault_of_the_kernel_brings_a_page(story):
    story.mmap("a", 10, LIB, 2 * PAGE)
    story.kernel_fault("a", 10, LIB, "w")
    story.kernel_fault("a", 10, 0xFFFF800000000000, "w")    # its own memory is no matter of ours
    fork(story, 11)
    story.fault("a", 10, LIB, "cow")
    translation = translation_of(story.trace())
    assert (translation.expected, translation.differed) == ([FAULTS], {})
    assert translation.counts["kernel-mode faults"] == 1


def test_without_it_the_difference_is_told(story):
    story.mmap("a", 10, LIB, 2 * PAGE)
    fork(story, 11)
    story.fault("a", 10, LIB, "cow")
    assert translation_of(story.trace()).differed == {PRESENT_THERE: 1}


def test_what_the_kernel_does_in_a_child_before_it_returns_is_the_child_s(story):
    story.mmap("a", 10, LIB, PAGE)
    story.fault("a", 10, LIB, "w")
    fork(story, 11, before=lambda: story.kernel_fault("a", 11, LIB, "cow"))
    lineage = lineage_of(story.trace())
    steps = {step.what: step for step in lineage.steps}
    assert count(lineage, "fork") == 1 and count(lineage, "exec") == 1
    assert steps["kernel_fault"].space is steps["fork"].other


@pytest.mark.parametrize("how", ["MAP_POPULATE", "mlock", "MADV_POPULATE_WRITE"])
def test_populated_pages_are_present(story, how):
    story.mmap("a", 10, LIB, 8 * PAGE, flags=POPULATE if how == "MAP_POPULATE" else ANON)
    if how == "mlock":
        story.call("a", 10, "mlock", 0, start=LIB, len=8 * PAGE)
    elif how == "MADV_POPULATE_WRITE":
        story.call("a", 10, "madvise", 0, start=LIB, len_in=8 * PAGE, behavior=POPULATE_WRITE)
    fork(story, 11)
    story.fault("a", 11, LIB + 5 * PAGE, "cow")
    translation = translation_of(story.trace())
    assert (translation.expected, translation.differed) == ([FAULTS], {})
    assert "TOUCH" in operations(translation) and translation.counts["pages populated"] == 8


def test_memory_wiped_on_fork_is_empty_in_the_child(story):
    story.mmap("a", 10, LIB, 2 * PAGE)
    story.fault("a", 10, LIB, "w")
    story.call("a", 10, "madvise", 0, start=LIB, len_in=2 * PAGE, behavior=WIPEONFORK)
    fork(story, 11)
    story.fault("a", 11, LIB, "w")                          # absent, not shared
    translation = translation_of(story.trace())
    assert (translation.expected, translation.differed) == ([FAULTS] * 2, {})


def test_what_has_taken_a_page_of_a_file_away_is_named(story):
    story.mmap("a", 10, LIB, 2 * PAGE, flags=SHARED_MEMORY)
    for _ in range(2):
        story.fault("a", 10, LIB, "w")
    assert translation_of(story.trace()).expected == [FAULTS, FILE_PAGE]


def test_read_only_data_that_was_writable_is_copied_at_fork_and_its_neighbour_is_not(story):
    """The first was accounted, so the two never merge."""
    story.mapped("a", 10, LIB, 16 * PAGE, "r--p", inode=8)
    story.mapped("a", 10, LIB + 16 * PAGE, 16 * PAGE, "rw-p", inode=8, offset=16 * PAGE)
    story.fault("a", 10, LIB + 16 * PAGE, "w", BASE)
    story.fault("a", 10, LIB, "r", BASE)
    story.call("a", 10, "mprotect", 0, start=LIB + 16 * PAGE, len=16 * PAGE, prot=1)
    fork(story, 11)
    story.fault("a", 11, LIB, "r", BASE)                    # not copied
    story.fault("a", 11, LIB + 16 * PAGE, "r", BASE)        # copied: this cannot be
    assert translation_of(story.trace()).expected[2:] == [FAULTS, "mapped by the copy at fork"]


def test_fault_around_is_still_a_cause(story):
    story.mapped("a", 10, LIB, 0x100000, "r--p", inode=8)
    for window in range(16):
        story.fault("a", 10, LIB + window * 16 * PAGE, "r", BASE)
    story.fault("a", 10, LIB + PAGE, "r", BASE)             # one page was not ready: that makes no cold file
    assert translation_of(story.trace()).expected == [FAULTS] * 16 + [AROUND]


# ---- huge pages ------------------------------------------------------------------------------------------------------


def huge(story: Story, *pages: int, advised: int = 2 * HUGE) -> None:
    story.mmap("a", 10, LIB, 2 * HUGE)
    story.call("a", 10, "madvise", 0, start=LIB, len_in=advised, behavior=HUGEPAGE)
    for page in pages:
        story.fault("a", 10, LIB + page * PAGE, "w", BASE)


@pytest.mark.parametrize(("pages", "advised", "found"), [
    ((5,), 2 * HUGE, 1), ((5, 517), 2 * HUGE, 2), ((5, 6), 2 * HUGE, 0), ((5,), HUGE - PAGE, 0), ((517,), HUGE, 0),
])
def test_a_write_to_advised_memory_maps_a_huge_page_unless_another_contradicts_it(story, pages, advised, found):
    huge(story, *pages, advised=advised)
    translation = translation_of(story.trace())
    assert translation.counts["huge pages"] == found
    assert set(translation.expected) == {FAULTS} and translation.pages >= 512 * found


def test_pages_of_a_huge_page_are_shared_at_fork(story):
    huge(story, 5)
    fork(story, 11)
    for page in (0, 5, 511):
        story.fault("a", 11, LIB + page * PAGE, "cow", BASE)
    translation = translation_of(story.trace())
    assert set(translation.expected) == {FAULTS} and not translation.differed


def test_a_part_that_was_given_back_is_no_contradiction(story):
    huge(story, 5)
    story.call("a", 10, "madvise", 0, start=LIB, len_in=8 * PAGE, behavior=DONTNEED)
    story.fault("a", 10, LIB + PAGE, "w", BASE)
    translation = translation_of(story.trace())
    assert translation.counts["huge pages"] == 1 and set(translation.expected) == {FAULTS}


# ---- mremap ----------------------------------------------------------------------------------------------------------


def remapped(story: Story, between=lambda: None, flags: int = 1, length: int = 8) -> None:
    story.mmap("a", 10, LIB, 8 * PAGE)
    for page in range(8):
        story.fault("a", 10, LIB + page * PAGE, "w", BASE)
    story.enter("a", 10, "mremap", addr=LIB, old_len=8 * PAGE, new_len=length * PAGE, flags=flags, new_addr=0)
    between()
    story.exit("a", 10, "mremap", FAR if flags & 1 else LIB)


def test_pages_move_with_their_mapping(story):
    remapped(story)
    fork(story, 11)
    story.fault("a", 11, FAR + 3 * PAGE, "cow", BASE)
    translation = translation_of(story.trace())
    assert set(translation.expected) == {FAULTS} and not translation.differed
    assert operations(translation).count("MREMAP") == 1


def test_dontunmap_leaves_an_empty_mapping(story):
    remapped(story, flags=1 | 4)
    story.fault("a", 10, LIB + PAGE, "w", BASE)
    translation = translation_of(story.trace())
    assert set(translation.expected) == {FAULTS} and not translation.differed


@pytest.mark.parametrize(("length", "page"), [(4, 3), (12, 7)])
def test_in_place_pages_stay(story, length, page):
    remapped(story, flags=0, length=length)
    fork(story, 11)
    story.fault("a", 11, LIB + page * PAGE, "cow", BASE)
    if length == 12:
        story.fault("a", 11, LIB + 10 * PAGE, "w", BASE)    # new
    translation = translation_of(story.trace())
    assert set(translation.expected) == {FAULTS}
    assert not translation.differed and operations(translation).count("MREMAP") == 1


def test_a_call_that_meets_another_is_done_in_two_steps(story):
    fork(story, 11, flags=THREAD)
    remapped(story, between=lambda: story.mmap("a", 11, LIB + 0x100000, PAGE))
    translation = translation_of(story.trace())
    assert "MREMAP" not in operations(translation) and translation.counts["mremaps in two steps"] == 1


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_lost_events_and_lines_of_perf_that_say_nothing_here():
    trace = parse(["ls 7/7 [000] 1.0: PERF_RECORD_LOST lost 41", "ls 7/7 [000] 1.0: PERF_RECORD_FORK(8:8):(7:7)",
                   "ls 7/7 [000] 1.0: PERF_RECORD_COMM: ls:7/7", "ls 7/7 [000] 1.0: PERF_RECORD_EXIT(8:8):(7:7)",
                   "swapper 0/0 [000] 0.0: PERF_RECORD_MMAP -1/0: [0xffffffff81000000(0x1) @ 0]: x [kernel]",
                   "ls 7/7 [000] 1.0: PERF_RECORD_MMAP2 7/7: torn"])
    assert (trace.lost, trace.events, trace.unparsed) == (41, [], 1)


def test_a_differing_page_is_named_in_both_directions(story):
    story.mmap("a", 10, LIB, PAGE)
    story.fault("a", 10, LIB, "r", BASE)
    story.fault("a", 10, LIB, "w", BASE)                    # here the page of zeros is there
    assert translation_of(story.trace()).differed == {ABSENT_THERE: 1}
