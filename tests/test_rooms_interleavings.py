"""One CPU's operation, cut at each of its accesses, with another CPU's whole operation put in between.

The counting engine traps an access of the first CPU and runs the second one there, in the same process, so that these
races happen every time.  Left out are moments at which the second CPU would have to wait for the first.  The outcome
must be that of one of the two orders, and all invariants hold."""

from dataclasses import dataclass, field

import pytest
from rooms.crew import counter

from shmm.layout import DTYPES
from shmm.segment import Geometry, Segment

pytest_plugins = ("engines",)

PAGE, RW, READ, NONE, ANON_FIXED, DONTNEED = 4096, 3, 1, 0, 0x32, 4
ARENA = 0x2000_0000_0000
PAGES = 6
SMALL = Geometry(ncpu=2, nmm=4, nvma=200, nanon=200, nfile=2, ncache=2, nframe=400, ninsn=2)
LD_RELAXED, ST_RELAXED, ST_RELEASE, RMW = 1 << 2, 1 << 4, 1 << 5, 1 << 6       # kinds, for traps
WRITES, EVERYTHING = 1 << 1 | ST_RELAXED | ST_RELEASE | RMW, 0x7f
IRQ_OFF, WRITER = 1, 1
POLICIES = {"mmap_lock": {"scheme": "mmap_lock"}, "spf irq": {}, "spf rcu": {"walk": "rcu", "table_free": "rcu"}}


class World:
    """Two CPUs of one address space: some pages, the first one written by both; a child, if pages are to be shared."""

    def __init__(self, count, policy: str, pages: str = "fresh") -> None:
        self.count = count
        self.segment = Segment.create(SMALL, **{"scheme": "spf", "paranoid": 1, **POLICIES[policy]})
        self.a, self.b = (count.Cpu(self.segment.address, n) for n in (0, 1))
        assert self.a.exec(1) == self.b.attach(1) == 0
        for start in (ARENA, ARENA + 9 * PAGE):         # the second keeps the page table alive
            self.a.mmap(start, PAGES * PAGE, RW, ANON_FIXED)
            for cpu in (self.a, self.b):
                assert cpu.write(start, b"warm") is None
        if pages == "zero":
            assert self.a.touch(ARENA, PAGES * PAGE, False) > 0
        elif pages == "shared":
            self.a.touch(ARENA, PAGES * PAGE)
            assert self.a.fork(2) == 0
            assert self.a.touch(ARENA, PAGES * PAGE, False) == self.b.touch(ARENA, PAGES * PAGE, False) == 0

    def address(self, array: str, index: int, name: str) -> int:
        """Where a field lies in this process."""
        view = self.segment.view(array)
        return int(view.ctypes.data) + index * view.dtype.itemsize + view.dtype.fields[name][1]

    def table(self) -> int:
        """The frame of the table that maps the arena."""
        entries, pfn = self.segment.view("memory").view("u8"), int(self.segment.view("mm")["pgd"][1])
        for shift in (39, 30, 21):
            pfn = int(entries[pfn][ARENA >> shift & 511]) >> 12 & 0xFFFFFFFFFF
        return pfn

    def pte(self, page: int) -> int:
        return int(self.segment.view("memory").view("u8")[self.table()][(ARENA >> 12) + page & 511])

    def nobody_must_wait(self, writes: bool) -> bool:
        """Whether the second CPU could now run: no lock held that it needs, and no interrupts off at the first."""
        head, mm = self.segment.view("seg"), self.segment.view("mm")[1]
        held = [head[pool]["lock"] for pool in ("zone", "vma_pool", "anon_pool")]
        held += [head["cache_lock"], head["lru_lock"], mm["page_table_lock"], self.segment.view("frame")["ptl"].any()]
        held.append(mm["mmap_lock"]["count"] if writes else mm["mmap_lock"]["count"] & WRITER)
        return not any(held) and not self.segment.view("cpu")["state"][0] & IRQ_OFF

    def seen(self) -> list:
        """What both CPUs see of the pages, and the child of its own."""
        views = []
        for mm in (1, 2, 3):
            if self.segment.view("mm")["in_use"][mm]:
                for cpu in (self.a, self.b):
                    assert cpu.attach(mm) == 0
                both = [[cpu.read(ARENA + n * PAGE, 8) for n in range(PAGES)] for cpu in (self.a, self.b)]
                assert both[0] == both[1]
                views.append(both[0])
                for cpu in (self.a, self.b) if mm > 1 else ():
                    cpu.exit()
        return views

    def finish(self) -> list:
        """What is seen; then the end: nothing broken, nothing lost."""
        for cpu in (self.a, self.b):
            cpu.rcu_drain()
        assert self.count.check(self.segment.address) == []
        self.a.mmap(ARENA + 100 * PAGE, PAGE, RW, ANON_FIXED)       # keeps mm 1 while children are looked at
        views = self.seen()
        for cpu in (self.a, self.b):
            cpu.attach(1)
        for cpu in (self.a, self.b):
            cpu.exit()
        self.count.settle(self.segment.address)
        assert counter(self.segment, "violations") == 0
        assert self.count.frames_in_use(self.segment.address) == 0
        assert self.segment.view("seg")["vma_pool"]["free"] == SMALL.nvma - 1
        return views


