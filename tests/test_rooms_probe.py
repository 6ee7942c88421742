"""A trap that only looks up its VMA: what it finds, when it takes the lock, and what may happen in its midst.

As in test_rooms_spf.py the counting engine traps an access of one CPU and lets another act there."""

import pytest
from rooms.crew import counter
from rooms.world import ANON_FIXED, ARENA, EVERYTHING, LOADS, NONE, PAGE, PAGES, POLICIES, READ, RW, World, world_of

from shmm.layout import COUNTERS, DTYPES

pytest_plugins = ("engines",)

ELSEWHERE = ARENA + 64 * PAGE
LAST = ARENA + (PAGES - 1) * PAGE
SPF = [name for name in POLICIES if name != "mmap_lock"]
SERIES = [name for name in COUNTERS if name.lower().startswith("spf_")]


@pytest.fixture(params=POLICIES)
def world(request, count):
    with world_of(count, request.param) as made:
        yield made


def looked_up(world: World) -> tuple[int, int]:
    """How many look-ups took no lock, and how many did."""
    return counter(world.segment, "probe_speculated"), counter(world.segment, "probe_locked")


def speculates(world: World) -> bool:
    """Whether the scheme can do without the lock."""
    return bool(world.segment.view("seg")["scheme"])


def lower_the_edge(world: World) -> None:
    """CPU b unmaps all pages but the last: the VMA that was there is freed, another one holds the last page."""
    assert world.b.munmap(ARENA, (PAGES - 1) * PAGE) == 0


# ---- what it finds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where, mapped", [
    (ARENA, 1), (LAST + PAGE - 1, 1), (ARENA + 9 * PAGE, 1),
    (ARENA - 1, 0), (LAST + PAGE, 0), (ARENA + 9 * PAGE - 1, 0), (1 << 46, 0), (0, 0), (2**64 - 1, 0),
])
def test_it_tells_mapped_addresses_from_others(world, where, mapped):
    assert world.a.probe(where) == mapped
    assert looked_up(world) == ((1, 0) if speculates(world) else (0, 1))


def test_it_finds_mappings_of_every_kind_and_touches_no_page(world):
    """Also those that a speculative fault would not try."""
    file = world.a.file_new(1)
    for number, (prot, flags, of) in enumerate(((RW, 0x11, file), (READ, 0x12, file), (NONE, ANON_FIXED, 0))):
        assert world.a.mmap(ELSEWHERE + number * PAGE, PAGE, prot, flags, of) > 0
    before = {name: counter(world.segment, name) for name in ("user_faults", "pgfault", "pgalloc", *SERIES)}
    assert [world.a.probe(ELSEWHERE + number * PAGE) for number in range(4)] == [1, 1, 1, 0]
    assert {name: counter(world.segment, name) for name in before} == before


def test_it_sees_what_has_been_unmapped_before(world):
    lower_the_edge(world)
    assert [world.a.probe(ARENA + number * PAGE) for number in range(PAGES)] == [0] * (PAGES - 1) + [1]


# ---- the lock --------------------------------------------------------------------------------------------------------


def test_only_the_classical_look_up_writes_the_line_of_mmap_lock(world):
    mm = world.segment.view("mm")
    world.count.reset(mm[1:].ctypes.data + DTYPES["mm_t"].fields["mmap_lock"][1], 64)
    assert world.a.probe(ARENA) == 1
    _, line, _ = world.count.figures()
    assert line == ({"LD_RELAXED": 2} if speculates(world) else
                    {"RMW": 2, "LD_RELAXED": 1})         # mmap_seq twice, or down and up and, paranoid, mmap_seq


def test_a_single_user_takes_the_lock_unless_forced(world):
    world.b.exit()
    assert world.a.probe(ARENA) == 1
    assert looked_up(world) == (0, 1)
    world.segment.view("seg")["force_speculation"] = 1
    assert world.a.probe(ARENA) == 1
    assert looked_up(world) == ((1, 1) if speculates(world) else (0, 2))


def test_ODD_a_writer_at_work(world):
    mm = world.segment.view("mm")
    mm["mmap_seq"][1] += 1
    assert world.a.probe(ARENA) == 1
    mm["mmap_seq"][1] += 1
    assert looked_up(world) == (0, 1)


@pytest.mark.parametrize("policy", SPF)
@pytest.mark.parametrize("look, speculated", [(0, 1), (1, 0)])
def test_the_second_look_at_mmap_seq_notices_a_writer(count, policy, look, speculated):
    """The first one finds the writer gone."""
    with world_of(count, policy) as world:
        count.trap(lambda: lower_the_edge(world), LOADS, look, world.address("mm", 1, "mmap_seq"), 8)
        assert world.a.probe(ARENA) == 0
        assert count.disarm()
        assert looked_up(world) == (speculated, 1 - speculated)
        world.finish()


# ---- in its midst ----------------------------------------------------------------------------------------------------


def test_what_stays_mapped_is_found_at_every_moment(world):
    """Wherever the other CPU cuts in, one VMA or the other holds the last page; of the first only one order is left."""
    moment, sprung, cut = 0, True, 0
    while sprung:
        world.begin_again()
        ran = []

        def cut_in(ran=ran) -> None:
            if world.nobody_must_wait(True):
                ran.append(lower_the_edge(world))

        world.count.trap(cut_in, EVERYTHING, moment)
        found = world.a.probe(LAST)
        sprung = world.count.disarm()
        assert found == 1, f"cut at access {moment}"
        cut += bool(ran)
        world.finish()
        moment += 1
    assert cut > 5 and moment > 15
