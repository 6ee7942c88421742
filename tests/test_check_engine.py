"""The check engine itself: what it undoes, that it leaves nothing out, and that it needs no switch to notice."""

import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from source_rules import copy_source

from shmm import _check, _fast
from shmm.cluster.check.explore import Task, run
from shmm.cluster.check.scenario import Stage, load

SCENARIOS = ("fault_munmap", "shootdown_late", "two_faults")


@pytest.fixture(params=_check.MODELS)
def memory(request):
    return request.param


def contents(stage) -> np.ndarray:
    """The whole segment."""
    return np.frombuffer(bytes(stage.segment._map), np.uint8)


@pytest.mark.parametrize("strategy", ("dfs", "random", "pct"))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_run_is_undone_to_the_last_byte(scenario, strategy, memory):
    with Stage(load(scenario), "spf", "base", memory) as stage:
        before = contents(stage)
        stage.explorer.sequential()
        stage.explorer.begin(strategy, 2, 7)
        stage.explorer.run(3000)
        assert (contents(stage) != before).any()
        stage.explorer.begin(strategy)
        assert (contents(stage) == before).all()


@pytest.mark.parametrize("scheme", ("mmap_lock", "spf"))
def test_with_one_preemption_there_is_a_schedule_for_each_access_of_the_first(scheme):
    """The search goes on from checkpoints; here every schedule is run from its beginning, by its number."""
    with Stage(load("two_faults"), scheme, "base", "sc") as stage:
        explorer = stage.explorer
        explorer.sequential()
        explorer.begin("dfs", 1)
        schedules, steps, exhausted = explorer.run(10**6)
        assert exhausted
        by_hand = again = 0
        for first in (0, 1):
            start = [(1, 0, first, 1)] if first else []
            explorer.replay(start, 0)
            step = 1
            while True:                                 # the first CPU's accesses, until there are no more
                explorer.replay([*start, (first, step, 1 - first, 0)], 0)
                assert explorer.violation() is None
                if len(explorer.schedule()) < len(start) + 1:
                    break
                by_hand += 1
                step += 1
            again += 1
        assert schedules == by_hand + again
        assert steps > schedules


def test_the_same_search_twice_is_the_same():
    def figures(strategy, **more):
        result = run(Task("fault_mprotect", strategy=strategy, shrink=False, **more))
        return {key: value for key, value in result.items() if key != "seconds"}

    for strategy, more in (("dfs", {"bound": 1}), ("random", {"schedules": 500}), ("pct", {"schedules": 500})):
        assert figures(strategy, **more) == figures(strategy, **more)
    assert figures("random", schedules=500, seed=2) != figures("random", schedules=500, seed=3)


def test_one_explorer_at_a_time():
    with (Stage(load("two_faults"), "spf", "base", "sc") as stage,
          pytest.raises(RuntimeError, match="another Explorer is open")):
        _check.Explorer(stage.segment.address)
    with Stage(load("two_faults"), "spf", "base", "sc"):
        pass


def test_both_engines_have_one_layout():
    for question in ("layout_fields", "struct_sizes", "counter_names", "op_names", "constants"):
        assert getattr(_fast, question)() == getattr(_check, question)()


# ---- a protection taken away in the source ---------------------------------------------------------------------------

BY_HAND = """
import sys
from shmm.cluster.check.explore import Task, run
found = run(Task(sys.argv[1], bound=2))["violation"]
print(found["invariant"] if found else "nothing", found["source"] if found else "")
"""


def test_a_protection_taken_away_by_hand_is_noticed(tmp_path):
    """No switch: the line that checks mmap_seq under the lock is deleted, and the engine built from what is left."""
    copy = copy_source(tmp_path)
    walk = copy / "shmm/mm/walk.pxd"
    under_lock = re.compile(r"    if not nothing_changed\(c, vmf, SHMM_M_SEQ2\):\n(?:        .*\n)+")
    assert len(under_lock.findall(walk.read_text())) == 1
    walk.write_text(under_lock.sub("", walk.read_text()))
    (copy / "only_check.py").write_text(textwrap.dedent("""
        from Cython.Build import cythonize
        from setuptools import setup
        from build_engines import DIRECTIVES, engine
        setup(name="x", packages=[], ext_modules=cythonize([engine("shmm._check", "shmm/_check.pyx", "check.h")],
              compiler_directives=DIRECTIVES, emit_linenums=True))
    """))
    built = subprocess.run([sys.executable, "only_check.py", "build_ext", "-i"], cwd=copy, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert built.returncode == 0, built.stdout[-2000:]
    shutil.copy(_fast.__file__, copy / "shmm")
    (copy / "shmm/cluster").symlink_to(copy / "cluster")
    (copy / "shmm/scenarios").symlink_to(copy / "tests/scenarios")
    told = subprocess.run([sys.executable, "-c", BY_HAND, "fault_munmap"], cwd=copy, text=True, capture_output=True)
    assert told.returncode == 0, told.stderr[-2000:]
    assert told.stdout.split()[0] == "I2", told.stdout


def test_the_same_source_with_nothing_taken_away_is_fine():
    assert run(Task("fault_munmap", bound=2))["violation"] is None