# ---- at any moment ---------------------------------------------------------------------------------------------


@dataclass
class Op:
    """An operation on pages 1 to 3 and its result, reduced to what a program could tell."""

    name: str
    call: str
    arguments: tuple = field(default_factory=tuple)
    first: int = 1
    pages: int = 3
    writes: bool = True                 # takes mmap_lock for write

    def __call__(self, cpu) -> object:
        at = ARENA + self.first * PAGE
        where = (at,) if self.call in ("write", "read") else (at, self.pages * PAGE)
        if self.call == "fork":
            where = ()
        return getattr(cpu, self.call)(*where, *self.arguments)


A_STORES = Op("store", "write", (b"A",), writes=False)
A_LOADS = Op("load", "read", (8,), writes=False)
B_STORES = Op("store", "write", (b"xxB",), writes=False)
UNMAP, REPLACE = Op("munmap", "munmap"), Op("mmap fixed", "mmap", (RW, ANON_FIXED))
SEAL, HIDE = Op("mprotect read", "mprotect", (READ,)), Op("mprotect none", "mprotect", (NONE,))
DROP = Op("dontneed", "madvise", (DONTNEED,), writes=False)
FORK = Op("fork", "fork", (3,))

RACES = [
    *((A_STORES, "fresh", other) for other in (UNMAP, REPLACE, SEAL, HIDE, DROP, B_STORES, FORK)),
    *((A_STORES, "shared", other) for other in (UNMAP, SEAL, DROP, B_STORES, FORK)),
    *((A_STORES, "zero", other) for other in (UNMAP, DROP, B_STORES, FORK)),
    *((A_LOADS, "fresh", other) for other in (UNMAP, REPLACE, DROP, B_STORES)),
    *((one, pages, B_STORES) for one in (DROP, UNMAP) for pages in ("fresh", "shared")),
]


def in_order(count, policy: str, pages: str, ops: list[tuple[str, Op]]) -> tuple:
    """What comes of the operations, one after the other: (CPU a's result, b's, what is seen)."""
    world = World(count, policy, pages)
    results = {who: op(getattr(world, who)) for who, op in ops}
    return results["a"], results["b"], world.finish()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("one, pages, other", RACES, ids=[f"{a.name} {p} {b.name}" for a, p, b in RACES])
def test_an_operation_in_the_midst_of_another_is_before_or_after_it(count, policy, one, pages, other):
    allowed = [in_order(count, policy, pages, ops)
               for ops in ([("a", one), ("b", other)], [("b", other), ("a", one)])]
    moment = happened = 0
    while True:
        world, results = World(count, policy, pages), []

        def interrupt(world=world, results=results) -> None:
            if world.nobody_must_wait(other.writes):
                results.append(other(world.b))

        count.trap(interrupt, EVERYTHING, moment)
        result = one(world.a)
        if not count.disarm():
            break
        if results:
            outcome = (result, results[0], world.finish())
            assert outcome in allowed, moment
            happened += 1
        moment += 1
    assert happened > 10 and moment > 50
