"""What one run was found to have done: two snapshots of the counters, and what lies between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shmm.layout import COUNTERS


@dataclass(frozen=True)
class Snapshot:
    """Counters at an instant."""

    time: float                         # monotonic seconds
    counters: NDArray[np.int64]         # [CPU, counter]
    shootdowns: NDArray[np.int64]       # histogram of all CPUs together
    clock: float = 0.0                  # seconds that the program's own clock has run


@dataclass
class Measurement:
    """What one run of a job did."""

    seconds: float                      # from the gate's opening to the stop, or to the last program's end
    ops: NDArray[np.int64]              # per CPU, within these seconds
    counters: NDArray[np.int64]         # [CPU, counter]: of the whole run, all CPUs at rest
    shootdowns: NDArray[np.int64]
    host_faults: int = 0                # page faults that the host took in the workers meanwhile
    violations: tuple[str, ...] = ()
    frames_leaked: int | None = None    # None: not found out, the run was interrupted

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot, seconds: float) -> Self:
        """What happened from one snapshot to the other."""
        counters = after.counters - before.counters
        return cls(seconds, counters[:, 0], counters, after.shootdowns - before.shootdowns)

    @property
    def ops_per_s(self) -> float:
        """Throughput of all CPUs together."""
        return float(self.ops.sum()) / self.seconds if self.seconds > 0 else 0.0

    def count(self, counter: str) -> int:
        """A counter's total over all CPUs."""
        return int(self.counters[:, COUNTERS.index(counter)].sum())
