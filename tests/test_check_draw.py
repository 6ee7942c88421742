"""Drawings and timelines of schedules: who did what, where in the source, by names instead of offsets."""

import json
import re

import pytest

from shmm.cluster.check import draw, schedule, symbols, timeline
from shmm.cluster.check.explore import Task, run, stage_of
from shmm.cluster.check.scenario import ARENA, PAGE


def drawn(task: Task, width: int = 120) -> list[str]:
    """The drawing of what a task finds."""
    one = schedule.parse(run(task)["violation"]["schedule"])
    with stage_of(one) as stage:
        return draw.whole(stage, one, width)[0]


@pytest.fixture(scope="module")
def race() -> list[str]:
    """A fault that commits although munmap went by."""
    return drawn(Task("fault_munmap", mutant="SEQ2"))


def test_each_cpu_has_a_column_headed_by_what_it_does(race):
    assert re.fullmatch(r"CPU 0 +CPU 1", race[0])
    assert re.fullmatch(r"store 7 at ARENA\+0x2000 +munmap\(ARENA\+0x2000, 1 page\)", race[1])
    middle = race[0].index("CPU 1")
    body = race[3:race.index("")]
    left = [line for line in body if line[:middle].strip()]
    right = [line for line in body if not line[:middle].strip()]
    assert len(left) > 5 and len(right) > 5
    assert all(line[middle - 2:middle].strip() == "" for line in body)


def test_lines_name_source_symbol_and_change(race):
    text = "\n".join(race)
    assert re.search(r"^seqcount\.pxd:\d+  mm\[1\]\.mmap_seq == \d+$", text, re.MULTILINE)
    assert re.search(r" {20}seqcount\.pxd:\d+  mm\[1\]\.mmap_seq: (\d+) -> \d+ \(odd\)$", text, re.MULTILINE)
    assert re.search(r"zap\.pxd:\d+  pte of ARENA\+0x2000 == 0$", text, re.MULTILINE)
    assert re.search(r"^page_table\.pxd:\d+  pte of ARENA\+0x2000: 0 -> frame \d+ \(wd\)$", text, re.MULTILINE)
    assert re.search(r"frame\[\d+\]\.ptl\.owner: 0 -> 1", text)


def test_the_verdict_and_how_to_see_it_again(race):
    end = race[race.index("") + 1:]
    assert end[0].startswith("I2: mm 1: page mapped outside any VMA at 0x200000002000")
    assert end[-1].startswith("shmm check --replay fault_munmap/spf/base/sc/SEQ2:")


def test_the_order_of_lines_is_the_order_of_events(race):
    at = {what: next(number for number, line in enumerate(race) if re.search(what, line))
          for what in (r"mmap_seq == ", r"\(odd\) -> ", r"zap\.pxd", r"pte of ARENA\+0x2000: 0 ->")}
    assert list(at.values()) == sorted(at.values())


def test_poison_names_who_freed():
    lines = drawn(Task("table_free_walk", mutant="TABLE_FREE_NOW"))
    assert any(re.search(r"page of frame\[\d+\] is freed", line) for line in lines)
    assert re.search(r"CPU 0 at shmm/mm/page_table\.pxd:\d+ in get_entry\(\), after shmm/mm/frame\.pxd:\d+", lines[-2])


def test_three_cpus_are_three_columns():
    lines = drawn(Task("two_writers_one_reader", mutant="RWSEM_NO_WAKE"), 150)
    assert re.fullmatch(r"CPU 0 +CPU 1 +CPU 2", lines[0])
    assert max(map(len, lines[:-3])) <= 150


def test_several_operations_of_a_cpu_are_marked():
    lines = drawn(Task("munmap_mmap", mutant="FREE_BEFORE_FLUSH"))
    assert any(line.strip() == "munmap(ARENA+0x2000, 1 page):" for line in lines)


def test_a_probe_is_headed_by_its_address():
    lines = drawn(Task("probe_munmap", mutant="PROBE_CHECK"))
    assert lines[1].startswith("probe ARENA+0x1000  ") and lines[2].startswith("probe ARENA  ")


def test_weak_drawings_show_barriers():
    assert any("fence" in line for line in drawn(Task("fault_mprotect", memory="weak", mutant="RMB_START")))


def test_a_schedule_that_breaks_nothing_is_drawn_too():
    one = schedule.parse("fault_munmap/spf/base/sc/NONE:0.40s1")
    with stage_of(one) as stage:
        lines, violation = draw.whole(stage, one)
    assert violation is None and "nothing is broken" in lines


