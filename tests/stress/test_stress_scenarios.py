"""The scenarios of the checker on real processes, many rounds: what the checker says holds on the host, too."""

import pytest

from shmm.cluster.check.scenario import ARENA, PAGE, VARIANTS, Scene, available, load
from shmm.cluster.config import SCHEMES, Config, Job
from shmm.cluster.launch import run_point
from shmm.program import MAY_FAIL, OP, Program

ROUNDS = 2000
COUNTER = 13                            # the register that counts them
PARENT = 1                              # the address space
POINTS = [(name, scheme, variant) for name in available() for scheme in SCHEMES for variant in load(name).variants]


def part(programs: dict[int, Program], cpu: int) -> Program:
    """What a CPU does, or nothing."""
    return programs.get(cpu, Program())


def children(scene: Scene) -> list[int]:
    """The address spaces that are forked; some may be gone in the end."""
    programs = [program.array() for program in (*scene.setup.values(), *scene.cpu.values())]
    return sorted({int(slot) for program in programs for slot in program[program["op"] == OP["FORK"]]["value"]})


def rounds(scene: Scene, cpu: int) -> Program:
    """A CPU's program, each round: the set-ups one after the other, all CPUs together, and everything is undone."""
    p = Program()
    with p.repeat(ROUNDS, COUNTER):
        for turn in range(scene.cpus):
            if turn == cpu:
                p.extend(part(scene.setup, cpu).array()[:-1])
            p.barrier()
        p.extend(part(scene.cpu, cpu).array()[:-1])
        p.barrier()
        if cpu == scene.cpus - 1:
            for child in children(scene):
                p.add("MM", value=child, opf=MAY_FAIL)      # who was its last thread frees it
        p.mm(PARENT)
        p.barrier()
        if cpu == 0:
            p.munmap(ARENA, 4 << 30)
            for file, (pages, _) in enumerate(scene.files, 1):
                p.truncate(file, pages * PAGE)          # as long as it was
        p.barrier()
    return p


class Policed(Config):
    """A machine with the policy of the scenario."""

    def segment_policy(self, shared_core: bool) -> dict[str, str | int | bool]:
        return super().segment_policy(shared_core) | load(self.workload).policy


@pytest.mark.parametrize(("name", "scheme", "variant"), POINTS)
def test_real_cpus_keep_the_invariants(name, scheme, variant):
    scene = load(name).scene()
    programs = [rounds(scene, cpu).array() for cpu in range(scene.cpus)]
    job = Job(name, programs, frames=256, files=list(scene.files), vmas=256, mms=3, regions=16, huge=scene.huge,
              finite=True, swap_pages=scene.swap_pages)
    run = run_point(Policed(scheme=scheme, workload=name, cpus=scene.cpus, paranoid=True, **VARIANTS[variant]), job)
    assert run["violations"] == 0, run["violation_messages"]
    assert run["frames_leaked"] == 0
    assert run["counters"]["syscalls"] >= ROUNDS
