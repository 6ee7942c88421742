"""The segment: made without a trace in /dev/shm, refused in one line when it is not what it should be."""

import errno
import gc
import os
import random
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from shmm import _fast, segment
from shmm.layout import ABI, CONSTANTS, DTYPES
from shmm.policy import resolve_policy
from shmm.segment import Geometry, Segment, SegmentError, clean, leftovers, object_name

SMALL = Geometry.for_run(cpus=2, pages=64)
HEADER = DTYPES["seg_t"]


@pytest.fixture
def small():
    with Segment.create(SMALL) as made:
        yield made


@pytest.fixture
def copy(small, tmp_path):
    """A whole segment as an ordinary file, to damage."""
    path = tmp_path / "segment"
    path.write_bytes(os.pread(small.fd, small.size, 0))
    return path


def patch(path: Path, field: str, value: int) -> None:
    """Writes one field of a header."""
    dtype, offset = HEADER.fields[field][:2]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.array(value, dtype).tobytes())


def refused(target) -> str:
    """The one line that attach refuses target with."""
    with pytest.raises(SegmentError) as caught:
        Segment.attach(target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- geometry and policies ---------------------------------------------------------------------------------


def test_geometry_has_room_for_what_the_machine_holds():
    geometry = Geometry.for_run(cpus=8, pages=100_000, files=3, file_pages=50, insns=7)
    assert geometry.ncpu == 8
    assert geometry.nframe >= 100_000 + 50 + 8 * (378 + 63 + 15) + 2 * (100_000 // 512)
    assert geometry.nfile == 4
    assert geometry.ncache >= 51
    assert geometry.ninsn == 7
    assert geometry.size >= _fast.segment_size(asdict(geometry))
    assert geometry.size % os.sysconf("SC_PAGE_SIZE") == 0


@pytest.mark.parametrize("change", [{"cpus": 0}, {"cpus": 1025}, {"mms": 64}, {"pages": 2**32},
                                    {"vmas": -5000}])
def test_geometry_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match=r"geometry: n\w+ is -?\d+, must be in"):
        Geometry.for_run(**({"cpus": 2, "pages": 64} | change))


def test_policies_by_name_by_number_and_by_field():
    assert resolve_policy(scheme="spf", walk="rcu", table_free="rcu", ipi="signal", paranoid=True) == {
        "scheme": 1, "walk_policy": 1, "table_free_policy": 1, "ipi_policy": 1, "paranoid": 1
    }
    assert resolve_policy(scheme=0, walk_policy=0, fault_around=1) == {
        "scheme": 0, "walk_policy": 0, "fault_around": 1
    }


@pytest.mark.parametrize("policy, message", [
    ({"scheme": "per_vma"}, r"scheme 'per_vma' does not exist, choose from mmap_lock, spf"),
    ({"ipi": 2}, r"ipi 2 does not exist, choose from mailbox, signal"),
    ({"colour": 1}, r"there is no policy 'colour', choose from scheme, walk, table_free, ipi"),
    ({"paranoid": "yes"}, r"paranoid 'yes' is not a number"),
    ({"fault_around": -1}, r"fault_around -1 is not a number"),
    ({"walk": "rcu", "table_free": "ipi"}, r"walk rcu needs table_free rcu: .* interrupt"),
    ({"walk": "rcu"}, r"walk rcu needs table_free rcu"),
])
def test_policies_that_cannot_be_are_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        resolve_policy(**policy)


# ---- creation ----------------------------------------------------------------------------------------------


def test_a_new_segment_says_what_it_is(small):
    head = small.view("seg")
    assert int(head["magic"]) == CONSTANTS["MAGIC"]
    assert int(head["abi"]) == ABI
    assert {name: int(head[name]) for name in asdict(SMALL)} == asdict(SMALL)
    assert int(head["creator_pid"]) == os.getpid()
    assert int(head["creator_start"]) == segment.process_start(os.getpid())
    assert int(head["size"]) <= small.size == SMALL.size == os.fstat(small.fd).st_size


def test_policies_reach_the_header():
    policy = {"scheme": "spf", "walk": "rcu", "table_free": "rcu", "paranoid": 1, "fault_around": 4}
    with Segment.create(SMALL, **policy) as made:
        head = made.view("seg")
        assert [int(head[name]) for name in ("scheme", "walk_policy", "table_free_policy", "ipi_policy",
                                             "paranoid", "fault_around")] == [1, 1, 1, 0, 1, 4]
        del head


def test_nodes_reach_the_header(small):
    assert small.view("seg")["nnode"] == 1 and not small.view("seg")["cpu_node"].any()
    with Segment.create(SMALL, nnode=8, cpu_node=[7, 2]) as made:
        assert made.view("seg")["nnode"] == 8
        assert made.view("seg")["cpu_node"][:3].tolist() == [7, 2, 0]


@pytest.mark.parametrize("nodes, message", [
    ({"nnode": 0}, r"nnode is 0, must be in 1\.\.8"),
    ({"nnode": 9}, r"nnode is 9, must be in 1\.\.8"),
    ({"nnode": 2, "cpu_node": [0]}, r"cpu_node has 1 nodes, must have one for each of 2 CPUs"),
    ({"cpu_node": [0, 1]}, r"cpu_node names node 1, must name nodes of 0\.\.0: there are 1"),
    ({"nnode": 2, "cpu_node": [0, -1]}, r"cpu_node names node -1, must name nodes of 0\.\.1: there are 2"),
])
def test_nodes_that_cannot_be_are_refused(nodes, message):
    with pytest.raises(ValueError, match=message):
        Segment.create(SMALL, **nodes)


def test_only_the_owner_may_open_it_whatever_the_umask():
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            with Segment.create(SMALL) as made:
                assert stat.S_IMODE(os.fstat(made.fd).st_mode) == 0o600
        finally:
            os.umask(before)


def test_it_has_no_name_and_all_its_pages(small):
    status = os.fstat(small.fd)
    assert status.st_nlink == 0
    assert status.st_blocks * 512 >= small.size


def test_descriptors_are_given_back():
    gc.collect()                            # what other tests have left
    before = len(os.listdir("/proc/self/fd"))
    Segment.create(SMALL).close()
    abandoned = Segment.create(SMALL)
    assert len(os.listdir("/proc/self/fd")) == before + 1 + 1       # mmap keeps one of its own
    del abandoned
    gc.collect()
    with pytest.raises(SegmentError):
        Segment.attach("/dev/null")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_segment_larger_than_dev_shm_is_refused_with_both_sizes():
    room = os.statvfs("/dev/shm")
    free = room.f_bavail * room.f_frsize
    message = r"needs \d+\.\d MiB, /dev/shm has \d+\.\d MiB free: run with"
    with pytest.raises(SegmentError, match=message) as caught:
        Segment.create(Geometry.for_run(cpus=1, pages=free // 4096 + 1))
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)


def test_space_that_vanishes_after_the_check_is_the_same_error(monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SegmentError, match=r"needs .* MiB, /dev/shm has .* MiB free"):
        Segment.create(SMALL)
    assert os.listdir("/proc/self/fd") == before


def test_a_missing_dev_shm_is_named(monkeypatch):
    monkeypatch.setattr(segment, "SHM_DIR", Path("/nonexistent/shm"))
    with pytest.raises(SegmentError, match="there is no /nonexistent/shm: mount a tmpfs there"):
        Segment.create(SMALL)


# ---- views -------------------------------------------------------------------------------------------------


def test_views_are_the_segment_itself(small):
    counts = {"cpu": 2, "mm": SMALL.nmm, "vma": SMALL.nvma, "anon": SMALL.nanon, "file": SMALL.nfile,
              "cache": SMALL.ncache, "frame": SMALL.nframe, "insn": SMALL.ninsn, "result": SMALL.ninsn}
    assert {name: len(small.view(name)) for name in counts} == counts
    assert small.view("memory").shape == (SMALL.nframe, 4096)
    small.view("memory")[5, 0] = 77
    offset = int(small.view("seg")["memory_off"]) + 5 * 4096
    assert os.pread(small.fd, 1, offset) == b"M"
    small.view("seg")["stop"] = 1
    assert int(small.view("seg")["stop"]) == 1
    small.view("result")[1] = -14
    assert small.view("result")[1] == -14


def test_a_view_that_does_not_exist(small):
    with pytest.raises(ValueError, match="a segment has no 'cpus', choose from seg, cpu, mm"):
        small.view("cpus")


def test_closing_waits_for_views_and_then_works():
    made = Segment.create(SMALL)
    frames = made.view("frame")[3:]["refs"]
    with pytest.raises(SegmentError, match=r"views of the segment .*are alive: drop them, then close"):
        made.close()
    assert frames[0] == 0
    del frames
    made.close()
    made.close()
    for use in (lambda: made.address, lambda: made.view("cpu")):
        with pytest.raises(SegmentError, match="the segment is closed"):
            use()


def test_an_error_in_the_block_is_not_hidden_by_views_that_it_keeps_alive():
    with pytest.raises(ZeroDivisionError), Segment.create(SMALL) as made:
        held = made.view("cpu")
        assert len(held) / 0


# ---- attaching ---------------------------------------------------------------------------------------------


def test_attaching_by_path_and_by_descriptor_shares_the_memory(small):
    for target in (small.path, Path(small.path), small.fd):
        with Segment.attach(target) as other:
            assert other.address != small.address
            other.view("memory")[7, 1] += 1
    assert small.view("memory")[7, 1] == 3


def test_another_process_attaches(small):
    code = ("import sys; from shmm.segment import Segment\n"
            "with Segment.attach(sys.argv[1]) as s: s.view('memory')[9, 0] = s.view('seg')['ncpu']")
    subprocess.run([sys.executable, "-c", code, small.path], check=True)
    assert small.view("memory")[9, 0] == 2


def test_a_copy_in_a_file_is_recognised(copy):
    with Segment.attach(copy) as other:
        assert int(other.view("seg")["ncpu"]) == 2


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "foreign"
    path.write_bytes(random.Random(1).randbytes(5000))
    found = int.from_bytes(path.read_bytes()[:8], "little")
    assert refused(path) == (
        f"{path} is not a shmm segment: magic found {found:#x}, expected {CONSTANTS['MAGIC']:#x}"
    )


@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_file_too_short_for_a_header_is_refused(tmp_path, content):
    path = tmp_path / "short"
    path.write_bytes(content)
    assert "is not a shmm segment: magic found" in refused(path)


def test_what_is_no_file_is_refused(tmp_path):
    assert "is not a shmm segment: it is not a regular file" in refused("/dev/null")
    assert refused(tmp_path / "none") == f"cannot open segment {tmp_path / 'none'}: No such file or directory"
    assert "cannot open segment 12345: Bad file descriptor" in refused(12345)


def test_a_truncated_segment_is_refused(copy):
    size = copy.stat().st_size
    os.truncate(copy, size - 65536)
    assert refused(copy) == f"{copy} is truncated: found {size - 65536} bytes, expected {size}"


def test_a_segment_cut_within_its_header_is_refused(copy):
    os.truncate(copy, 64)
    assert "is truncated: found 64 bytes, expected" in refused(copy)
    os.truncate(copy, 16)
    assert "is truncated: found 16 bytes, expected" in refused(copy)


def test_another_version_is_refused(copy):
    patch(copy, "version", 99)
    version = CONSTANTS["VERSION"]
    assert refused(copy) == (
        f"{copy} was made by another version of shmm: layout version found 99, expected {version}"
    )


def test_another_abi_is_refused(copy):
    patch(copy, "abi", 0x1234)
    assert refused(copy) == (
        f"{copy} was made by another build of shmm: ABI found 0x0000000000001234, expected {ABI:#018x}"
    )


def test_a_damaged_header_is_refused(copy):
    patch(copy, "nframe", 7)
    assert "has a damaged header: size found" in refused(copy)


def test_another_users_segment_is_refused(copy, monkeypatch):
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert refused(copy) == f"{copy} belongs to another user: found uid {me}, expected {me + 1}"


# ---- leftovers ---------------------------------------------------------------------------------------------


@pytest.fixture
def dead_pid() -> int:
    """The number of a process that has just ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes names in a directory that stands for /dev/shm; returns a function."""
    monkeypatch.setattr(segment, "SHM_DIR", tmp_path)

    def make(name: str) -> Path:
        (tmp_path / name).touch()
        return tmp_path / name

    return make


def test_only_the_dead_are_cleaned(place, dead_pid):
    uid, pid, start = os.geteuid(), os.getpid(), segment.process_start(os.getpid())
    dead = [
        place(f"sem.shmm-{uid}-{dead_pid}-77-abc"),
        place(f"shmm-{uid}-{dead_pid}-77-abc"),
        place(f"shmm-{uid}-{dead_pid}-abc"),
        place(f"shmm-{uid}-{pid}-{start + 1}-abc"),        # the number was given to another process since
    ]
    alive = [
        place(object_name()[1:]),
        place("sem." + object_name()[1:]),
        place(f"shmm-{uid}-{pid}-abc"),
        place(f"shmm-{uid + 1}-{dead_pid}-77-abc"),        # another user's
        place(f"shmm-{uid}-{dead_pid}"),
        place(f"other-{uid}-{dead_pid}-77-abc"),
    ]
    assert sorted(leftovers()) == sorted(dead)
    assert sorted(clean()) == sorted(dead)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in alive)
    assert clean() == []


def test_a_real_leftover_of_a_killed_process_is_found_and_removed():
    code = ("import os, signal, posix_ipc; from shmm.segment import object_name\n"
            "posix_ipc.SharedMemory(object_name(), posix_ipc.O_CREX)\n"
            "posix_ipc.Semaphore(object_name(), posix_ipc.O_CREX)\n"
            "os.kill(os.getpid(), signal.SIGKILL)")
    process = subprocess.Popen([sys.executable, "-c", code])
    process.wait()
    mine = f"shmm-{os.geteuid()}-{process.pid}-"
    assert sorted(path.name.partition(mine)[0] for path in leftovers() if mine in path.name) == ["", "sem."]
    assert len([path for path in clean() if mine in path.name]) == 2
    assert not [path for path in leftovers() if mine in path.name]


def test_a_zombie_counts_as_dead():
    process = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert segment.process_start(process.pid) is None
    finally:
        process.wait()


def test_a_process_killed_while_it_uses_a_segment_leaves_nothing():
    code = ("import os, signal; from shmm.segment import Geometry, Segment\n"
            "s = Segment.create(Geometry.for_run(cpus=1, pages=16))\n"
            "os.kill(os.getpid(), signal.SIGKILL)")
    process = subprocess.Popen([sys.executable, "-c", code])
    assert process.wait() < 0
    assert not [path for path in leftovers() if f"-{process.pid}-" in path.name]
