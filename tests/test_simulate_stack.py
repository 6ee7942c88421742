"""Time stacks: what the document says of them, and the tables for people."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from simulated import config, simulated

from shmm import _sim
from shmm.cluster.simulate import stack


def shown(table: Any) -> list[list[str]]:
    """The table's lines as cells."""
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return [line.split("  ") for line in out.getvalue().splitlines()]


def run(scheme: str = "spf", cpus: int = 2, ops: int = 1000, **ns: float) -> dict[str, Any]:
    """A run that took so many ns per operation: part, or part_of_structure."""
    parts = {tuple(name.partition("_of_")[::2]): round(each * ops * 1000) for name, each in ns.items()}
    return {"scheme": scheme, "cpus": cpus, "ops": ops, "time_stack": stack.document(parts)}


def test_the_document_has_the_largest_first_and_nothing_that_is_nothing():
    parts = {("work", ""): 50, ("wait", "lru"): 0, ("transfer", "ptl"): 200, ("idle", ""): 150,
             ("transfer", "lru"): 200, ("retry", ""): 400}
    found = stack.document(parts)
    assert [(part["part"], part["structure"], part["ps"]) for part in found] == [
        ("retry", None, 400), ("transfer", "lru", 200), ("transfer", "ptl", 200), ("idle", None, 150),
        ("work", None, 50)]
    assert [part["share"] for part in found] == [0.4, 0.2, 0.2, 0.15, 0.05]
    assert all(set(part) == {"part", "structure", "ps", "share"} for part in found)
    assert stack.document({("work", ""): 0}) == []


def test_every_part_has_a_name_for_people():
    told = {stack.text({"part": part, "structure": None}) for part in (*_sim.PARTS, "work")}
    assert len(told) == len(_sim.PARTS) + 1 == len(stack.TEXTS)
    assert stack.text({"part": "transfer", "structure": "page_table_lock"}) == "lines of page table lock"
    assert stack.text({"part": "wait", "structure": "mmap_lock"}) == "waiting for mmap_lock"
    assert stack.text({"part": "wait", "structure": "lru"}) == "waiting for lru"


def test_what_takes_most_beside_work_is_named():
    assert stack.saturated(run(work=700, transfer_of_lru=290, wait_of_lru=10)) == "lines of lru 29%"
    assert stack.saturated(run(clear=500, exception=400, interrupt=91, wait_of_lru=9)) == ""
    assert stack.saturated(run(work=100, wait_of_mmap_lock=899, idle=1)) == "waiting for mmap_lock 90%"
    assert stack.saturated({"time_stack": []}) == ""


def test_the_table_is_ns_per_operation():
    table = shown(stack.table([run("mmap_lock", 4, work=100, transfer_of_lru=9.9, wait_of_lru=0.04),
                               run("spf", 4, work=2500.4, transfer_of_lru=9.94, idle=1.0)]))
    cells = {line[0].strip(): [word.strip() for word in line[1:] if word.strip()] for line in table}
    assert cells["ns per op"] == ["mmap_lock 4", "spf 4"]
    assert cells["work"] == ["100", "2,500"]
    assert cells["lines of lru"] == ["9.9", "9.9"]
    assert cells["the rest"] == ["0.0", "1.0"]              # what takes less than a hundredth everywhere
    assert cells["all"] == ["110", "2,511"]
    assert "idle at a barrier" not in cells
    assert list(cells) == ["ns per op", "work", "lines of lru", "the rest", "all"]


def test_a_run_without_operations_has_empty_cells():
    table = shown(stack.table([run(work=5) | {"ops": 0}]))
    assert [line[0].strip() for line in table] == ["ns per op", "work", "the rest", "all"]
    assert all(not "".join(line[1:]).strip() for line in table[1:])


@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_the_rows_of_a_real_table_add_up(scheme):
    outcome = simulated(config(workload="page_fault1", cpus=6, scheme=scheme))
    lines = [[cell.strip() for cell in line if cell.strip()] for line in shown(stack.table([outcome.run]))]
    figures = [float(value.replace(",", "")) for _, value in lines[1:]]
    assert sum(figures[:-1]) == pytest.approx(figures[-1], abs=len(figures))
    assert figures[-1] == pytest.approx(6e9 * outcome.run["seconds"] / outcome.run["ops"], rel=0.01)
