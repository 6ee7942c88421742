"""The native build against hand-written C: the same fault, on the same segment, in turns.

The ratio of the two is what the door and Cython cost.  Both leave a segment on which every invariant holds."""

import ctypes
import pathlib
import shutil
import statistics
import subprocess
import time

import pytest

import shmm
from shmm import _fast
from shmm.segment import Geometry, Segment

PAGES = 256
ROUNDS = 200
HERE = pathlib.Path(__file__).parent
HEADERS = pathlib.Path(shmm.__file__).parent


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    library = tmp_path_factory.mktemp("twin") / "twin.so"
    subprocess.run([compiler, "-std=gnu11", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-D_GNU_SOURCE",
                    f"-I{HEADERS}", f"-I{HEADERS / 'arch'}", "-o", library, HERE / "twin.c"], check=True)
    touch = ctypes.CDLL(str(library)).twin_touch
    touch.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64]
    touch.restype = ctypes.c_uint64
    return touch


@pytest.fixture
def region():
    """A segment, its CPU, and a mapping whose tables and anon_vma exist: nothing left to abort a speculation."""
    with Segment.create(Geometry.for_run(1, 4 * PAGES), scheme=1, force_speculation=1, zeroing=0) as segment:
        cpu = _fast.Cpu(segment.address, 0)
        cpu.exec(1)
        addr = cpu.mmap(0, PAGES * 4096, 3, 0x22)
        cpu.touch(addr, PAGES * 4096)
        cpu.madvise(addr, PAGES * 4096, 4)
        yield segment, cpu, addr
        cpu.exit()


def fault_ns(touch, cpu, addr):
    """Nanoseconds per fault of one round; the pages are dropped again outside the measured time."""
    start = time.perf_counter_ns()
    touch()
    spent = time.perf_counter_ns() - start
    assert cpu.madvise(addr, PAGES * 4096, 4) == 0
    return spent / PAGES


@pytest.mark.benchmark(group="zero overhead: rooms against hand-written C")
def test_speculative_fault_against_twin(benchmark, twin, region):
    segment, cpu, addr = region
    ours, by_hand = [], []

    def rooms():
        assert cpu.touch(addr, PAGES * 4096) == PAGES

    def hand():
        assert twin(segment.address, 0, addr, PAGES) == 0

    def round_of_both():
        ours.append(fault_ns(rooms, cpu, addr))
        by_hand.append(fault_ns(hand, cpu, addr))

    benchmark.pedantic(round_of_both, rounds=ROUNDS, iterations=1, warmup_rounds=20)
    assert _fast.check(segment.address) == []
    benchmark.extra_info.update(rooms_ns=round(min(ours), 1), twin_ns=round(min(by_hand), 1),
                                ratio_of_minima=round(min(ours) / min(by_hand), 3),
                                ratio_of_medians=round(statistics.median(ours) / statistics.median(by_hand), 3))
    print(f"\nrooms {min(ours):.1f} ns, twin {min(by_hand):.1f} ns per fault (minima), ratio of medians "
          f"{statistics.median(ours) / statistics.median(by_hand):.3f}")
