"""Builds programs: what one CPU does, as a flat array of records (program.h) that every executor interprets.

    p = Program()
    p.mmap(0, 128 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, dst=1)
    with p.forever():                       # until the run is stopped
        p.touch(0, 32768, base=1)           # one store per page, at R[1], R[1] + 4096, ...
        p.madvise(0, 128 << 20, MADV_DONTNEED, base=1)

Sixteen 64-bit registers, all private to the CPU: R[0] is always 0, R[14] the task's number, R[15] the number
of tasks.  An effective address is `addr + R[base]`, an effective length `length + R[len_reg]`.  Every method
that adds a record returns the record's number, counted from the program's first; its result word has the same
number.  A mistake is a ProgramError (a ValueError) of one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmm import records as record_rules
from shmm.layout import CONSTANTS
from shmm.paging import PagingRecords
from shmm.paging import outcome as _outcome
from shmm.records import COUNT, EXPECT, INSN, MAY_FAIL, OP, WRITE, ProgramError, check_records

__all__ = ["COUNT", "EXPECT", "INSN", "MAY_FAIL", "OP", "TASK", "TASKS", "WRITE", "Program", "ProgramError",
           "check_records"]

TASK, TASKS = 14, 15                # registers: the task's number, the number of tasks
RANDOM_BELOW = 1 << 31              # the generator gives 31 bits
_SLOTS = ("MM", "EXEC", "FORK")


class Program(PagingRecords):
    """A program under construction; `array()` is the finished one."""

    def __init__(self) -> None:
        self._records: NDArray[Any] = np.zeros(16, INSN)
        self._len = 0
        self._counters: list[int] = []      # registers that enclosing repeats count in

    def __len__(self) -> int:
        """Records so far, without the END that array() adds."""
        return self._len

    def __eq__(self, other: object) -> bool:
        """Equal if the finished programs are equal."""
        if not isinstance(other, Program):
            return NotImplemented
        return bool(np.array_equal(self.array(), other.array()))

    def _reserve(self, extra: int) -> None:
        if self._len + extra > len(self._records):
            grown = np.zeros(max(2 * len(self._records), self._len + extra), INSN)
            grown[: self._len] = self._records[: self._len]
            self._records = grown

    def add(self, op: str, **fields: int) -> int:
        """Adds one record by its fields' own names (program.h): what every other method ends in."""
        pc = self._len
        if op not in OP:
            raise ProgramError(f"record {pc}: there is no operation {op!r}")
        self._validate(pc, op, fields)
        self._reserve(1)
        record = self._records[pc]
        record["op"] = OP[op]
        for name, value in fields.items():
            record[name] = value
        self._len += 1
        return pc

    def _validate(self, pc: int, op: str, fields: dict[str, int]) -> None:
        where = f"record {pc} ({op})"
        for name, value in fields.items():
            if name not in record_rules.RANGE or name == "op":
                raise ProgramError(f"{where}: there is no field {name!r}")
            low, high = record_rules.RANGE[name] if name not in record_rules.REGISTERS else (0, CONSTANTS["REGS"] - 1)
            if not low <= index(value) <= high:
                what = "register" if name in record_rules.REGISTERS else "length" if name == "len" else name
                raise ProgramError(f"{where}: {what} {value} is not in {low}..{high}")
        dst = fields.get("dst", 0)
        if dst in (TASK, TASKS):
            raise ProgramError(f"{where}: register {dst} holds the task's number or count, use 1..13")
        if dst in self._counters:
            raise ProgramError(f"{where}: register {dst} counts an enclosing repeat, use another")
        value = fields.get("value", 0)
        if dst == 0 and op == "DJNZ":
            raise ProgramError(f"{where}: register 0 is always 0 and cannot count")
        if op in ("STORE", "TOUCH", "SECONDARY") and not 0 <= value <= 255:
            raise ProgramError(f"{where}: value {value} is not a byte")
        if op in _SLOTS and not 1 <= value < CONSTANTS["MAX_MM"]:
            raise ProgramError(f"{where}: address space {value} is not in 1..{CONSTANTS['MAX_MM'] - 1}")

    def extend(self, records: NDArray[Any]) -> int:
        """Adds finished records at once (generated programs are long); returns the first one's number."""
        if records.dtype != INSN:
            raise ProgramError(f"records of dtype {records.dtype} are not program records")
        first = self._len
        self._reserve(len(records))
        self._records[first : first + len(records)] = records
        self._len += len(records)
        return first

    # ---- system calls: a result is 0, an address, or a negative errno --------------------------------------

    def mmap(
        self, addr: int, length: int, prot: int, flags: int, *, file: int = 0, offset: int = 0,
        dst: int = 0, base: int = 0, len_reg: int = 0, expect: int | None = None, may_fail: bool = False,
        count: bool = False,
    ) -> int:
        """R[dst] = mmap(...).  file: index of a file of the segment, 0 is anonymous; offset: bytes."""
        return self.add(
            "MMAP", addr=addr, len=length, prot=prot, flags=flags, value=file, aux=offset, dst=dst, base=base,
            len_reg=len_reg, **_outcome(expect, may_fail, count),
        )

    def munmap(
        self, addr: int, length: int, *, base: int = 0, len_reg: int = 0,
        expect: int | None = None, may_fail: bool = False, count: bool = False,
    ) -> int:
        """munmap(addr, length)."""
        return self.add("MUNMAP", addr=addr, len=length, base=base, len_reg=len_reg,
                        **_outcome(expect, may_fail, count))

    def mprotect(
        self, addr: int, length: int, prot: int, *, base: int = 0, len_reg: int = 0,
        expect: int | None = None, may_fail: bool = False, count: bool = False,
    ) -> int:
        """mprotect(addr, length, prot)."""
        return self.add("MPROTECT", addr=addr, len=length, prot=prot, base=base, len_reg=len_reg,
                        **_outcome(expect, may_fail, count))

    def madvise(
        self, addr: int, length: int, advice: int, *, base: int = 0, len_reg: int = 0,
        expect: int | None = None, may_fail: bool = False, count: bool = False,
    ) -> int:
        """madvise(addr, length, advice)."""
        return self.add("MADVISE", addr=addr, len=length, value=advice, base=base, len_reg=len_reg,
                        **_outcome(expect, may_fail, count))

    def mremap(
        self, addr: int, old: int, new: int, flags: int, new_addr: int = 0, *, dst: int = 0, base: int = 0,
        len_reg: int = 0, expect: int | None = None, may_fail: bool = False, count: bool = False,
    ) -> int:
        """R[dst] = mremap(addr, old, new, flags, new_addr): old and new are lengths, `old` counts from R[len_reg]."""
        return self.add("MREMAP", addr=addr, len=old, count=new, flags=flags, aux=new_addr, dst=dst, base=base,
                        len_reg=len_reg, **_outcome(expect, may_fail, count))

    def brk(
        self, addr: int, *, base: int = 0, dst: int = 0, expect: int | None = None, may_fail: bool = False,
        count: bool = False,
    ) -> int:
        """R[dst] = brk(addr)."""
        return self.add("BRK", addr=addr, base=base, dst=dst, **_outcome(expect, may_fail, count))

    # ---- accesses: the result is the number of faults taken, or the failure --------------------------------

    def load(
        self, addr: int, *, base: int = 0, dst: int = 0, expect: int | None = None, may_fail: bool = False,
        count: bool = False,
    ) -> int:
        """R[dst] = the byte at addr.  expect: that byte, or a failure."""
        return self.add("LOAD", addr=addr, base=base, dst=dst, **_outcome(expect, may_fail, count))

    def store(
        self, addr: int, value: int = 1, *, base: int = 0, expect: int | None = None, may_fail: bool = False,
        count: bool = False,
    ) -> int:
        """The byte at addr = value (0..255)."""
        return self.add("STORE", addr=addr, value=value, base=base, **_outcome(expect, may_fail, count))

    def fetch(
        self, addr: int, *, base: int = 0, expect: int | None = None, may_fail: bool = False,
        count: bool = False,
    ) -> int:
        """Executes at addr."""
        return self.add("FETCH", addr=addr, base=base, **_outcome(expect, may_fail, count))

    def touch(
        self, addr: int, count: int, stride: int = 4096, *, write: bool = True, value: int = 1, base: int = 0,
        ops: bool = True, len_reg: int = 0, expect: int | None = None, may_fail: bool = False,
    ) -> int:
        """count accesses, stride bytes apart: stores of the byte `value`, or loads.

        ops: each access is one unit of work."""
        outcome = _outcome(expect, may_fail, ops)
        outcome["opf"] |= WRITE if write else 0
        return self.add("TOUCH", addr=addr, count=count, len=stride, value=value, base=base, len_reg=len_reg,
                        **outcome)

    def probe(
        self, addr: int, *, base: int = 0, expect: int | None = None, may_fail: bool = False, count: bool = True,
    ) -> int:
        """A trap at addr that looks up the VMA and takes no fault (a uprobe): 1 if a VMA maps addr, else 0.

        count: it is one unit of work."""
        return self.add("PROBE", addr=addr, base=base, **_outcome(expect, may_fail, count))

    def notifier(self, registers: bool = True, *, expect: int | None = None, may_fail: bool = False) -> int:
        """The address space's MMU notifier registers, or unregisters: its client is a secondary MMU."""
        return self.add("NOTIFIER", value=int(registers), **_outcome(expect, may_fail, False))

    def secondary(
        self, addr: int, value: int | None = None, *, dst: int = 0, base: int = 0, expect: int | None = None,
        may_fail: bool = False,
    ) -> int:
        """R[dst] = the byte at addr, or with a value a store, by way of the secondary MMU; the result is 0."""
        outcome = _outcome(expect, may_fail, False)
        outcome["opf"] |= 0 if value is None else WRITE
        return self.add("SECONDARY", addr=addr, value=value or 0, dst=dst, base=base, **outcome)

    def gup(
        self, addr: int, *, base: int = 0, dst: int = 0, expect: int | None = None, may_fail: bool = False,
        count: bool = False,
    ) -> int:
        """R[dst] = the byte at addr, read through a page that get_user_pages_fast pins; the byte is the result, too.

        expect: that byte, or a failure."""
        return self.add("GUP", addr=addr, base=base, dst=dst, **_outcome(expect, may_fail, count))

    # ---- registers and control -----------------------------------------------------------------------------

    def lea(self, dst: int, base: int = 0, scale: int = 1, add_reg: int = 0, value: int = 0) -> int:
        """R[dst] = R[base] * scale + R[add_reg] + value, modulo 2**64; a negative scale is fine."""
        return self.add("LEA", dst=dst, base=base, count=scale % 2**64, len_reg=add_reg, value=value)

    def rand(self, dst: int, below: int, scale: int = 1, base_value: int = 0) -> int:
        """R[dst] = base_value + scale * (random number below `below`), from the CPU's seeded generator."""
        if not 1 <= below <= RANDOM_BELOW:
            raise ProgramError(f"record {self._len} (RAND): below {below} is not in 1..{RANDOM_BELOW}")
        return self.add("RAND", dst=dst, count=below, aux=scale % 2**64, value=base_value)

    def label(self) -> int:
        """The number of the next record, for jmp and djnz."""
        return self._len

    def jmp(self, label: int) -> int:
        """Goes to record `label`."""
        return self.add("JMP", value=label)

    def djnz(self, reg: int, label: int) -> int:
        """R[reg] -= 1; goes to record `label` unless R[reg] is now 0."""
        return self.add("DJNZ", dst=reg, value=label)

    @contextmanager
    def forever(self) -> Iterator[int]:
        """Repeats the body until the run is stopped."""
        start = self.label()
        yield start
        self.jmp(start)

    @contextmanager
    def repeat(self, n: int, reg: int) -> Iterator[int]:
        """Repeats the body n times (n >= 1), counting down in R[reg], which the body must leave alone."""
        if n < 1:
            raise ProgramError(f"record {self._len}: cannot repeat {n} times, a body runs at least once")
        self.lea(reg, value=n)
        self._counters.append(reg)
        start = self.label()
        yield start
        self._counters.remove(reg)
        self.djnz(reg, start)

    def nop(self) -> int:
        """Does nothing."""
        return self.add("NOP")

    def barrier(self) -> int:
        """Waits for all tasks."""
        return self.add("BARRIER")

    def clock(self, runs: bool) -> int:
        """The measured time goes on, or stands still: for a workload of which only a part is measured.

        One task says so for all.  Without any, all of a run is measured."""
        return self.add("CLOCK", value=int(runs))

    def ops(self, n: int) -> int:
        """Counts n units of work."""
        return self.add("OPS", count=n)

    def turn(self, ticket: int) -> int:
        """Waits until event `ticket` is next (replay)."""
        return self.add("TURN", value=ticket)

    def next(self, ticket: int, cpu: int) -> int:
        """Event `ticket` is next; wakes CPU `cpu`."""
        return self.add("NEXT", value=ticket, count=cpu)

    def end(self) -> int:
        """The program is over."""
        return self.add("END")

    # ---- address spaces ------------------------------------------------------------------------------------

    def mm(self, slot: int) -> int:
        """Runs address space `slot` from now on: a thread of it."""
        return self.add("MM", value=slot)

    def exec(self, slot: int, mmap_base: int = 0, brk: int = 0) -> int:
        """Runs a fresh, empty address space in slot `slot`; 0 is the usual place for mappings and heap."""
        return self.add("EXEC", value=slot, addr=mmap_base, aux=brk)

    def fork(
        self, slot: int, *, expect: int | None = None, may_fail: bool = False, count: bool = False,
    ) -> int:
        """Slot `slot` becomes a copy of the current address space."""
        return self.add("FORK", value=slot, **_outcome(expect, may_fail, count))

    def exit(self) -> int:
        """Leaves the current address space; the last one out frees it."""
        return self.add("EXIT")

    # ---- the finished program ------------------------------------------------------------------------------

    def array(self) -> NDArray[Any]:
        """The records, closed by an END.  Raises ProgramError for a jump that leaves the program."""
        records = self._records[: self._len]
        check_records(records)
        jumps = records[np.isin(records["op"], record_rules.JUMPS)]["value"]
        if self._len and records[-1]["op"] == OP["END"] and not (jumps == self._len).any():
            return records.copy()
        closed = np.zeros(self._len + 1, INSN)
        closed[:-1] = records
        closed[-1]["op"] = OP["END"]
        return closed

    def text(self) -> str:
        """One record per line: the operation, then each field that is not 0."""
        return "".join(record_rules.format_record(record) + "\n" for record in self.array())

    @classmethod
    def parse(cls, text: str) -> Program:
        """The program that text() printed; empty lines and what follows a # are skipped."""
        program = cls()
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            try:
                program.add(words[0], **dict(record_rules.parse_field(word) for word in words[1:]))
            except ValueError as error:
                raise ProgramError(f"line {number}: {error}") from None
        return program

    @classmethod
    def from_array(cls, records: NDArray[Any]) -> Program:
        """The program of these records."""
        program = cls()
        program.extend(records)
        check_records(records)
        return program
