"""The records that programs are made of (program.h): their fields, what is wrong with them, and their text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm.layout import CONSTANTS, DTYPES, OPS

INSN = DTYPES["shmm_insn_t"]
OP: dict[str, int] = {name: code for code, name in enumerate(OPS)}
EXPECT, MAY_FAIL = CONSTANTS["OPF_EXPECT"], CONSTANTS["OPF_MAY_FAIL"]
WRITE, COUNT = CONSTANTS["OPF_WRITE"], CONSTANTS["OPF_COUNT"]
FLAG_NAMES = {"EXPECT": EXPECT, "MAY_FAIL": MAY_FAIL, "WRITE": WRITE, "COUNT": COUNT}
REGISTERS = ("dst", "base", "len_reg")
JUMPS = (OP["JMP"], OP["DJNZ"])
HEX = ("addr", "len", "flags", "prot", "aux")
RANGE = {name: (int(np.iinfo(INSN[name]).min), int(np.iinfo(INSN[name]).max)) for name in INSN.names or ()}


class ProgramError(ValueError):
    """A record that no executor could run, or text that is not a program."""


def check_records(records: NDArray[Any]) -> None:
    """Raises ProgramError for the first record with an unknown operation, register or jump target."""
    def refuse(bad: NDArray[np.bool_], field: str, what: str) -> None:
        if bad.any():
            pc = int(np.argmax(bad))
            raise ProgramError(f"record {pc} ({name_of(records[pc])}): {what} {int(records[pc][field])}")

    refuse(records["op"] >= len(OPS), "op", "there is no operation")
    for name in REGISTERS:
        refuse(records[name] >= CONSTANTS["REGS"], name, "there is no register")
    target = records["value"]
    outside = np.isin(records["op"], JUMPS) & ((target < 0) | (target > len(records)))
    refuse(outside, "value", f"the program has records 0..{len(records)}, none to jump to at")


def name_of(record: Any) -> str:
    """The operation's name, or the code of none."""
    code = int(record["op"])
    return OPS[code] if code < len(OPS) else str(code)


def format_record(record: Any) -> str:
    """The operation, then each field that is not 0."""
    words = [name_of(record)]
    for name in INSN.names or ():
        value = int(record[name])
        if name == "op" or value == 0:
            continue
        if name == "opf" and value < 2 * COUNT:
            words.append("opf=" + "|".join(flag for flag, bit in FLAG_NAMES.items() if value & bit))
        else:
            words.append(f"{name}={value:#x}" if name in HEX else f"{name}={value}")
    return " ".join(words)


def parse_field(word: str) -> tuple[str, int]:
    """A field and its value from field=value.  Raises ProgramError."""
    name, equals, value = word.partition("=")
    if not equals or name not in RANGE or name == "op":
        raise ProgramError(f"{word!r} is not field=value with a field of a record")
    try:
        if name == "opf" and not value[:1].isdigit():
            return name, sum({FLAG_NAMES[flag] for flag in value.split("|")})
        return name, int(value, 0)
    except (KeyError, ValueError):
        raise ProgramError(f"{value!r} is not a value for {name}") from None
