"""Random sequences of system calls, accesses and forks on a Machine, against dictionaries of pages.

The model knows nothing of VMAs, page tables or frames: an address space is a dictionary from page number to
what a program would find there.  The machine must agree on errors and contents, cover the same pages with the
same permissions in as few mappings as may be, and break no invariant."""

import errno
import mmap as m
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmm import BusError, Machine, SegmentationFault
from shmm.maps import areas

PAGE = 4096
ANON, FIXED = m.MAP_ANONYMOUS, 0x10
SPAN = 24                               # pages where sequences play; they may reach a little beyond,
ARENA = (1 << 39) // PAGE - SPAN // 2   # across a border of page tables of every level
FILE_PAGES = 4
CPUS, SPACES = 3, 4
What = tuple[str, bool, int]            # anon or a file, shared, offset into the file in pages
RW = m.PROT_READ | m.PROT_WRITE
PROTS = [0, m.PROT_READ, RW, RW, m.PROT_WRITE, m.PROT_READ | m.PROT_EXEC]
POLICIES = [
    {"scheme": "spf"}, {"scheme": "mmap_lock"}, {"scheme": "spf", "walk": "rcu", "table_free": "rcu"},
    {"scheme": "spf", "force_speculation": 1, "fault_around": 1},
]


@dataclass
class Page:
    """What a program finds in a page; its first byte is that of its own copy if there is one."""

    prot: int
    shared: bool = False
    backing: list[int] | None = None    # the file page, whose first byte everybody shares; None: anonymous
    lost: bool = False                  # past the end of the file
    own: int | None = None

    @property
    def value(self) -> int:
        return self.own if self.own is not None else self.backing[0] if self.backing else 0

    @property
    def perms(self) -> str:
        letters = "".join(letter if self.prot & 1 << bit else "-" for bit, letter in enumerate("rwx"))
        return letters + ("s" if self.shared else "p")


