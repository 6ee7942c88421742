"""The records of a Program that are about pages rather than mappings: NUMA balancing and userfaultfd."""

from __future__ import annotations

from abc import abstractmethod

from shmm.layout import CONSTANTS

EXPECT, MAY_FAIL, COUNT = (CONSTANTS[f"OPF_{name}"] for name in ("EXPECT", "MAY_FAIL", "COUNT"))
MISSING, WP = 1, 2                  # UFFDIO_REGISTER_MODE_*
DONTWAKE, COPY_WP = 1, 2            # UFFDIO_*_MODE_DONTWAKE, UFFDIO_COPY_MODE_WP
UFFDIO = {name: CONSTANTS[f"UFFDIO_{name}"] for name in (
    "READ", "POLL", "COPY", "ZEROPAGE", "WRITEPROTECT", "UNPROTECT", "WAKE")}


def outcome(expect: int | None, may_fail: bool, count: bool) -> dict[str, int]:
    """The fields that say what becomes of a record's result."""
    opf = (EXPECT if expect is not None else 0) | (MAY_FAIL if may_fail else 0) | (COUNT if count else 0)
    return {"opf": opf, "expect": expect or 0}


class PagingRecords:
    """What Program inherits: each method adds one record and returns its number."""

    @abstractmethod
    def add(self, op: str, **fields: int) -> int:
        """Adds one record by its fields' own names (program.h)."""

    def numa(self, addr: int, length: int, *, base: int = 0, len_reg: int = 0, count: bool = False) -> int:
        """A scan for NUMA balancing comes by: the next access to each page there is a hint fault (task_numa_work)."""
        return self.add("NUMA", addr=addr, len=length, base=base, len_reg=len_reg, **outcome(None, False, count))

    def userfault(
        self, addr: int, length: int, modes: int = MISSING, *, base: int = 0, len_reg: int = 0,
        expect: int | None = None, may_fail: bool = False,
    ) -> int:
        """Registers the range with userfaultfd: modes is MISSING, WP or both; 0 ends that."""
        return self.add("USERFAULT", addr=addr, len=length, value=modes, base=base, len_reg=len_reg,
                        **outcome(expect, may_fail, False))

    def uffd_read(self, *, dst: int = 0, wait: bool = True, expect: int | None = None, may_fail: bool = False) -> int:
        """R[dst] = the address of the oldest fault that nobody has been told of; without wait, -EAGAIN if none."""
        return self.add("UFFDIO", value=UFFDIO["READ" if wait else "POLL"], dst=dst,
                        **outcome(expect, may_fail, False))

    def uffd_copy(
        self, addr: int, length: int, byte: int = 0, mode: int = 0, *, base: int = 0, len_reg: int = 0,
        expect: int | None = None, may_fail: bool = False, count: bool = False,
    ) -> int:
        """UFFDIO_COPY of pages that hold nothing but this byte; mode: DONTWAKE, COPY_WP."""
        return self.add("UFFDIO", value=UFFDIO["COPY"], addr=addr, len=length, count=byte, aux=mode, base=base,
                        len_reg=len_reg, **outcome(expect, may_fail, count))

    def uffdio(
        self, what: str, addr: int, length: int, mode: int = 0, *, base: int = 0, len_reg: int = 0,
        expect: int | None = None, may_fail: bool = False,
    ) -> int:
        """UFFDIO_ZEROPAGE, WRITEPROTECT, UNPROTECT (WRITEPROTECT without its mode WP) or WAKE."""
        return self.add("UFFDIO", value=UFFDIO[what], addr=addr, len=length, aux=mode, base=base, len_reg=len_reg,
                        **outcome(expect, may_fail, False))
