"""Memory nodes: frames stay at home, CPUs take what is near, and nothing is lost between two nodes."""

import pytest
from rooms.crew import counter, crew, machine, nanoseconds

from shmm.cluster.check.explore import Task, run
from shmm.cluster.check.scenario import VARIANTS

pytest_plugins = ("engines",)

BATCH, HIGH, LRU_BATCH = 63, 378, 15            # SHMM_PCP_BATCH, SHMM_PCP_HIGH, SHMM_LRU_BATCH
PAGE, RW, ANON_FIXED = 4096, 3, 0x32
ARENA = 0x2000_0000_0000


@pytest.fixture(params=[2, 3])
def segment(request):
    """CPUs 0 and 1 on the first node, 2 and 3 on the second; the third, if there is one, has memory only."""
    with machine(cpus=4, nnode=request.param, cpu_node=[0, 0, 1, 1]) as made:
        yield made


@pytest.fixture
def cpus(rooms, segment):
    return [rooms.Cpu(segment.address, n) for n in range(4)]


def home(segment, pfn: int) -> int:
    """The node that a frame belongs to."""
    head = segment.view("seg")
    return int(pfn) * int(head["nnode"]) // int(head["nframe"])


def homes(segment, frames) -> set[int]:
    return {home(segment, pfn) for pfn in frames}


def chain(segment, pfn: int) -> list[int]:
    """A list of free frames, from its first one on."""
    found = []
    while pfn:
        found.append(int(pfn))
        pfn = segment.view("frame")["next"][pfn]
    return found


def free_in_zones(segment) -> list[int]:
    nodes = segment.view("seg")["node"][: int(segment.view("seg")["nnode"])]
    return nodes["zone"]["free"].tolist()


def take_node(rooms, segment, cpu, node: int) -> list[int]:
    """All frames that the CPU can have without leaving the node, which is its own."""
    held = []
    while free_in_zones(segment)[node] or segment.view("cpu")["pcp_head"][cpu.id]:
        held.append(rooms.take(cpu))
    assert homes(segment, held) == {node}
    return held


# ---- frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nnode", [1, 2, 3, 7, 8])
def test_nodes_divide_the_frames_equally(rooms, nnode):
    with machine(cpus=1, nnode=nnode) as segment:
        zones = segment.view("seg")["node"]["zone"]
        lists = [chain(segment, zones["head"][node]) for node in range(nnode)]
        lengths = [len(frames) for frames in lists]
        assert [pfn for frames in lists for pfn in frames] == list(range(1, len(segment.view("frame"))))
        assert lengths == zones["free"][:nnode].tolist() and not zones["free"][nnode:].any()
        assert max(lengths) - min(lengths) <= 2         # one by rounding, one is the zero page
        assert all(homes(segment, frames) == {node} for node, frames in enumerate(lists))
        assert rooms.check(segment.address) == []


def test_a_cpu_takes_frames_of_its_own_node(rooms, segment, cpus):
    before = free_in_zones(segment)
    for cpu, node in ((0, 0), (2, 1), (3, 1)):
        assert homes(segment, [rooms.take(cpus[cpu]) for _ in range(3 * BATCH)]) == {node}
    assert not segment.view("cpu")["foreign_count"].any()
    after = [before[0] - 3 * BATCH, before[1] - 6 * BATCH, *before[2:]]
    assert free_in_zones(segment) == after


def test_a_cpu_whose_node_is_empty_takes_of_the_next_one_that_has_some(rooms, segment, cpus):
    nnode, frames = len(free_in_zones(segment)), len(segment.view("frame")) - 1
    held = take_node(rooms, segment, cpus[2], 1)
    held += iter(lambda: rooms.take(cpus[2]), 0)
    order = [home(segment, pfn) for pfn in held]
    nodes = [node for at, node in enumerate(order) if at == 0 or order[at - 1] != node]
    assert nodes == [(1 + step) % nnode for step in range(nnode)]
    assert sorted(held) == list(range(1, frames + 1))
    assert rooms.take(cpus[0]) == 0
    for pfn in held:
        rooms.give(cpus[1], pfn)
    assert sorted(iter(lambda: rooms.take(cpus[1]), 0)) == list(range(1, frames + 1))   # what it keeps itself, too


def test_a_cpu_comes_home_when_there_are_frames_again(rooms, segment, cpus):
    held = take_node(rooms, segment, cpus[0], 0)
    refills = counter(segment, "zone_refill")
    assert homes(segment, [rooms.take(cpus[0]) for _ in range(20)]) == {1}
    assert counter(segment, "zone_refill") == refills + 1       # its own zone is not tried again and again
    assert segment.view("cpu")["foreign_count"][0] == BATCH - 20
    rooms.give(cpus[1], held.pop())
    assert home(segment, rooms.take(cpus[0])) == 1              # still in the other CPU's list
    for pfn in held[-HIGH:]:
        rooms.give(cpus[1], pfn)
    assert home(segment, rooms.take(cpus[0])) == 0
    assert segment.view("cpu")["foreign_count"][0] == BATCH - 21    # kept for the next time


