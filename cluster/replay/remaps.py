"""mremap, replayed: as the operation that it is where it can be told to have been one, else as what it came to.

The two ends of a call are two events.  Where no other thread changed the address space in between, and the model knows
one mapping at the old place, the record is an mremap, to the place that the recorded kernel chose: pages move with it.
Otherwise the old place is free from the enter on, the new one taken at the exit, and the pages have to be brought in
again, which no recorded fault notices: they were present."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shmm.cluster.replay.presence import PAGE_SHIFT, READ, WRITE, Mapping
from shmm.cluster.replay.space import arrival, departure, page_up
from shmm.cluster.replay.trace import Event
from shmm.program import MAY_FAIL

if TYPE_CHECKING:
    from shmm.cluster.replay.calls import Calls, Live, Place

MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4
DONTNEED = 4


def remap(calls: Calls, live: Live, event: Event, result: int) -> Place | None:
    """The whole call, at its exit."""
    old, old_length, new_length, flags = event.args[0], page_up(event.args[1]), page_up(event.args[2]), event.args[3]
    pieces = live.presence.maps.overlapping(old, old + old_length)
    if len(pieces) != 1 or pieces[0][:2] != (old, old + old_length):
        vacate(calls, live, event, result)
        return arrive(calls, live, event, result)
    start, end = arrival(event, result)
    if live.presence.maps.overlapping(start, end):
        calls.unmap(live, start, end)               # the recorded kernel had nothing there, or took it away
    moves = result != old
    live.presence.move(old, old_length, result, new_length, bool(flags & DONTUNMAP))
    calls.counts["mremaps that moved" if moves else "mremaps in place"] += 1
    how = MAYMOVE | FIXED | (flags & DONTUNMAP) if moves else 0
    return calls.emit("MREMAP", addr=old, length=old_length, count=new_length, flags=how, aux=result if moves else 0,
                      opf=MAY_FAIL)


def vacate(calls: Calls, live: Live, event: Event, result: int) -> None:
    """A call's first half: what it moves away from is free from here on."""
    start, end = departure(event, result)
    old = event.args[0]
    live.moving[event.tid] = live.presence.maps.overlapping(old, old + page_up(event.args[1]) or old + 1)
    if start >= end:
        return
    if event.args[3] & DONTUNMAP:
        live.presence.zap(start, end)
        calls.emit("MADVISE", addr=start, length=end - start, value=DONTNEED, opf=MAY_FAIL)
    else:
        calls.unmap(live, start, end)


def arrive(calls: Calls, live: Live, event: Event, result: int) -> Place | None:
    """Its second half: what it comes to, with the permissions and file that it had."""
    start, end = arrival(event, result)
    calls.counts["mremaps in two steps"] += 1
    pieces = live.moving.pop(event.tid, [])
    delta = result - event.args[0]
    place = None
    for low, high, mapping in pieces or [(event.args[0], end - delta, Mapping(READ | WRITE))]:
        low, high = max(low + delta, start), min(high + delta, end)
        if low < high:
            place = calls.map(live, low, high, shifted(mapping, delta))
    tail = max(start, pieces[-1][1] + delta) if pieces else end
    if tail < end:
        place = calls.map(live, tail, end, shifted(pieces[-1][2], delta))
    return place


def shifted(mapping: Mapping, delta: int) -> Mapping:
    """The same mapping, delta bytes further."""
    return replace(mapping, shift=mapping.shift + (delta >> PAGE_SHIFT)) if mapping.file else mapping
