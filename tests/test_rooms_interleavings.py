"""One CPU's operation, cut at each of its accesses, with another CPU's whole operation put in between.

The counting engine traps an access of the first CPU and runs the second one there, in the same process, so that these
races happen every time.  Left out are moments at which the second CPU would have to wait for the first.  The outcome
must be that of one of the two orders, and all invariants hold."""

from dataclasses import dataclass, field

import pytest
from rooms.world import ANON_FIXED, ARENA, DONTNEED, EVERYTHING, NONE, PAGE, POLICIES, READ, RW, World, world_of

pytest_plugins = ("engines",)


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


def in_order(world: World, *ops: tuple[str, Op]) -> tuple:
    """What comes of the operations, one after the other: (CPU a's result, b's, what is seen)."""
    world.begin_again()
    results = {who: op(getattr(world, who)) for who, op in ops}
    return results["a"], results["b"], world.finish()


def interrupted(world: World, one: Op, other: Op, moment: int) -> tuple[bool, list]:
    """Runs them, the other one before that access of the first: (whether there is such an access, the other's
    result if it could run)."""
    results = []

    def interrupt() -> None:
        if world.nobody_must_wait(other.writes):
            results.append(other(world.b))

    world.begin_again()
    world.count.trap(interrupt, EVERYTHING, moment)
    result = one(world.a)
    return world.count.disarm(), [result, *results]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("one, pages, other", RACES, ids=[f"{a.name} {p} {b.name}" for a, p, b in RACES])
def test_an_operation_in_the_midst_of_another_is_before_or_after_it(count, policy, one, pages, other):
    with world_of(count, policy, pages) as world:
        allowed = [in_order(world, ("a", one), ("b", other)), in_order(world, ("b", other), ("a", one))]
        moment = happened = 0
        sprung = True
        while sprung:
            sprung, results = interrupted(world, one, other, moment)
            if sprung and len(results) == 2:
                assert (*results, world.finish()) in allowed, f"cut at access {moment}"
                happened += 1
            moment += 1
    assert happened > 10 and moment > 50