class Model:
    """Runs every step on a machine and on dictionaries."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.spaces: dict[int, dict[int, Page]] = {1: {}}
        self.runs = dict.fromkeys(range(CPUS), 1)       # CPU -> address space
        self.files = {machine.file(FILE_PAGES): [[0] for _ in range(FILE_PAGES)] for _ in range(2)}

    def new_pages(self, npages: int, prot: int, what: What) -> tuple[dict[str, Any], list[Page]]:
        """How to mmap this, and the pages that must then be there."""
        kind, shared, offset = what
        how = {"prot": prot, "flags": m.MAP_SHARED if shared else m.MAP_PRIVATE}
        if kind == "anon":
            how["flags"] |= ANON
            return how, [Page(prot, shared, [0] if shared else None) for _ in range(npages)]
        number = list(self.files)[kind == "file2"]
        cells = self.files[number][offset:]
        pages = [Page(prot, shared, cells[i]) if i < len(cells) else Page(prot, shared, lost=True)
                 for i in range(npages)]
        return how | {"file": number, "offset": offset * PAGE}, pages

    # ---- steps ---------------------------------------------------------------------------------------------

    def mmap(self, cpu: int, where: tuple[int, int], prot: int, what: What) -> None:
        first, npages = ARENA + where[0], where[1]
        how, pages = self.new_pages(npages, prot, what)
        how["flags"] |= FIXED
        assert self.machine.mmap(first * PAGE, npages * PAGE, **how, cpu=cpu) == first * PAGE
        self.spaces[self.runs[cpu]].update(zip(range(first, first + npages), pages, strict=True))

    def mmap_anywhere(self, cpu: int, npages: int, prot: int, what: What) -> None:
        how, pages = self.new_pages(npages, prot, what)
        addr = self.machine.mmap(None, npages * PAGE, **how, cpu=cpu)
        numbers = range(addr // PAGE, addr // PAGE + npages)
        space = self.spaces[self.runs[cpu]]
        assert addr % PAGE == 0 and not space.keys() & set(numbers)
        space.update(zip(numbers, pages, strict=True))

    def munmap(self, cpu: int, where: tuple[int, int]) -> None:
        self.machine.munmap((ARENA + where[0]) * PAGE, where[1] * PAGE, cpu=cpu)
        for number in range(ARENA + where[0], ARENA + sum(where)):
            self.spaces[self.runs[cpu]].pop(number, None)

    def mprotect(self, cpu: int, where: tuple[int, int], prot: int) -> None:
        with self.unless_holes(cpu, where) as pages:
            self.machine.mprotect((ARENA + where[0]) * PAGE, where[1] * PAGE, prot, cpu=cpu)
        for page in pages:
            if page is None:
                break                       # what lies before the first hole has changed
            page.prot = prot

    def discard(self, cpu: int, where: tuple[int, int]) -> None:
        with self.unless_holes(cpu, where) as pages:
            self.machine.madvise((ARENA + where[0]) * PAGE, where[1] * PAGE, m.MADV_DONTNEED, cpu=cpu)
        for page in filter(None, pages):    # holes are passed over
            page.own = None

    def write(self, cpu: int, n: int, value: int) -> None:
        number = self.target(cpu, n)
        page = self.spaces[self.runs[cpu]].get(number)
        with self.unless_fault(page, m.PROT_WRITE, number * PAGE, "write"):
            self.machine.write(number * PAGE, bytes([value]), cpu=cpu)
            if page.shared:
                page.backing[0] = value
            else:
                page.own = value

    def read(self, cpu: int, n: int) -> None:
        number = self.target(cpu, n)
        page = self.spaces[self.runs[cpu]].get(number)
        with self.unless_fault(page, ~0, number * PAGE, "read"):     # on x86 any access includes reading
            assert self.machine.read(number * PAGE, 2, cpu=cpu) == bytes([page.value, 0])

    def fork(self, cpu: int) -> None:
        if len(self.spaces) == SPACES:
            return
        child = self.machine.fork(cpu=cpu).mm
        assert child not in self.spaces
        self.spaces[child] = {n: replace(page) for n, page in self.spaces[self.runs[cpu]].items()}

    def attach(self, cpu: int, n: int) -> None:
        left, joined = self.runs[cpu], sorted(self.spaces)[n % len(self.spaces)]
        self.machine.attach(joined, cpu=cpu)
        self.runs[cpu] = joined
        if left not in self.runs.values():
            del self.spaces[left]           # the last one out

    # ---- what must happen ----------------------------------------------------------------------------------

    @contextmanager
    def unless_holes(self, cpu: int, where: tuple[int, int]) -> Iterator[list[Page | None]]:
        """The pages of the range; the call within must fail with ENOMEM if one is missing."""
        pages = [self.spaces[self.runs[cpu]].get(n) for n in range(ARENA + where[0], ARENA + sum(where))]
        with pytest.raises(OSError) if None in pages else nullcontext() as caught:
            yield pages
        assert caught is None or caught.value.errno == errno.ENOMEM

    @contextmanager
    def unless_fault(self, page: Page | None, needs: int, address: int, access: str) -> Iterator[None]:
        """The access within must fail as the page says, if it does."""
        kind = SegmentationFault if page is None or not page.prot & needs else BusError if page.lost else None
        with pytest.raises(kind) if kind else nullcontext() as caught:
            yield
        assert caught is None or (caught.value.address, caught.value.access) == (address, access)

    def target(self, cpu: int, n: int) -> int:
        """Page n of the arena, or one of those that were mapped anywhere."""
        space = self.spaces[self.runs[cpu]]
        outside = sorted(number for number in space if not ARENA <= number < ARENA + 2 * SPAN)
        return outside[n % len(outside)] if n >= SPAN and outside else ARENA + n

    def agrees(self) -> None:
        """The same pages with the same permissions, in as few mappings as may be, and nothing broken."""
        for mm, space in self.spaces.items():
            shown = {page: area.perms for area in areas(self.machine.segment, mm)
                     for page in range(area.start // PAGE, area.end // PAGE)}
            assert shown == {number: page.perms for number, page in space.items()}
            assert list(shown) == sorted(shown)
            assert unmerged(self.machine, mm) == []

    def contents_agree(self) -> None:
        """Every page that can be read holds what it should, in every address space, whoever ran it."""
        for mm in sorted(self.spaces, key=lambda mm: mm != self.runs[0]):      # leaving one may end it
            self.attach(0, sorted(self.spaces).index(mm))
            for number, page in self.spaces[mm].items():
                if page.prot and not page.lost:
                    assert self.machine.read(number * PAGE, 1) == bytes([page.value])


def unmerged(machine: Machine, mm: int) -> list[int]:
    """Where two mappings meet that could be one: same flags, one piece of one file, not two anon_vmas."""
    vmas, found = machine.segment.view("vma"), []
    at = int(machine.segment.view("mm")[mm]["vma_first"])
    while after := int(vmas[at]["next"]):
        one, two = vmas[at], vmas[after]
        size = (int(one["end"]) - int(one["start"])) // PAGE
        anons = {int(one["anon_vma"]), int(two["anon_vma"])} - {0}
        if (one["end"] == two["start"] and one["flags"] == two["flags"] and one["file"] == two["file"]
                and int(one["pgoff"]) + size == int(two["pgoff"]) and len(anons) < 2):
            found.append(int(two["start"]))
        at = after
    return found


place = st.tuples(st.integers(0, SPAN - 1), st.integers(1, 8))
what = st.tuples(st.sampled_from(["anon", "anon", "file1", "file2"]), st.booleans(), st.integers(0, 3))
step = st.one_of(
    st.tuples(st.just("mmap"), place, st.sampled_from(PROTS), what),
    st.tuples(st.just("mmap_anywhere"), st.integers(1, 8), st.sampled_from(PROTS), what),
    st.tuples(st.just("munmap"), place),
    st.tuples(st.just("mprotect"), place, st.sampled_from(PROTS)),
    st.tuples(st.just("discard"), place),
    st.tuples(st.just("write"), st.integers(0, SPAN + 8), st.integers(1, 255)),
    st.tuples(st.just("read"), st.integers(0, SPAN + 8)),
    st.tuples(st.just("fork")),
    st.tuples(st.just("attach"), st.integers(0, SPACES)),
)


def run(policy: dict[str, Any], steps: list[tuple[int, tuple[Any, ...]]], check_each: bool) -> None:
    """Runs the steps on a new machine and compares."""
    with Machine(cpus=CPUS, memory="1MiB", address_spaces=SPACES, paranoid=1, **policy) as machine:
        model = Model(machine)
        for cpu, (name, *arguments) in steps:
            getattr(model, name)(cpu, *arguments)
            if check_each:
                model.agrees()
                assert machine.check() == []
        model.agrees()
        model.contents_agree()
        assert machine.check() == []
        assert machine.counters()["violations"] == 0


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "-".join(map(str, policy.values())))
@settings(max_examples=80, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, CPUS - 1), step), max_size=60), check_each=st.booleans())
def test_random_sequences_agree_with_dictionaries_of_pages(policy, steps, check_each):
    run(policy, steps, check_each)
