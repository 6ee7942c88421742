"""Types of the sim engine's Python face (engine.pxi, _sim.pyx)."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

# what engine.pxi offers is the same on every engine
from shmm._fast import (
    Cpu as Cpu,
)
from shmm._fast import (
    check as check,
)
from shmm._fast import (
    constants as constants,
)
from shmm._fast import (
    counter_names as counter_names,
)
from shmm._fast import (
    frames_in_use as frames_in_use,
)
from shmm._fast import (
    layout_fields as layout_fields,
)
from shmm._fast import (
    op_names as op_names,
)
from shmm._fast import (
    segment_create as segment_create,
)
from shmm._fast import (
    segment_size as segment_size,
)
from shmm._fast import (
    settle as settle,
)
from shmm._fast import (
    struct_sizes as struct_sizes,
)

STATUS: Final[tuple[str, ...]]
MODES: Final[tuple[str, ...]]
PARTS: Final[tuple[str, ...]]
COSTS: Final[tuple[str, ...]]
KINDS: Final[tuple[str, ...]]

def structures() -> tuple[str, ...]: ...
def line_bench(
    kind: str, costs: Mapping[str, int], seats: Sequence[tuple[int, int, int, int]], ns: int = 200000,
    period_ns: int = 0, seed: int = 1,
) -> list[tuple[int, int]]: ...

class Simulation:
    def __init__(
        self, address: int, costs: Mapping[str, int], seats: Sequence[tuple[int, int, int, int]],
        structure: NDArray[np.uint8], seed: int = 1,
    ) -> None: ...
    def begin(
        self, round_pc: int, warm_ps: int, least_ps: int, most_ps: int, least_rounds: int = 1,
        most_accesses: int = ..., clocked: bool = False,
    ) -> None: ...
    def run(self, accesses: int) -> str: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def progress(self) -> tuple[int, int]: ...
    def measured(self) -> dict[str, Any] | None: ...
    def blocked(self) -> list[tuple[int, str, str, int]]: ...
