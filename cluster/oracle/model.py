"""What is probably mapped while a program is drawn, so that most of its accesses meet memory.

Cheap and approximate: pages of the places that programs.py names, each readable, writable or neither.  Where a call's
outcome is hard to foresee it is taken to have failed.  A wrong guess costs an access that ends in SIGSEGV, or a page
that none is sent to; the comparison does not depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shmm.cluster.oracle.programs import FILES, HEAP, PAGE, SPANS, Operation

Page = tuple[int, int]                      # (register or 0, page number)
READABLE, WRITABLE = 1, 2
FIXED, ANONYMOUS, GROWSDOWN, NOREPLACE = 0x10, 0x20, 0x100, 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED, DONTUNMAP = 1, 2, 4
DONTFORK, DOFORK = 10, 11
MOST = 4096                                 # pages of one operation that are followed


@dataclass
class Space:
    """One address space."""

    pages: dict[Page, int] = field(default_factory=dict)
    private: set[Page] = field(default_factory=set)         # not handed to a forked copy
    heap: int = 0                                           # pages

    def copy(self) -> Space:
        """What fork leaves to the copy."""
        return Space({page: how for page, how in self.pages.items() if page not in self.private}, set(), self.heap)


@dataclass
class Model:
    """The address spaces of a program so far."""

    here: Space = field(default_factory=Space)
    copies: dict[int, Space] = field(default_factory=dict)

    def accessible(self, how: int) -> list[Page]:
        """Pages that allow such an access, in order."""
        return sorted(page for page, allowed in self.here.pages.items() if allowed & how)

    def apply(self, operation: Operation) -> None:
        """The operation happens."""
        name, fields = operation
        follow = getattr(self, "_" + name.lower(), None)
        if (follow is not None and not fields.get("addr", 0) % PAGE) or name == "BRK":
            assert follow is not None
            follow(fields)

    def _range(self, fields: dict[str, int]) -> list[Page]:
        base, first = fields.get("base", 0), fields.get("addr", 0) // PAGE
        count = (fields.get("len", 0) + PAGE - 1) // PAGE
        return [(base, first + n) for n in range(count)] if count <= MOST else []

    def _drop(self, pages: list[Page]) -> None:
        for page in pages:
            self.here.pages.pop(page, None)
            self.here.private.discard(page)

    def _mmap(self, fields: dict[str, int]) -> None:
        flags, file, offset = fields["flags"], fields.get("value", 0), fields.get("aux", 0)
        sort = flags & 0xF
        if sort not in (1, 2) or (not flags & ANONYMOUS and not 1 <= file <= len(FILES)) or offset % PAGE:
            return
        if flags & GROWSDOWN and (sort == 1 or file):
            return
        pages = self._range(fields)
        if not fields.get("addr", 0) and not fields.get("base", 0):
            pages = [(fields.get("dst", 0), n) for n in range(SPANS.get(fields.get("dst", 0), 0))]
        elif any(page in self.here.pages for page in pages) and (flags & NOREPLACE or not flags & FIXED):
            return
        self._drop(pages)
        limit = FILES[file - 1][0] - offset // PAGE if file else MOST
        how = allowed(fields["prot"])
        self.here.pages.update((page, how if n < limit else 0) for n, page in enumerate(pages))

    def _munmap(self, fields: dict[str, int]) -> None:
        self._drop(self._range(fields))

    def _mprotect(self, fields: dict[str, int]) -> None:
        for page in self._range(fields) if fields["prot"] < 8 else ():
            if page not in self.here.pages:
                return
            self.here.pages[page] = allowed(fields["prot"])

    def _madvise(self, fields: dict[str, int]) -> None:
        pages = [page for page in self._range(fields) if page in self.here.pages]
        if fields["value"] == DONTFORK:
            self.here.private.update(pages)
        elif fields["value"] == DOFORK:
            self.here.private.difference_update(pages)

    def _brk(self, fields: dict[str, int]) -> None:
        if fields.get("base", 0) != HEAP:
            return
        pages = (fields["addr"] + PAGE - 1) // PAGE
        self._drop([(HEAP, n) for n in range(pages, self.here.heap)])
        self.here.pages.update(((HEAP, n), READABLE | WRITABLE) for n in range(self.here.heap, pages))
        self.here.heap = pages

    def _mremap(self, fields: dict[str, int]) -> None:
        old, count, flags = self._range(fields), fields["count"] // PAGE, fields["flags"]
        if not old or not 0 < count <= MOST or old[0] not in self.here.pages:
            return
        states = [self.here.pages.get(page, 0) for page in old]
        states = (states + states[-1:] * count)[:count]
        if flags & MREMAP_FIXED:
            if not flags & MREMAP_MAYMOVE or fields["aux"] % PAGE:
                return
            new = [(0, fields["aux"] // PAGE + n) for n in range(count)]
            if set(new) & set(old):
                return
        elif flags & MREMAP_MAYMOVE:
            new = [(fields["dst"], n) for n in range(count)] if fields["dst"] else []
        else:
            new = [(old[0][0], old[0][1] + n) for n in range(count)]
            if any(page in self.here.pages for page in new[len(old):]):
                return
        if not flags & DONTUNMAP:
            self._drop(old)
        self._drop(new)
        self.here.pages.update(zip(new, states, strict=False))

    def _fork(self, fields: dict[str, int]) -> None:
        self.copies.setdefault(fields["value"], self.here.copy())

    def _mm(self, fields: dict[str, int]) -> None:
        if fields["value"] in self.copies:
            self.here = self.copies.pop(fields["value"])


def allowed(prot: int) -> int:
    """Accesses that PROT_* allow: on this machine, what may be written may be read, and so may what may be executed."""
    return (READABLE if prot & 7 else 0) | (WRITABLE if prot & 2 else 0)


def spread(pages: list[Page]) -> Iterator[tuple[Page, int]]:
    """Runs of pages that follow each other: the first, and how many."""
    for at, page in enumerate(pages):
        if at and pages[at - 1] == (page[0], page[1] - 1):
            continue
        many = 1
        while at + many < len(pages) and pages[at + many] == (page[0], page[1] + many):
            many += 1
        yield page, many
