"""Types of what one process of a calibration offers (_calibrate.pyx)."""

from typing import TypedDict, type_check_only

from _typeshed import WriteableBuffer

@type_check_only
class Report(TypedDict):
    values: tuple[float, ...]
    ops: int
    losses: int
    voluntary: int
    involuntary: int
    status: int

def methods() -> tuple[str, ...]: ...
def area_size() -> int: ...
def most_processes() -> int: ...
def measure(
    area: WriteableBuffer, method: str, role: int, processes: int, buffer: WriteableBuffer | None = None
) -> int: ...
def report(area: WriteableBuffer, role: int) -> Report | None: ...
