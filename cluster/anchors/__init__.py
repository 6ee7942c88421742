"""Figures that others published (README.md says which), for the simulator to be compared with.

A file is one JSON object: `what`, `unit`, `source`, `use` ("calibration" or "validation": never fitted), the figures
under keys of its own, and perhaps `not_modelled`, a list of what a comparison cannot cover."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

CALIBRATION, VALIDATION = "calibration", "validation"
REQUIRED = ("what", "unit", "source", "use")


class AnchorError(ValueError):
    """There are no such figures, or they do not say where they come from."""


def names() -> tuple[str, ...]:
    """The files there are, without .json."""
    files = (path.name for path in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def load(name: str) -> dict[str, Any]:
    """The figures of this name.  Raises AnchorError, in one line."""
    if name not in names():
        raise AnchorError(f"there are no published figures {name!r}; there are {', '.join(names())}")
    return parse(name, (resources.files(__name__) / f"{name}.json").read_text())


def parse(name: str, text: str) -> dict[str, Any]:
    """The figures in a file's text.  Raises AnchorError for a file that one could not quote."""
    try:
        figures: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise AnchorError(f"{name}.json is not JSON ({error}): restore the file") from None
    missing = [key for key in REQUIRED if not figures.get(key)]
    if missing:
        raise AnchorError(f"{name}.json lacks {', '.join(missing)}: say it there, figures without a source are rumours")
    if figures["use"] not in (CALIBRATION, VALIDATION):
        raise AnchorError(f"{name}.json: use {figures['use']!r} is neither {CALIBRATION} nor {VALIDATION}")
    return figures