def test_foreign_frames_go_home_in_batches(rooms, segment, cpus):
    held = [rooms.take(cpus[0]) for _ in range(3 * BATCH)]
    before = free_in_zones(segment)
    for pfn in held:
        rooms.give(cpus[2], pfn)
    cpu = segment.view("cpu")[2]
    assert cpu["pcp_count"] == 0 and cpu["foreign_count"] == BATCH      # the last batch stays
    assert homes(segment, chain(segment, cpu["foreign_head"])) == {0}
    assert free_in_zones(segment)[0] == before[0] + 2 * BATCH and free_in_zones(segment)[1:] == before[1:]
    assert counter(segment, "zone_drain") == 2
    assert rooms.check(segment.address) == []


def test_a_frame_of_a_third_node_sends_the_others_home(rooms):
    with machine(cpus=3, nnode=3, cpu_node=[0, 1, 2]) as segment:
        cpus = [rooms.Cpu(segment.address, n) for n in range(3)]
        zero, one = rooms.take(cpus[0]), rooms.take(cpus[1])
        before = free_in_zones(segment)
        rooms.give(cpus[2], zero)
        rooms.give(cpus[2], one)
        assert chain(segment, segment.view("cpu")["foreign_head"][2]) == [one]
        assert free_in_zones(segment) == [before[0] + 1, *before[1:]]


@pytest.mark.parametrize("spare", [None, 700], ids=["plenty", "too few"])
def test_racing_cpus_of_two_nodes_share_no_frame_and_lose_none(rooms, segment, cpus, spare):
    hoard = take_node(rooms, segment, cpus[0], 0) if spare is not None else []
    hoard += [rooms.take(cpus[2]) for _ in range(sum(free_in_zones(segment)) - spare)] if spare is not None else []
    ns = nanoseconds(0.5)
    ends = crew(*(lambda n=n: rooms.frame_storm(rooms.Cpu(segment.address, n), 4, ns, n + 1) for n in range(4)))
    taken, shared, out = map(sum, zip(*ends, strict=True))
    assert shared == 0
    assert taken == counter(segment, "pgalloc") - len(hoard) == counter(segment, "pgfree") > 0
    assert (out > 0) == (spare is not None)
    for pfn in hoard:
        rooms.give(cpus[1], pfn)
    assert rooms.check(segment.address) == []
    rooms.settle(segment.address)
    assert sum(free_in_zones(segment)) == len(segment.view("frame")) - 1
    assert rooms.check(segment.address) == []


def test_memory_is_short_only_if_it_is_on_all_nodes(rooms, segment, cpus):
    rooms.defer(cpus[0], 65)
    take_node(rooms, segment, cpus[0], 0)
    rooms.rcu_step(cpus[0], "relieve")
    assert counter(segment, "rcu_backpressure") == 0
    while sum(free_in_zones(segment)) >= len(segment.view("frame")) >> 4:
        assert rooms.take(cpus[0])
    rooms.rcu_step(cpus[0], "relieve")
    assert counter(segment, "rcu_backpressure") == 1


# ---- LRU lists -------------------------------------------------------------------------------------------------


def lru_pages(segment) -> list[int]:
    return segment.view("seg")["node"]["lru_pages"].tolist()


def share(cpus) -> None:
    """One address space, whose first CPU is on node 0 and whose second is on node 1."""
    assert cpus[0].exec(1) == cpus[2].attach(1) == 0
    for start in (ARENA, ARENA + 1000 * PAGE):
        assert cpus[0].mmap(start, 200 * PAGE, RW, ANON_FIXED) == start


def test_a_page_is_on_the_list_of_its_node(rooms, segment, cpus):
    share(cpus)
    assert cpus[0].touch(ARENA, 2 * LRU_BATCH * PAGE) == 2 * LRU_BATCH
    assert cpus[2].touch(ARENA + 1000 * PAGE, LRU_BATCH * PAGE) == LRU_BATCH
    assert lru_pages(segment)[:3] == [2 * LRU_BATCH, LRU_BATCH, 0]
    assert rooms.check(segment.address) == []
    assert cpus[2].munmap(ARENA, 1200 * PAGE) == 0             # two nodes' pages in one release
    assert not any(lru_pages(segment))
    assert segment.view("cpu")["foreign_count"][2] >= 2 * LRU_BATCH         # tables, too
    assert rooms.check(segment.address) == []


