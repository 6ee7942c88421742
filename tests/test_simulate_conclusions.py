"""What the ratios of varied figures say, in sentences, in the document and in the table."""

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from shmm.cluster.simulate import conclusions
from shmm.cluster.simulate.conclusions import Ratio


def said(values, ratios, own=48.0, at_home=None, **more):
    """The sentence for these ratios; a pair is that of two seeds."""
    pairs = [ratio if isinstance(ratio, tuple | None) else (ratio, ratio) for ratio in ratios]
    home = at_home or dict(zip(values, pairs, strict=True)).get(own)
    home = home if isinstance(home, tuple | None) else (home, home)
    varied = {"name": "transfer", "unit": "ns", "values": values, "machine_value": own, **more}
    point = {"workload": "pft", "cpus": 48, "scheme": "spf", "base": "mmap_lock",
             "ratios": [pair and pair[0] for pair in pairs], "seeds": [pair and sorted(pair) for pair in pairs],
             "machine_ratio": home and home[0], "machine_seeds": home and sorted(home)}
    return conclusions.sentence(varied, point)


def test_a_conclusion_that_survives_says_so():
    whole = "for every transfer from 10 to 200 ns"
    assert said([10, 48, 200], [1.3, 2.0, 5.1]) == (
        f"spf beats mmap_lock at 48 CPUs {whole} (1.30x to 5.10x; 48 ns is the machine's own)")
    assert said([10, 48, 200], [0.3, 0.4, 0.9]) == (
        f"mmap_lock beats spf at 48 CPUs {whole} (0.30x to 0.90x; 48 ns is the machine's own)")
    assert said([0.5, 2], [2, 2], 1.0, 2.0, unit="x").endswith(
        "for every transfer from 0.5 to 2x (2.00x; 1x is the machine's own)")


def test_a_conclusion_that_does_not_survive_says_from_where_on():
    assert said([20, 40, 48], [0.99, 1.3, 1.4]) == (
        "spf beats mmap_lock at 48 CPUs only from about 23.2 ns on (1.30x to 1.40x; interpolated between 20 and 40; "
        "48 ns is the machine's own); up to about 23.2 ns (0.99x; interpolated between 20 and 40): "
        "within 5 %: not a conclusion")
    assert said([24, 48, 96], [2.0, 2.0, 0.5]).startswith(
        "spf beats mmap_lock at 48 CPUs only up to about 67.9 ns (2.00x; interpolated between 48 and 96; 48 ns is")
    assert said([24, 48, 96], [2.0, 2.0, 0.5]).endswith(
        "; mmap_lock beats spf from about 67.9 ns on (0.50x; interpolated between 48 and 96)")
    assert said([24, 48, 96], [2.0, 0.5, 2.0]).startswith(
        "mmap_lock beats spf at 48 CPUs only from about 33.9 ns to about 67.9 ns (0.50x; interpolated between 24 and "
        "48, and between 48 and 96; ")


def test_what_is_within_the_margin_is_no_conclusion():
    assert said([10, 48, 200], [0.96, 1.0, 1.05]) == (
        "spf against mmap_lock at 48 CPUs for every transfer from 10 to 200 ns (0.96x to 1.05x; 48 ns is the machine's "
        "own): within 5 %: not a conclusion")
    mixed = said([10, 48, 200], [1.0, 1.0, 2.0])
    assert mixed.startswith("spf against mmap_lock at 48 CPUs up to about 53.1 ns (1.00x; interpolated")
    assert ": within 5 %: not a conclusion; spf beats mmap_lock from about 53.1 ns on (2.00x; " in mixed


