"""Which structure each line of a segment belongs to: what a time stack tells transfers and waits apart by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm import _sim
from shmm.layout import CONSTANTS, DTYPES
from shmm.segment import VIEWS, Segment

LINE = 64
STRUCTURES = _sim.structures()

# Structure of layout.h -> the fields with which a run of lines of one kind begins, in the order of their offsets.
FIELDS = {
    "seg_t": {"stop": "other", "barrier_count": "barrier", "vma_pool": "pool", "cache_lock": "file",
              "charged": "charge", "rcu_seq": "rcu"},
    "cpu_t": {"state": "cpu_state", "ipi_req": "mailbox", "wake": "wake", "uffd_wait": "other",
              "queue_next": "spin_queue", "irq_depth": "other", "rcu_snapshot": "rcu",
              "percpu_readers": "notifier_lock", "counter": "other"},
    "mm_t": {"mmap_lock": "mmap_lock", "vma_root": "vma_tree", "pgd": "mm", "page_table_lock": "page_table_lock",
             "rss_anon": "rss", "notifier_lock": "notifier_lock", "uffd_lock": "other", "cpumask": "cpumask"},
    "node_t": {"zone": "zone", "lru_lock": "lru"},
}
WHOLE = {"vma": "vma", "anon": "anon_vma", "file": "file", "cache": "file"}
ARRAYS = {"cpu": "cpu_t", "mm": "mm_t"}


def offset(structure: str, field: str) -> int:
    """Where a field begins, bytes."""
    fields: Any = DTYPES[structure].fields
    return int(fields[field][1])


def runs(structure: str) -> Iterator[tuple[int, int, str]]:
    """(offset, bytes, name) of each run of lines of one kind."""
    starts = [(offset(structure, field) // LINE * LINE, name) for field, name in FIELDS[structure].items()]
    ends = [start for start, _ in starts[1:]] + [DTYPES[structure].itemsize]
    for (start, name), end in zip(starts, ends, strict=True):
        yield start, end - start, name


def structure_map(segment: Segment) -> NDArray[np.uint8]:
    """For each line before the frames the number of its structure in STRUCTURES."""
    head = segment.view("seg")
    out = np.zeros(int(head["frame_off"]) // LINE, np.uint8)

    def paint(at: int, size: int, name: str) -> None:
        out[at // LINE : -(-(at + size) // LINE)] = STRUCTURES.index(name)

    for start, size, name in runs("seg_t"):
        paint(start, size, name)
    for node in range(CONSTANTS["MAX_NODE"]):
        for start, size, name in runs("node_t"):
            paint(offset("seg_t", "node") + node * DTYPES["node_t"].itemsize + start, size, name)
    for view, structure in ARRAYS.items():
        _, begin, count = VIEWS[view]
        for i in range(int(head[count])):
            for start, size, name in runs(structure):
                paint(int(head[begin]) + i * DTYPES[structure].itemsize + start, size, name)
    for view, name in WHOLE.items():
        dtype, begin, count = VIEWS[view]
        paint(int(head[begin]), int(head[count]) * dtype.itemsize, name)
    return out
