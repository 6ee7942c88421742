"""Figures in words: what tables and messages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BASE = "mmap_lock"              # what the other schemes are compared with
ABORTS_SHOWN = 3


def ratio(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """Throughput relative to the base scheme on the same workload and CPUs, if that was run."""
    same = ("workload", "workload_args", "cpus", "engine", "machine")
    for base in runs:
        if base["scheme"] == BASE and all(base[key] == run[key] for key in same) and base["ops_per_s"] > 0:
            return "" if run is base else f"{run['ops_per_s'] / base['ops_per_s']:.2f}x"
    return ""


def abort_reasons(counters: dict[str, int]) -> list[tuple[int, str]]:
    """Why speculation was aborted: counts and names, the commonest first."""
    return sorted(
        ((count, name.removeprefix("SPF_ABORT_")) for name, count in counters.items()
         if name.startswith("SPF_ABORT_") and count), reverse=True,
    )


def aborts(counters: dict[str, int]) -> str:
    """Aborted speculative faults in percent of attempts, and the commonest reasons."""
    attempts = counters["spf_attempt"]
    if attempts == 0:
        return ""
    reasons = abort_reasons(counters)
    text = percent(counters["spf_abort"], attempts)
    if not reasons:
        return text
    shown = ", ".join(f"{name} {percent(count, attempts)}" for count, name in reasons[:ABORTS_SHOWN])
    return f"{text}: {shown}{', ...' if len(reasons) > ABORTS_SHOWN else ''}"


def main_abort(counters: dict[str, int]) -> str:
    """Aborted speculative faults in percent of attempts, and the commonest reason."""
    attempts, reasons = counters["spf_attempt"], abort_reasons(counters)
    if attempts == 0:
        return ""
    return percent(counters["spf_abort"], attempts) + (f" {reasons[0][1]}" if reasons else "")


def percent(part: int, whole: int) -> str:
    """A share with as many digits as it deserves."""
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 99.95 else f"{share:.3g} %"


def latency(times: dict[str, Any]) -> str:
    """Median and 99th percentile of shootdowns."""
    return f"{duration(times['median_ns'])} / {duration(times['p99_ns'])}" if times["count"] else ""


def duration(ns: int) -> str:
    """Nanoseconds in a unit that fits."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def quantity(value: float) -> str:
    """A number of things per second, three to four digits."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.1f}"


def size(nbytes: int) -> str:
    """Bytes in a binary unit."""
    for unit, one in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= one and nbytes % one == 0:
            return f"{nbytes // one} {unit}"
    return f"{nbytes} B"
