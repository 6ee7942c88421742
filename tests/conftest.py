"""What every test must leave as it found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest


def shared_objects() -> set[str]:
    """This project's names in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("shmm", "sem.shmm"))}


@pytest.fixture(autouse=True)
def shared_memory_is_left_clean() -> Iterator[None]:
    """No test may leave a name in /dev/shm."""
    before = shared_objects()
    yield
    assert shared_objects() <= before
