"""A map from stretches of addresses to values: what is mapped where, in one address space.

Stretches do not overlap; neighbours with equal values are one stretch, so a value must not depend on where its
stretch begins."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class Intervals(Generic[V]):
    """Disjoint stretches [start, end) in address order, each with a value."""

    __slots__ = ("_ends", "_starts", "_values")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[V] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        return iter(list(zip(self._starts, self._ends, self._values, strict=True)))

    def copy(self) -> Intervals[V]:
        """An independent map with the same stretches."""
        other: Intervals[V] = Intervals()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        other._values = self._values.copy()
        return other

    def find(self, address: int) -> tuple[int, int, V] | None:
        """The stretch that holds the address."""
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._ends[i]:
            return None
        return self._starts[i], self._ends[i], self._values[i]

    def __contains__(self, address: int) -> bool:
        i = bisect_right(self._starts, address) - 1
        return i >= 0 and address < self._ends[i]

    def overlapping(self, start: int, end: int) -> list[tuple[int, int, V]]:
        """The stretches that meet [start, end), cut to it."""
        i = max(0, bisect_right(self._starts, start) - 1)
        out = []
        while i < len(self._starts) and self._starts[i] < end:
            low, high = max(start, self._starts[i]), min(end, self._ends[i])
            if low < high:
                out.append((low, high, self._values[i]))
            i += 1
        return out

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that no stretch holds."""
        out = []
        for low, high, _ in self.overlapping(start, end):
            if start < low:
                out.append((start, low))
            start = high
        if start < end:
            out.append((start, end))
        return out

    def clear(self, start: int, end: int) -> None:
        """Removes [start, end)."""
        if start >= end:
            return
        i = bisect_right(self._starts, start) - 1
        if i < 0 or self._ends[i] <= start:
            i += 1
        j = bisect_left(self._starts, end, lo=i)
        if i >= j:
            return
        keep: list[tuple[int, int, V]] = []
        if self._starts[i] < start:
            keep.append((self._starts[i], start, self._values[i]))
        if self._ends[j - 1] > end:
            keep.append((end, self._ends[j - 1], self._values[j - 1]))
        self._starts[i:j] = [k[0] for k in keep]
        self._ends[i:j] = [k[1] for k in keep]
        self._values[i:j] = [k[2] for k in keep]

    def set(self, start: int, end: int, value: V) -> None:
        """Gives all of [start, end) this value."""
        if start >= end:
            return
        self.clear(start, end)
        i = bisect_left(self._starts, start)
        if i < len(self._starts) and self._starts[i] == end and self._values[i] == value:
            self._starts[i] = start
        else:
            self._starts.insert(i, start)
            self._ends.insert(i, end)
            self._values.insert(i, value)
        if i and self._ends[i - 1] == start and self._values[i - 1] == value:
            self._ends[i - 1] = self._ends[i]
            del self._starts[i], self._ends[i], self._values[i]

    def update(self, start: int, end: int, change: Callable[[V], V]) -> None:
        """Changes the values within [start, end), leaving gaps alone."""
        for low, high, value in self.overlapping(start, end):
            self.set(low, high, change(value))
