"""The locks, by processes that race: spinlock, seqcount, rwsem, percpu_rwsem."""

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
    return all(int(lock[field]) == 0 for field in ("count", "owner", "wait_lock", "wait_head", "wait_tail"))


# ---- spinlock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parties", [2, 5])
def test_a_spinlock_lets_one_in_at_a_time(rooms, segment, parties):
    ns = nanoseconds(0.4)
    ends = crew(*(lambda n=n: rooms.spin(rooms.Cpu(segment.address, n), parties, ns) for n in range(parties)))
    total, broken = map(sum, zip(*ends, strict=True))
    assert broken == 0
    assert rooms.peek(rooms.Cpu(segment.address, 0), TOTAL) == total > 0


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
