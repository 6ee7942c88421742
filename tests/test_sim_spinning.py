"""CPUs that spin on the sim engine are parked; whatever they wait for wakes them."""

from itertools import product

import pytest

from shmm.cluster import simulate
from shmm.cluster.config import Config


@pytest.mark.parametrize("cpus", [8, 24])
@pytest.mark.parametrize("scheme", ["mmap_lock", "spf"])
def test_nobody_spins_on_words_that_have_changed(scheme, cpus, monkeypatch):
    """A shootdown's sender looks at several words of a target, two of them in one line.  If the line goes and comes
    back between these looks, it must look again before it is parked: else it waits for a change that has been."""
    monkeypatch.setattr(simulate, "MOST_SECONDS", 0.05)             # virtual: what goes on takes a tenth of that
    for deliver, seed in product((200.0, 900.0, 3000.0), range(1, 7)):
        run = simulate.run_point(Config(
            engine="sim", machine="skylake-2x28", scheme=scheme, workload="tlb_flush2", cpus=cpus, size=256 << 10,
            seed=seed, seconds=0.002, figures=(("ipi.deliver", deliver),)))
        assert run["shootdown"]["count"] and not run["violations"], (deliver, seed)
