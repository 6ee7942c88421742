"""The map from stretches of addresses to values, against a dictionary of single addresses."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shmm.cluster.replay.intervals import Intervals

STEP = st.tuples(st.sampled_from(("set", "clear", "update")), st.integers(0, 40), st.integers(0, 15), st.integers(0, 2))


@given(st.lists(STEP, max_size=40))
def test_behaves_like_a_dictionary(steps):
    map_, model = Intervals(), {}
    for what, start, length, value in steps:
        end = start + length
        before = map_.copy()
        if what == "set":
            map_.set(start, end, value)
            model |= dict.fromkeys(range(start, end), value)
        elif what == "clear":
            map_.clear(start, end)
            model = {at: v for at, v in model.items() if not start <= at < end}
        else:
            map_.update(start, end, lambda v: (v + 1) % 3)
            model = {at: (v + 1) % 3 if start <= at < end else v for at, v in model.items()}
        stretches = list(map_)
        assert {at: v for low, high, v in stretches for at in range(low, high)} == model
        assert all(low < high for low, high, _ in stretches)
        assert all(a[1] < b[0] or (a[1] == b[0] and a[2] != b[2]) for a, b in pairwise(stretches))
        assert [at for low, high in map_.gaps(start, end) for at in range(low, high)] == [
            at for at in range(start, end) if at not in model]
        assert {at for low, high, _ in map_.overlapping(start, end) for at in range(low, high)} == {
            at for at in range(start, end) if at in model}
        for at in (start, end):
            found = map_.find(at)
            assert (at in map_) == (at in model) == (found is not None)
            assert found is None or (found[0] <= at < found[1] and found[2] == model[at])
        assert list(before) != [] or before.find(start) is None
