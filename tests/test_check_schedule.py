"""Schedules as text: what is written is read back, and what cannot be read is said in one line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmm.cluster.check import schedule
from shmm.cluster.check.scenario import MEMORIES, VARIANTS, available
from shmm.cluster.check.schedule import MUTANTS, OLD_VALUE, Schedule, ScheduleError
from shmm.cluster.config import SCHEMES

STEPS = st.integers(0, 999_999_999)
TURNS = st.tuples(st.integers(0, 3), STEPS, st.integers(0, OLD_VALUE - 1), st.integers(0, 1))
OLD_VALUES = st.tuples(st.integers(0, 3), STEPS, st.just(OLD_VALUE), st.integers(1, 30))
SCHEDULES = st.builds(
    Schedule, st.sampled_from(available()), st.sampled_from(SCHEMES), st.sampled_from(list(VARIANTS)),
    st.sampled_from(MEMORIES), st.sampled_from(MUTANTS), st.lists(TURNS | OLD_VALUES, max_size=12).map(tuple),
)


@given(SCHEDULES)
def test_what_is_written_is_read_back(one):
    text = schedule.format(one)
    assert schedule.parse(text) == one
    assert re.fullmatch(r"[A-Za-z0-9_/:.,]+", text), "a shell takes it as one word"


def test_the_letters():
    text = "two_faults/spf/base/weak/SEQ2:0.119s1,1.20S0,2.3d1,3.4i0,0.5T1,1.6o2"
    assert schedule.parse(text) == Schedule("two_faults", "spf", "base", "weak", "SEQ2", (
        (0, 119, 1, 0), (1, 20, 0, 1), (2, 3, 5, 0), (3, 4, 8, 0), (0, 5, 13, 1), (1, 6, 16, 2)))


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not a schedule: scenario/scheme/variant/memory/mutant:deviations"),
    ("two_faults:0.1s1", "is not a schedule"),
    ("two_faults/spf/base/sc/NONE", "is not a schedule"),
    ("no/spf/base/sc/NONE:", "there is no scenario 'no'"),
    ("two_faults/rcu/base/sc/NONE:", "there is no scheme 'rcu'; there are mmap_lock, spf"),
    ("two_faults/spf/other/sc/NONE:", "there is no variant 'other'"),
    ("two_faults/spf/base/arm/NONE:", "there is no memory model 'arm'"),
    ("two_faults/spf/base/sc/SEQ3:", "there is no mutant 'SEQ3'"),
    ("two_faults/spf/base/sc/NONE:0.1", "'0.1' is not a deviation such as 0.119s1"),
    ("two_faults/spf/base/sc/NONE:0.1s1,", "'' is not a deviation"),
    ("two_faults/spf/base/sc/NONE:4.1s1", "'4.1s1' is not a deviation"),
    ("two_faults/spf/base/sc/NONE:0.\N{ARABIC-INDIC DIGIT ONE}s1", "is not a deviation"),
    ("two_faults/spf/base/sc/NONE:0.1s4", "names CPU 4, of 0 to 3"),
    ("two_faults/spf/base/sc/NONE:0.1o31", "goes 31 stores back"),
    ("x" * 5000, "is not a schedule"),
])
def test_a_bad_schedule_is_one_clear_line(text, message):
    with pytest.raises(ScheduleError) as caught:
        schedule.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_hold_comments_and_schedules(tmp_path):
    kept = [schedule.parse("two_faults/spf/base/sc/PTE_NONE:0.3s1"), schedule.parse("two_faults/spf/base/sc/NONE:")]
    schedule.write(tmp_path / "kept.txt", ["why", "since when"], kept)
    assert (tmp_path / "kept.txt").read_text().startswith("# why\n# since when\ntwo_faults/")
    assert schedule.read(tmp_path / "kept.txt") == kept


@pytest.mark.parametrize(("content", "message"), [
    (b"# nothing\n\n", "holds no schedule"),
    (b"# fine\ntwo_faults/spf/base/sc/NONE:zz\n", "line 2: "),
    (b"\xff\xfe", "cannot read"),
])
def test_a_bad_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "kept.txt").write_bytes(content)
    with pytest.raises(ScheduleError, match=message) as caught:
        schedule.read(tmp_path / "kept.txt")
    assert "\n" not in str(caught.value)
