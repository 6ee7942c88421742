"""A schedule as a timeline for Perfetto (ui.perfetto.dev) and chrome://tracing: the Trace Event Format, in JSON.

A microsecond is one access.  Each CPU is a thread; its operations are slices that enclose their accesses.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shmm.cluster.check import draw
from shmm.cluster.check.draw import Access
from shmm.cluster.check.scenario import Stage


def write(path: Path, stage: Stage, accesses: Sequence[Access]) -> None:
    """Writes the trace of a replay."""
    path.write_text(json.dumps({"traceEvents": events(stage, accesses), "displayTimeUnit": "ms"}, indent=1) + "\n")


def events(stage: Stage, accesses: Sequence[Access]) -> list[dict[str, Any]]:
    """All events: threads' names, operations, accesses."""
    out: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0,
                                  "args": {"name": f"{stage.scenario.name}, {stage.scheme}"}}]
    for cpu in range(len(stage.programs)):
        out.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": cpu, "args": {"name": f"CPU {cpu}"}})
        out += operations(stage, cpu, [access for access in accesses if access.cpu == cpu])
    return out + [
        {"ph": "X", "name": access.function, "pid": 1, "tid": access.cpu, "ts": access.step, "dur": 1,
         "args": {"symbol": access.name, "old": hex(access.old), "new": hex(access.value), "source": access.source,
                  "what": access.text}}
        for access in accesses
    ]


def operations(stage: Stage, cpu: int, accesses: Sequence[Access]) -> list[dict[str, Any]]:
    """A CPU's operations, from each one's first access to the last before the next."""
    begins = [number for number, access in enumerate(accesses) if access.begins]
    out = []
    for number, first in enumerate(begins):
        last = begins[number + 1] - 1 if number + 1 < len(begins) else len(accesses) - 1
        out.append({"ph": "X", "name": draw.operation(stage, cpu, number), "pid": 1, "tid": cpu,
                    "ts": accesses[first].step, "dur": accesses[last].step - accesses[first].step + 1, "args": {}})
    return out
