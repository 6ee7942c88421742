"""Types of the check engine's Python face (engine.pxi, _check.pyx)."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

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

KINDS: Final[tuple[str, ...]]
MODELS: Final[tuple[str, ...]]
STRATEGIES: Final[tuple[str, ...]]

def mutants() -> list[tuple[str, str, str]]: ...

class Explorer:
    def __init__(self, address: int, memory: str = "sc") -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def sequential(self) -> int: ...
    def begin(
        self, strategy_name: str, bound: int = 2, seed: int = 1, mutant: int = 0, depth: int = 3
    ) -> None: ...
    def run(self, schedules: int) -> tuple[int, int, bool]: ...
    def replay(self, script: Sequence[tuple[int, int, int, int]], mutant: int = 0, trace: bool = False) -> None: ...
    def schedule(self) -> list[tuple[int, int, int, int]]: ...
    def violation(self) -> dict[str, Any] | None: ...
    def trace(self) -> list[tuple[int, int, int, int, int, int, int, str, str]]: ...
    def forbid(self, counters: Sequence[int]) -> None: ...
    def steps(self) -> int: ...
    def states(self) -> tuple[int, int]: ...
