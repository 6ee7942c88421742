"""Objects that wait for a grace period are not lost to who needs them now (mm/call_rcu.pxd)."""

from dataclasses import replace

from shmm import _fast
from shmm.segment import Geometry, Segment

FIXED = 0x32            # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
BASE = 0x10000000


def test_deferred_vmas_come_back_when_the_pool_is_empty():
    with Segment.create(replace(Geometry.for_run(2, 256), nvma=300), scheme="spf") as segment:
        cpu, other = _fast.Cpu(segment.address, 0), _fast.Cpu(segment.address, 1)
        cpu.exec(1)
        other.attach(1)                 # two users: VMAs are freed by RCU
        mapped = 0
        while cpu.mmap(BASE + mapped * 8192, 4096, 3, FIXED) > 0:
            mapped += 1
        assert mapped == 299            # all slots but the unused first
        assert cpu.munmap(BASE, mapped * 8192) == 0
        assert cpu.mmap(BASE, 4096, 3, FIXED) == BASE
        other.exit()
        cpu.exit()
        _fast.settle(segment.address)
        assert _fast.frames_in_use(segment.address) == 0
