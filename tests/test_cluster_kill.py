"""Whatever dies and whenever: the run ends, says what died, and leaves nothing behind."""

import json
import os
import signal
import time

import numpy as np
import pytest
from stress.kill_storm import Run, strike

from shmm.cluster import fate, launch, sizing
from shmm.cluster.config import Config
from shmm.cluster.crew import ClusterError
from shmm.cluster.launch import Cluster
from shmm.layout import CONSTANTS
from shmm.program import OP
from shmm.segment import Geometry, Segment

LONG = ("--seconds", "30", "--repeats", "1", "--size", "2M")


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_at_a_random_moment_ends_the_run(seed):
    strike(seed, "worker")


@pytest.mark.parametrize("seed", range(3))
def test_a_launcher_killed_at_a_random_moment_takes_its_workers_along(seed):
    strike(100 + seed, "launcher")


def test_a_killed_launcher_takes_forkserver_workers_along():
    with Run("--cpus", "2", "--scheme", "spf", "--start-method", "forkserver", *LONG) as run:
        run.wait_for_workers(3)
        run.process.kill()
        assert run.end() == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_prints_and_saves_what_it_measured(number, tmp_path):
    saved = tmp_path / "result.json"
    with Run("--cpus", "2", "--scheme", "spf", "--json", str(saved), *LONG) as run:
        run.wait_for_workers(2)
        time.sleep(1.0)
        run.process.send_signal(number)
        assert run.end() == 130, run.text()
        assert "interrupted" in run.text()
    document = json.loads(saved.read_text())
    assert document["interrupted"] and document["schema"] == "shmm.run/1"
    (entry,) = document["runs"]
    assert entry["interrupted"] and entry["ops"] > 0 and 0 < entry["seconds"] < 30


def test_a_death_is_in_the_document(tmp_path):
    saved = tmp_path / "result.json"
    with Run("--cpus", "2", "--scheme", "mmap_lock", "--json", str(saved), *LONG) as run:
        worker = run.wait_for_workers(2)[1]
        time.sleep(0.5)
        os.kill(worker, signal.SIGKILL)
        assert run.end() == 1
    document = json.loads(saved.read_text())
    assert document["runs"] == [] and f"CPU 1 (process {worker}) was killed by SIGKILL" in document["error"]


def test_ctrl_c_for_the_whole_process_group_is_no_death():
    with Run("--cpus", "3", "--scheme", "mmap_lock", *LONG) as run:
        run.wait_for_workers(3)
        time.sleep(0.5)
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 130, run.text()
        assert "was killed" not in run.text()


def test_a_worker_that_does_not_stop_is_named(monkeypatch):
    monkeypatch.setattr(launch, "STOP_SECONDS", 1.0)
    config = Config(cpus=2, seconds=0.3, size=2 << 20)
    with Cluster(config, sizing.job_for(config)) as cluster:
        worker = cluster.workers[1].pid
        cluster.progress = lambda *_: os.kill(worker, signal.SIGSTOP)
        with pytest.raises(ClusterError, match=rf"CPU 1 \(process {worker}, stopped\) did not stop within 1 s"):
            cluster.run(0.3)


# ---- what is said about a dead CPU -------------------------------------------------------------------------


@pytest.fixture
def machine():
    with Segment.create(Geometry.for_run(cpus=4, pages=64)) as segment:
        yield segment


def test_a_dead_writer_is_named_as_owner_of_the_lock(machine):
    cpu, lock = machine.view("cpu"), machine.view("mm")["mmap_lock"]
    cpu["doing"][3], cpu["doing_addr"][3] = OP["MUNMAP"], 0x7F0000000000
    cpu["state"][3] = CONSTANTS["KERNEL"] | CONSTANTS["IRQ_OFF"]
    lock["count"][1], lock["owner"][1] = 1, 4
    text = fate.death(machine, 3, 4711, -signal.SIGSEGV)
    assert text == ("CPU 3 (process 4711) was killed by SIGSEGV while in MUNMAP at 0x7f0000000000, "
                    "in the kernel, interrupts off, owner of the mmap_lock of address space 1, for writing")
    assert "owner" not in fate.doing(machine, 2)
    assert fate.lock_state(machine, 1) == "mmap_lock 1: held for writing by CPU 3"
    del cpu, lock


def test_a_dead_owner_of_spinlocks_is_named(machine):
    cpu, head, mm, frame = (machine.view(name) for name in ("cpu", "seg", "mm", "frame"))
    cpu["doing"][1], cpu["doing"][2] = OP["TOUCH"], OP["TOUCH"]
    frame["ptl"]["owner"][7], mm["mmap_lock"]["wait_lock"]["owner"][1] = 2, 2
    head["vma_pool"]["lock"]["owner"], head["vma_pool"]["lock"]["tail"] = 2, 3
    assert fate.doing(machine, 1).endswith(
        "owner of the spinlock seg.vma_pool.lock, the spinlock mm[1].mmap_lock.wait_lock, the spinlock frame[7].ptl")
    assert "owner" not in fate.doing(machine, 2)        # it only stands in line
    del cpu, head, mm, frame


def test_other_fates_have_words(machine):
    cpu = machine.view("cpu")
    cpu["doing"][1], cpu["state"][1] = OP["TOUCH"], CONSTANTS["KERNEL"] | CONSTANTS["ASLEEP"]
    assert fate.doing(machine, 1) == "in TOUCH at 0x0, in the kernel, asleep"
    assert fate.doing(machine, 0).startswith("between operations, in user mode")
    assert "exited with status 3" in fate.death(machine, 0, 1, 3)
    assert "want of memory" in fate.cause(-signal.SIGKILL)
    assert "signal 99" in fate.cause(-99)
    machine.view("mm")["mmap_lock"]["count"][1] = np.uint64(3 << 8)
    assert fate.lock_state(machine, 1) == "mmap_lock 1: 3 readers"
    del cpu


