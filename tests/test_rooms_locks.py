"""The locks, by processes that race: spinlock, seqcount, rwsem, percpu_rwsem."""

import time

import pytest
from rooms.crew import counter, crew, machine, nanoseconds

pytest_plugins = ("engines",)

LEFT, RIGHT, TOTAL = 0, 1, 3            # shared words of locks.pxi
LONG = 10.0                             # seconds: what waits for an event gives up


@pytest.fixture
def segment():
    with machine() as made:
        yield made


def lock_is_free(segment) -> bool:
    lock = segment.view("mm")["mmap_lock"][1]
    return not any(int(lock[field]) for field in ("count", "owner", "wait_head", "wait_tail")) and not any(
        lock["wait_lock"].item())


# ---- spinlock ------------------------------------------------------------------------------------------------


def spinlock(segment) -> tuple[int, int]:
    """The spinlock of locks.pxi: (owner, tail)."""
    return segment.view("mm")["page_table_lock"][1].item()


def wait_for_tail(segment, tail: int) -> None:
    """Until so many stand in line: their cpu + 1 are 1, 2 and so on.  Whoever waits in vain is killed by crew."""
    while spinlock(segment)[1] != tail:
        time.sleep(0.001)


@pytest.mark.parametrize(("queued", "shared_core", "parties"), [
    (0, 1, 2), (0, 1, 5), (1, 0, 2), (1, 1, 5), (2, 0, 2), (2, 1, 8),
])
def test_a_spinlock_lets_one_in_at_a_time(rooms, queued, shared_core, parties):
    ns = nanoseconds(0.4)
    with machine(queued_spinlocks=queued, shared_core=shared_core) as segment:
        ends = crew(*(lambda n=n: rooms.spin(rooms.Cpu(segment.address, n), parties, ns) for n in range(parties)))
        total, broken = map(sum, zip(*ends, strict=True))
        assert broken == 0
        assert rooms.peek(rooms.Cpu(segment.address, 0), TOTAL) == total > 0
        assert spinlock(segment) == (0, 0)
        assert queued or counter(segment, "spinlock_queued") == 0


@pytest.mark.parametrize("queued", [1, 2])
def test_J_L_H_who_stands_in_line_comes_in_by_turns(rooms, queued):
    parties = 5
    with machine(queued_spinlocks=queued) as segment:
        def stand(n: int) -> int:
            wait_for_tail(segment, n)                   # the one before us, or nobody
            return rooms.spin_number(rooms.Cpu(segment.address, n))

        def release() -> int:
            wait_for_tail(segment, parties)             # all of them
            rooms.spin_step(keeper, "unlock")
            return rooms.spin_number(keeper) if queued == 2 else parties        # again, at once: must not overtake

        keeper = rooms.Cpu(segment.address, parties)
        rooms.spin_step(keeper, "lock")
        assert crew(*(lambda n=n: stand(n) for n in range(parties)), release) == [*range(parties + 1)]
        assert spinlock(segment) == (0, 0)
        assert counter(segment, "spinlock_queued") in (parties, parties + 1)
        assert segment.view("cpu")["queue_next"].tolist()[:parties - 1] == [2, 3, 4, 5]
        assert segment.view("cpu")["queue_ready"].tolist()[:parties] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(("queued", "overtakes"), [(1, True), (2, False)])
def test_who_only_tries_a_spinlock_is_never_in_line(rooms, queued, overtakes):
    with machine(queued_spinlocks=queued) as segment:
        a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
        rooms.spin_step(a, "lock")
        assert spinlock(segment) == (1, 0)
        assert not rooms.spin_step(b, "try")
        assert spinlock(segment) == (1, 0)
        rooms.spin_step(a, "unlock")
        segment.view("mm")["page_table_lock"]["tail"][1] = 7        # somebody waits
        assert rooms.spin_step(b, "try") == overtakes
        assert spinlock(segment) == (2 if overtakes else 0, 7)
        assert counter(segment, "spinlock_queued") == 0


@pytest.mark.parametrize("where", ["owner", "tail"])
def test_I6_a_spinlock_at_rest_has_no_owner_and_nobody_in_line(rooms, segment, where):
    head, mm = segment.view("seg"), segment.view("mm")
    value = {"owner": "0x3", "tail": "0x300000000"}[where]
    for lock, line in (
        (head["node"]["zone"]["lock"][:1], "mm 0: zone.lock"), (head["node"]["lru_lock"][:1], "mm 0: lru_lock"),
        (head["vma_pool"]["lock"], "mm 0: vma_pool.lock"), (head["anon_pool"]["lock"], "mm 0: anon_pool.lock"),
        (head["cache_lock"], "mm 0: cache_lock"), (head["rcu_lock"], "mm 0: rcu_lock"),
        (mm["page_table_lock"][1:2], "mm 1: page_table_lock held"),
        (mm["mmap_lock"]["wait_lock"][1:2], "mm 1: wait_lock held"),
    ):
        lock[where] = 3
        assert rooms.check(segment.address) == [f"I6 {line} at 0x2: {value}, not 0x0"]
        lock[where] = 0
    assert rooms.check(segment.address) == []