def test_seeds_must_agree():
    assert said([48, 96], [(1.3, 1.2), (1.5, 1.6)]).endswith("96 ns (1.20x to 1.60x; 48 ns is the machine's own)")
    assert said([48, 96], [(1.3, 1.04), (1.2, 1.02)]).endswith(": within 5 %: not a conclusion")
    assert said([48, 96], [(1.3, 0.8), (1.2, 1.02)]).endswith("): within 5 %, or the seeds disagree: not a conclusion")
    assert Ratio(1.2, 1.1, 1.3).side == 1 and Ratio(1.2, 1.04, 1.3).side == 0 == Ratio(1.2, 0.9, 1.3).side
    assert Ratio(0.8, 0.7, 0.9).side == -1 and Ratio(0.0, 0.0, 0.0).side == -1


def test_the_machines_own_value_may_lie_outside():
    assert said([100, 200], [1.3, 1.4], at_home=1.2).endswith(
        "for every transfer from 100 to 200 ns (1.30x to 1.40x; 1.20x with the machine's own 48 ns)")
    assert said([100, 200], [0.5, 0.6], at_home=1.2) == (
        "spf beats mmap_lock at 48 CPUs with the machine's own 48 ns (1.20x), but for no transfer from 100 to 200 ns; "
        "mmap_lock beats spf for every transfer from 100 to 200 ns (0.50x to 0.60x)")
    assert said([100, 200], [0.5, 0.6], at_home=1.02).startswith(
        "spf against mmap_lock at 48 CPUs with the machine's own 48 ns (1.02x), within 5 %: not a conclusion; mmap_")
    assert said([1, 2, 4], [1.3, 0.5, 1.4], own=0.0, at_home=1.2).startswith(
        "spf beats mmap_lock at 48 CPUs only up to")


def test_missing_runs_are_no_conclusion():
    assert said([10, 48], [None, 1.3]) == (
        "spf against mmap_lock at 48 CPUs, transfer: runs are missing, not a conclusion")
    assert conclusions.holds([10, 48], [None, Ratio(2, 2, 2)], 48, Ratio(2, 2, 2)) == []
    assert conclusions.holds([10, 48], [Ratio(2, 2, 2)] * 2, 48, None) == []


@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=9), st.data())
def test_what_holds_is_the_part_around_the_machines_own_value(ratios, data):
    values = [10.0 * 1.5**i for i in range(len(ratios))]
    at = data.draw(st.integers(0, len(ratios) - 1))
    triples = [Ratio(ratio, ratio, ratio) for ratio in ratios]
    found = conclusions.parts(values, triples)
    assert found[0].low == values[0] and found[-1].high == values[-1]
    assert all(a.high == pytest.approx(b.low) and a.side != b.side for a, b in pairwise(found))
    held = conclusions.holds(values, triples, values[at], triples[at])
    assert bool(held) == (not 1 / 1.05 <= ratios[at] <= 1.05)
    if held:
        assert held[0] <= values[at] <= held[1]
        assert {triple.side for value, triple in zip(values, triples, strict=True)
                if held[0] < value < held[1]} <= {triples[at].side}


def test_a_row_is_dim_where_it_says_nothing():
    point = {"workload": "pft", "workload_args": ["-x"], "cpus": 4, "scheme": "spf", "base": "mmap_lock",
             "ratios": [1.02, 2.0, None], "seeds": [[1.02] * 2, [2.0] * 2, None], "machine_ratio": 2.0,
             "machine_seeds": [2.0, 2.0]}
    varied = {"name": "jitter", "unit": "ratio", "values": [0.1, 0.25, 0.5], "machine_value": 0.25, "violations": 0,
              "points": [point]}
    out = Console(record=True, force_terminal=True, width=100, color_system="standard", file=io.StringIO())
    for part in conclusions.show({"vary": [varied], "runs": [{"engine": "sim", "machine": "m", "repeats": 3}]}):
        out.print(part)
    text = out.export_text(styles=True)
    assert "pft -x: ratio to mmap_lock" in text and re.search(r"\x1b\[2m *1\.02x", text)
    assert not re.search(r"\x1b\[2m *2\.00x", text) and "one seed" not in text
