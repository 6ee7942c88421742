"""The compared programs' common ground: where they work, their files, and how operations become records.

Kept programs (tests/oracle) name these addresses and files: they must stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shmm.layout import CONSTANTS
from shmm.program import MAY_FAIL, OP, Program

Operation = tuple[str, dict[str, int]]      # a record's name and fields, in the words of Program.add

PAGE = CONSTANTS["PAGE_SIZE"]
ARENA = 0x1000_0020_0000 - 16 * PAGE        # its 16th page begins a page table
ARENA_PAGES = 32
STACKS = 0x1100_0000_0000
STACK_PAGES = 600                           # more than twice the guard gap of 256
UNUSED = 0x1200_0000_0000                   # where a register points that nothing was mapped through
HEAP = 9                                    # the register with the heap's first end
SPANS = {1: 4, 2: 4, 3: 16, 4: 512, 5: 700, 6: 8}      # registers for mmap and mremap: pages within which they are used
FILES = ((8, False), (24, False), (12, True))           # (pages, shared anonymous memory), numbered from 1
MAX_OPERATIONS = 60


def lower(chosen: Sequence[Operation]) -> Program:
    """The program: registers that are used hold something first; every operation may fail; no NOPs."""
    program = Program()
    kept = [(name, fields) for name, fields in chosen if name != "NOP"]
    used = {fields.get("base", 0) for _, fields in kept} - {0}
    for register in sorted(used):
        if register == HEAP:
            program.add("BRK", dst=HEAP, opf=MAY_FAIL)
        else:
            program.lea(register, value=UNUSED + (register << 24))
    for name, fields in kept:
        program.add(name, **fields | {"opf": fields.get("opf", 0) | MAY_FAIL})
    return program


def operations(program: NDArray[np.void]) -> int:
    """Records that do something to memory."""
    nothing = [OP[name] for name in ("END", "NOP", "LEA", "BARRIER")]
    return int((~np.isin(program["op"], nothing)).sum())