def test_a_batch_of_two_nodes_is_linked_to_both(rooms, segment, cpus):
    share(cpus)
    assert cpus[0].touch(ARENA, 2 * LRU_BATCH * PAGE) == 2 * LRU_BATCH
    free = free_in_zones(segment)[0] + int(segment.view("cpu")["pcp_count"][0])
    hoard = [rooms.take(cpus[0]) for _ in range(free - 7)]
    assert homes(segment, hoard) == {0}
    cpus[0].touch(ARENA + 100 * PAGE, LRU_BATCH * PAGE)
    assert lru_pages(segment)[:3] == [2 * LRU_BATCH + 7, LRU_BATCH - 7, 0]
    assert cpus[0].munmap(ARENA, 200 * PAGE) == 0
    assert not any(lru_pages(segment))
    for pfn in hoard:
        rooms.give(cpus[0], pfn)
    assert rooms.check(segment.address) == []


@pytest.mark.parametrize("pages, holds", [(1, 1), (32, 1), (33, 2), (100, 4)])
def test_a_release_holds_the_lock_for_32_pages_at_most(count, pages, holds):
    with machine(cpus=1) as segment:
        cpu = count.Cpu(segment.address, 0)
        assert cpu.exec(1) == 0
        cpu.mmap(ARENA, pages * PAGE, RW, ANON_FIXED)
        cpu.touch(ARENA, pages * PAGE)
        nodes = segment.view("seg")["node"]
        count.reset(nodes.ctypes.data + nodes.dtype.fields["lru_lock"][1], 4)
        drained = counter(segment, "lru_drain")
        assert cpu.munmap(ARENA, pages * PAGE) == 0
        _, lock, _ = count.figures()
        assert lock["RMW"] == lock["ST_RELEASE"] == holds + counter(segment, "lru_drain") - drained


# ---- invariants ------------------------------------------------------------------------------------------------


def move(segment, what: str) -> None:
    """Breaks one thing: CPU 0 has 30 pages on node 0's list, CPU 2 has 15 on node 1's."""
    node, frame, cpu = segment.view("seg")["node"], segment.view("frame"), segment.view("cpu")
    if what == "LRU list of a node":                    # both lists stay whole, but for this
        pfn, first = int(node["lru_head"][0]), int(node["lru_head"][1])
        node["lru_head"][0] = frame["lru_next"][pfn]
        frame["lru_prev"][node["lru_head"][0]] = 0
        frame["lru_next"][pfn], frame["lru_prev"][first], node["lru_head"][1] = first, pfn, pfn
        node["lru_pages"][0] -= 1
        node["lru_pages"][1] += 1
    elif what == "LRU link back":
        frame["lru_prev"][node["lru_tail"][0]] = 0
    elif what == "length of the LRU list":
        node["lru_pages"][1] += 1
    elif what == "free frame in the list of a node":
        pfn = int(node["zone"]["head"][0])
        node["zone"]["head"][0] = frame["next"][pfn]
        frame["next"][pfn] = node["zone"]["head"][1]
        node["zone"]["head"][1] = pfn
        node["zone"]["free"][0] -= 1
        node["zone"]["free"][1] += 1
    elif what == "length of a free list":
        node["zone"]["free"][1] -= 1
    elif what == "used frame in a free list":
        frame["next"][cpu["pcp_head"][2]] = node["lru_head"][1]
    elif what == "free frames that are in a list":
        cpu["pcp_head"][0], cpu["pcp_count"][0] = 0, 0
    elif what == "zone.lock":
        node["zone"]["lock"]["owner"][1] = 1
    else:
        node["lru_lock"]["owner"][1] = 1


@pytest.mark.parametrize("what, letter", [
    ("LRU list of a node", "I4"), ("LRU link back", "I4"), ("length of the LRU list", "I4"),
    ("free frame in the list of a node", "I4"), ("length of a free list", "I4"), ("used frame in a free list", "I4"),
    ("free frames that are in a list", "I4"), ("zone.lock", "I6"), ("lru_lock", "I6"),
])
def test_what_is_wrong_with_a_nodes_lists_is_found(rooms, segment, cpus, what, letter):
    share(cpus)
    cpus[0].touch(ARENA, 2 * LRU_BATCH * PAGE)
    cpus[2].touch(ARENA + 1000 * PAGE, LRU_BATCH * PAGE)
    assert rooms.check(segment.address) == []
    move(segment, what)
    (told,) = rooms.check(segment.address)
    assert told.startswith(letter) and what in told


# ---- every schedule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory, bound", [("sc", 2), ("tso", 1), ("weak", 1)])
@pytest.mark.parametrize("name", ["neighbours", "shootdown_reuse", "two_copies"])
def test_cpus_of_two_nodes_race_as_those_of_one(monkeypatch, name, memory, bound):
    """A page of one node is freed by a CPU of the other, in every schedule."""
    monkeypatch.setitem(VARIANTS, "base", VARIANTS["base"] | {"nnode": 2, "cpu_node": bytes([0, 1])})
    result = run(Task(name, memory=memory, bound=bound))
    assert result["violation"] is None and result["exhausted"] and result["schedules"] > 100
