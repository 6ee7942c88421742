"""NumPy dtypes of everything in shared memory, built from the offsets that C reports.

layout.h is the only definition; nothing is repeated here.  The dtypes are for looking at a segment from
Python (statistics, /proc-style listings, tests): reading a field through NumPy is neither atomic nor ordered,
so whatever runs concurrently goes through the native engine instead.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from shmm import _fast

FIELDS = tuple(_fast.layout_fields())
SIZES: dict[str, int] = dict(_fast.struct_sizes())
CONSTANTS: dict[str, int] = dict(_fast.constants())
COUNTERS: tuple[str, ...] = _fast.counter_names()
OPS: tuple[str, ...] = _fast.op_names()


def _build() -> dict[str, np.dtype[Any]]:
    """Struct name -> dtype; a nested structure comes before those that hold it in the list of structures."""
    dtypes: dict[str, np.dtype[Any]] = {}
    for structure, size in SIZES.items():
        names: list[str] = []
        formats: list[Any] = []
        offsets: list[int] = []
        for owner, name, offset, nbytes, item, signed, nested in FIELDS:
            if owner != structure:
                continue
            element = dtypes[nested] if nested else np.dtype(f"{'i' if signed else 'u'}{item}")
            count = nbytes // element.itemsize
            names.append(name)
            formats.append(element if count == 1 else (element, (count,)))
            offsets.append(offset)
        dtypes[structure] = np.dtype(
            {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
        )
    return dtypes


def _abi() -> int:
    """A 64-bit hash of all that two builds must agree on to share a segment."""
    facts = repr((FIELDS, sorted(SIZES.items()), COUNTERS, OPS, sorted(CONSTANTS.items())))
    return int.from_bytes(hashlib.blake2b(facts.encode(), digest_size=8).digest(), "little")


DTYPES: dict[str, np.dtype[Any]] = _build()
ABI: int = _abi()
