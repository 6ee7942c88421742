"""Programs as files: what tests/oracle holds and `oracle FILE` reads.

Comments (#) say what the program is about; then follows one record a line, as Program.text() prints them, in the
addresses and with the files of programs.py."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from shmm.cluster.oracle.judge import Verdict
from shmm.program import Program, ProgramError


class KeptError(ValueError):
    """A file that holds no program.  One line."""


def text_of(program: NDArray[Any]) -> str:
    """The records, one a line, without the END."""
    lines = Program.from_array(program).text().splitlines()
    return "".join(line + "\n" for line in lines if line != "END")


def name_of(verdict: Verdict) -> str:
    """A name for a divergence: its kind, and some letters that tell it from others of that kind."""
    words = "-".join(word.lower() for word in verdict.kind.split() if word.isalpha())
    return f"{words}-{hashlib.blake2b(text_of(verdict.program).encode(), digest_size=3).hexdigest()}"


def read(path: Path) -> NDArray[Any]:
    """The program of a file.  Raises KeptError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KeptError(f"cannot read {path}: {error}") from None
    try:
        program = Program.parse(text)
    except ProgramError as error:
        raise KeptError(f"{path}: {error}") from None
    if not len(program):
        raise KeptError(f"{path} holds no records")
    return program.array()


def write(folder: Path, divergences: Sequence[dict[str, Any]]) -> list[Path]:
    """A file per divergence; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for one in divergences:
        path = folder / f"{one['name']}.txt"
        comments = [f"# {line}\n" for line in one["differences"]]
        path.write_text("".join(comments) + one["program"])
        written.append(path)
    return written
