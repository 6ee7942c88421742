"""What docs/spf.md names exists: 35 patches in order, rooms, functions, counters, mutants, scenarios, tests."""

import re
from pathlib import Path

import pytest

from shmm.cluster.check.questions import QUESTIONS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "spf.md").read_text()
REFERENCE = re.compile(r"`([a-z_]+/[a-z_]+\.pxd)`:\s*`(\w+)`")
ROOM = re.compile(r"`((?:mm|scheme|exec|arch)/\w+\.\w+|shmm/[\w/]+\.\w+)`")
PATCH = re.compile(r"^\*\*(\d+)\. (.+?)\*\*", re.MULTILINE)


def counters() -> set[str]:
    return set(re.findall(r"X\((\w+)\)", (ROOT / "shmm" / "counters.h").read_text()))


def mutants() -> set[str]:
    return set(re.findall(r'^\tX\((\w+), "\w+"', (ROOT / "shmm" / "arch" / "mutants.h").read_text(), re.MULTILINE))


def scenarios() -> set[str]:
    return {path.stem for path in (ROOT / "tests" / "scenarios").glob("*.py")}


def functions_of_tests() -> set[str]:
    return {name for path in (ROOT / "tests").glob("test_*.py")
            for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}


def patches() -> dict[int, str]:
    """Each patch's paragraphs, up to the next patch or heading."""
    return {int(found[1]): re.split(r"^(?:\*\*\d+\. |## )", TEXT[found.end():], maxsplit=1, flags=re.MULTILINE)[0]
            for found in PATCH.finditer(TEXT)}


def said(words: str) -> set[str]:
    """What stands in backticks in the sentences that begin with these words, up to an empty line or the next label."""
    return {name for part in re.findall(rf"^{words}(.*?)(?=^Held by|^Counters?:|^$|\Z)", TEXT, re.MULTILINE | re.DOTALL)
            for name in re.findall(r"`([\w-]+)`", part)}


def test_all_35_patches_are_there_in_order():
    assert [int(found[1]) for found in PATCH.finditer(TEXT)] == list(range(1, 36))
    assert all(title.endswith(".") for _, title in PATCH.findall(TEXT))
    assert all(len(text) > 80 for text in patches().values())


def test_references_are_found():
    """Else the tests below hold of nothing."""
    assert len(REFERENCE.findall(TEXT)) > 60
    assert len(said("Held by")) > 90
    assert len(said("Counters?:")) > 20


@pytest.mark.parametrize(("room", "function"), sorted(set(REFERENCE.findall(TEXT))))
def test_a_function_that_is_named_exists_in_its_room(room, function):
    source = (ROOT / "shmm" / room).read_text()
    assert re.search(rf"^cdef inline [^(]*?\b{function}\(", source, re.MULTILINE)


@pytest.mark.parametrize("room", sorted(set(ROOM.findall(TEXT))))
def test_a_room_that_is_named_exists(room):
    assert (ROOT / "shmm" / room.removeprefix("shmm/")).is_file()


def test_what_holds_a_patch_to_its_promise_exists():
    assert said("Held by") - mutants() - scenarios() - functions_of_tests() == set()


def test_counters_and_mutants_that_are_named_exist():
    assert said("Counters?:") - counters() == set()
    assert {name for name in re.findall(r"`(SPF_\w+)`", TEXT)} - counters() == set()
    holes = TEXT[TEXT.index("## Holes"):TEXT.index("## Where we differ")]
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)`", holes)) <= mutants()


def test_every_reason_to_abort_is_named():
    assert {name for name in counters() if name.startswith("SPF_")} == set(re.findall(r"`(SPF_\w+)`", TEXT))


def test_questions_that_are_named_exist():
    table = TEXT[TEXT.index("## What reviewers asked"):TEXT.index("## Holes")]
    named = {name for row in re.findall(r"^\|.*\| (`.*`) \|$", table, re.MULTILINE)
             for name in re.findall(r"`([\w-]+)`", row)}
    assert len(named) > 12
    assert named <= set(QUESTIONS)


def test_other_documents_count_right():
    """How many scenarios and mutants there are, wherever it is said."""
    said_by = (ROOT / "CHANGELOG.md").read_text() + (ROOT / "docs" / "checking.md").read_text()
    assert {int(n) for n in re.findall(r"(?:explores|names) (\d+) scenarios", said_by)} == {len(scenarios()) - 1}
    assert {int(n) for n in re.findall(r"each of (\d+) protections", said_by)} == {len(mutants())}
