"""Frames: none is given to two, none is lost, wherever they are."""

import pytest
from rooms.crew import counter, crew, machine, nanoseconds

pytest_plugins = ("engines",)

BATCH, HIGH = 63, 378                   # SHMM_PCP_BATCH, SHMM_PCP_HIGH


@pytest.fixture
def segment():
    with machine() as made:
        yield made


def free_frames(segment) -> int:
    """In the one node's zone and on the CPUs' lists; each list is as long as it says."""
    frames, total = segment.view("frame"), 0
    zone = segment.view("seg")["node"]["zone"][0]
    lists = [(zone["head"], zone["free"])]
    lists += [(cpu["pcp_head"], cpu["pcp_count"]) for cpu in segment.view("cpu")]
    for head, length in lists:
        at, n = int(head), 0
        while at and n <= len(frames):
            assert frames["kind"][at] == 0
            at, n = int(frames["next"][at]), n + 1
        assert n == int(length)
        total += n
    return total


def test_frames_move_in_batches(rooms, segment):
    a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
    all_of_them = free_frames(segment)
    held = [rooms.take(a) for _ in range(2 * BATCH)]
    assert held == list(range(1, 2 * BATCH + 1))                    # neighbours
    assert counter(segment, "zone_refill") == 2
    held += [rooms.take(a) for _ in range(HIGH + 1 - len(held))]
    refills = counter(segment, "zone_refill")
    for pfn in held:
        rooms.give(b, pfn)
    assert counter(segment, "zone_drain") == 1                      # one too many on b's list
    assert counter(segment, "zone_refill") == refills
    assert segment.view("cpu")["pcp_count"][1] == HIGH + 1 - BATCH
    assert free_frames(segment) == all_of_them


def test_memory_runs_out_and_comes_back(rooms, segment):
    a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
    all_of_them, held = free_frames(segment), []
    while pfn := rooms.take(a if len(held) % 5 else b):
        held.append(pfn)
    held += iter(lambda: rooms.take(b), 0)
    held += iter(lambda: rooms.take(a), 0)
    assert sorted(held) == list(range(1, all_of_them + 1))
    assert rooms.take(a) == rooms.take(b) == 0
    for pfn in held:
        rooms.give(b, pfn)
    assert free_frames(segment) == all_of_them


@pytest.mark.parametrize("spare", [None, 700], ids=["plenty", "too few"])
def test_racing_cpus_share_no_frame_and_lose_none(rooms, segment, spare):
    all_of_them, hoard = free_frames(segment), []
    if spare is not None:
        hoard = [rooms.take(rooms.Cpu(segment.address, 7)) for _ in range(all_of_them - spare)]
    ns = nanoseconds(0.5)
    ends = crew(*(lambda n=n: rooms.frame_storm(rooms.Cpu(segment.address, n), 4, ns, n + 1) for n in range(4)))
    taken, shared, out = map(sum, zip(*ends, strict=True))
    assert shared == 0
    assert taken == counter(segment, "pgalloc") - len(hoard) == counter(segment, "pgfree") > 0
    assert (out > 0) == (spare is not None)
    assert free_frames(segment) == all_of_them - len(hoard)


@pytest.mark.parametrize("pages", [10, 64, 200])
def test_nothing_is_resident_in_an_address_space_that_is_gone(rooms, segment, pages):
    start, page, rw, anon_fixed = 0x2000_0000_0000, 4096, 3, 0x32
    a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
    assert a.exec(1) == b.attach(1) == 0
    assert a.mmap(start, pages * page, rw, anon_fixed) == start
    assert b.touch(start, pages * page) == pages
    assert a.munmap(start, page) == 0
    mm, cpu = segment.view("mm"), segment.view("cpu")
    assert int(mm["rss_anon"].astype("i8")[1] + cpu["rss_anon"].astype("i8").sum()) == pages - 1
    b.exit()
    a.exit()
    assert mm["rss_anon"][1] == 0 and not cpu["rss_anon"].any()