# ---- seqcount ------------------------------------------------------------------------------------------------


def test_A_B_what_the_sequence_count_validates_is_not_torn(rooms, segment):
    ns = nanoseconds(0.5)
    _, *ends = crew(lambda: rooms.seq_write(rooms.Cpu(segment.address, 0), 3, ns),
                    *(lambda n=n: rooms.seq_read(rooms.Cpu(segment.address, n), 3, ns) for n in (1, 2)))
    valid, torn, told = map(sum, zip(*ends, strict=True))
    assert torn == 0
    assert valid > 0
    assert told > 0                     # the writer could be seen at work, or this test shows nothing


# ---- rwsem ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parties", [2, 8])
def test_readers_share_and_writers_exclude(rooms, segment, parties):
    ns = nanoseconds(0.8)
    ends = crew(*(lambda n=n: rooms.rwsem_mix(rooms.Cpu(segment.address, n), parties, ns, n + 1)
                  for n in range(parties)))
    sums = {what: sum(end[what] for end in ends) for what in ends[0]}
    assert sums.pop("broken") == 0
    assert min(sums.values()) > 0, sums                 # each kind has been tried
    assert rooms.peek(rooms.Cpu(segment.address, 0), TOTAL) == sums["write"] + sums["downgrade"]
    assert lock_is_free(segment)
    assert counter(segment, "rwsem_write_sleep") + counter(segment, "rwsem_read_sleep") > 0


def test_who_may_come_in(rooms, segment):
    a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
    rooms.rwsem_step(a, "write")
    assert not rooms.rwsem_step(b, "try")
    rooms.rwsem_step(a, "downgrade")
    assert rooms.rwsem_step(b, "try")                   # a reader now
    rooms.rwsem_step(b, "unread")
    rooms.rwsem_step(a, "unread")
    rooms.rwsem_step(b, "write")
    rooms.rwsem_step(b, "unwrite")
    assert lock_is_free(segment)


def test_a_writer_gets_in_under_a_constant_stream_of_readers(rooms, segment):
    times, ns = 5, nanoseconds(LONG)
    written, *read = crew(
        lambda: rooms.rwsem_write(rooms.Cpu(segment.address, 0), 3, ns, times),
        lambda: rooms.rwsem_stream(rooms.Cpu(segment.address, 1), 3, ns, 2),
        lambda: rooms.rwsem_stream(rooms.Cpu(segment.address, 2), 3, ns, 1),
    )
    assert written == times and min(read) > 0
    assert counter(segment, "rwsem_handoff") > 0
    assert lock_is_free(segment)


def test_a_reader_gets_in_under_a_constant_stream_of_writers(rooms, segment):
    times, ns = 200, nanoseconds(LONG)
    read, *_ = crew(
        lambda: rooms.rwsem_read(rooms.Cpu(segment.address, 0), 4, ns, times),
        *(lambda n=n: rooms.rwsem_write(rooms.Cpu(segment.address, n), 4, ns, 0) for n in (1, 2, 3)),
    )
    assert read == times
    assert lock_is_free(segment)


# ---- percpu_rwsem --------------------------------------------------------------------------------------------


def test_readers_of_the_percpu_rwsem_only_try(rooms, segment):
    a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
    assert rooms.percpu_step(a, "read") and rooms.percpu_step(b, "read")
    rooms.percpu_step(a, "unread")
    rooms.percpu_step(b, "unread")
    rooms.percpu_step(a, "write")
    assert not rooms.percpu_step(b, "read")
    rooms.percpu_step(a, "unwrite")
    assert rooms.percpu_step(b, "read")
    rooms.percpu_step(b, "unread")
    assert not segment.view("cpu")["percpu_readers"].any()
    assert segment.view("mm")["notifier_lock"][1]["slow"] == 0


@pytest.mark.parametrize("writers", [1, 2])
def test_E_a_writer_of_the_percpu_rwsem_excludes_readers(rooms, segment, writers):
    ns, parties = nanoseconds(0.6), writers + 3
    ends = crew(
        *(lambda n=n: rooms.percpu_write(rooms.Cpu(segment.address, n), parties, ns) for n in range(writers)),
        *(lambda n=n: rooms.percpu_read(rooms.Cpu(segment.address, n), parties, ns)
          for n in range(writers, parties)),
    )
    assert sum(broken for _, broken, *_ in ends) == 0
    assert min(done for done, *_ in ends) > 0
    assert sum(failed for *_, failed in ends[writers:]) > 0         # somebody has met a writer