# ---- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mangled", "name"), [
    ("__pyx_f_4shmm_2mm_4walk_pte_map_lock", "pte_map_lock"),
    ("__pyx_f_4shmm_2mm_10invariants_check_I2_I4", "check_I2_I4"),
    ("check_poison", "check_poison"),
    ("", ""),
])
def test_function_names(mangled, name):
    assert draw.function_name(mangled) == name


def test_symbols_are_those_of_the_layout():
    one = schedule.parse("fault_munmap/spf/base/sc/NONE:")
    with stage_of(one) as stage:
        names, head = symbols.Symbols(stage.segment), stage.segment.view("seg")
        mm, cpu, vma, frame = (int(head[f"{what}_off"]) for what in ("mm", "cpu", "vma", "frame"))
        for offset, name in names_of(stage.segment, mm, cpu, vma, frame):
            assert names.name(offset, 4) == name
        assert names.name(names.memory + 3 * PAGE + 5, 1).endswith("of frame[3]")
        assert names.name(names.memory + 3 * PAGE, 0) == "page of frame[3]"
        del head


def names_of(segment, mm, cpu, vma, frame):
    """Offsets and what they must be called."""
    offset = {what: {name: found[1] for name, found in segment.view(what).dtype.fields.items()}
              for what in ("seg", "cpu", "mm", "vma", "frame")}
    sizes = {what: segment.view(what).dtype.itemsize for what in offset}
    yield offset["seg"]["rcu_seq"], "seg.rcu_seq"
    yield mm + sizes["mm"] + offset["mm"]["mmap_lock"], "mm[1].mmap_lock.count"
    yield mm + sizes["mm"] + offset["mm"]["mmap_seq"], "mm[1].mmap_seq"
    yield cpu + sizes["cpu"] + offset["cpu"]["state"], "cpu[1].state"
    yield cpu + offset["cpu"]["counter"] + 8, "cpu[0].counter.pgfault"
    yield cpu + offset["cpu"]["tlb_l1"] + 3 * 16 + 8, "cpu[0].tlb_l1[3].pte"
    yield vma + 5 * sizes["vma"] + offset["vma"]["start"], "vma[5].start"
    yield frame + 7 * sizes["frame"] + offset["frame"]["ptl"] + 4, "frame[7].ptl.tail"


@pytest.mark.parametrize(("name", "value", "text"), [
    ("mm[1].mmap_seq", 3, "3 (odd)"),
    ("mm[1].mmap_seq", 4, "4"),
    ("cpu[0].state", 0x900000803, "IRQ_OFF|KERNEL"),
    ("mm[1].mmap_lock.count", 0x201, "writer+2 readers"),
    ("mm[1].mmap_lock.count", 0, "free"),
    ("pte of ARENA", 0x8000000000007067, "frame 7 (wd)"),
    ("pte of ARENA", 0, "0"),
    ("vma[1].end", ARENA + PAGE, "ARENA+0x1000"),
    ("frame[1].kind", 3, "TABLE"),
    ("cpu[1].ipi_req", (1 << 63) | (1 << 48) | (ARENA >> 12 << 12) | (1 << 2), "flush ARENA"),
    ("cpu[1].ipi_req", 2**64 - 1, "flush all"),
    ("cpu[1].rss_anon", 2**64 - 1, "-1"),
])
def test_values_are_decoded(name, value, text):
    assert symbols.meaning(name, value) == text


# ---- timelines ---------------------------------------------------------------------------------------------


def test_a_timeline_holds_operations_and_accesses(tmp_path):
    one = schedule.parse(run(Task("fault_munmap", mutant="SEQ2"))["violation"]["schedule"])
    with stage_of(one) as stage:
        _, accesses, _ = draw.replay(stage, one)
        timeline.write(tmp_path / "timeline.json", stage, accesses)
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} == {"CPU 0", "CPU 1"}
    slices = {event["name"]: event for event in events if event["ph"] == "X" and not event["args"]}
    assert set(slices) == {"store 7 at ARENA+0x2000", "munmap(ARENA+0x2000, 1 page)"}
    accessed = [event for event in events if event["args"].get("symbol") == "mm[1].mmap_seq"]
    assert {event["tid"] for event in accessed} == {0, 1}
    for event in accessed:
        assert event["args"]["source"].startswith("shmm/mm/seqcount.pxd:") and event["dur"] == 1
        around = next(each for each in slices.values() if each["tid"] == event["tid"])
        assert around["ts"] <= event["ts"] < around["ts"] + around["dur"]
