"""One program, executed by the host's kernel and by the native engine under each scheme, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from shmm.cluster.oracle.compare import Difference, compare
from shmm.cluster.oracle.emulate import Emulated
from shmm.cluster.oracle.outcome import Outcome
from shmm.cluster.oracle.programs import FILES
from shmm.cluster.oracle.real import Real


@dataclass(frozen=True)
class Verdict:
    """A program and both outcomes.  scheme: under which it differs, or the last one."""

    program: NDArray[Any]
    host: Outcome
    native: Outcome
    scheme: str
    differences: list[Difference]

    @property
    def kind(self) -> str:
        """What makes two divergences the same one, roughly."""
        first = self.differences[0]
        if first.kind in ("result", "byte"):
            operation = first.record.split()[0]
            told = [word if word.isupper() else word[:1] for word in (first.host, first.native)]
            return " ".join((first.kind, operation, *told))
        return first.kind


class Judge:
    """Both sides, ready for one program after the other."""

    def __init__(self, schemes: Sequence[str]) -> None:
        """Raises shmm.host.HostError if this machine cannot execute programs."""
        self.real = Real()
        self.engines = {scheme: Emulated(self.real.start, scheme) for scheme in schemes}

    def __call__(self, program: NDArray[Any]) -> Verdict:
        """Executes the program everywhere.  Raises HostError if the host did not come to its end."""
        host = self.real.execute(program, FILES)
        for scheme, engine in self.engines.items():
            native = engine.execute(program, FILES, host.loaded)
            differences = compare(program, host, native)
            if differences:
                break
        return Verdict(program, host, native, scheme, differences)

    def close(self) -> None:
        """Ends the host's process and unmaps the segments."""
        self.real.close()
        for engine in self.engines.values():
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()
