"""Processes that change, touch and share the same few megabytes at random; then every invariant is checked.

Unlike test_stress_runs.py this goes without the cluster: forked processes, the native engine, and address spaces that
are forked and left in the middle of it."""

import os
import random
import time

import pytest
from rooms.crew import counter, crew, machine

from shmm import _fast
from shmm.layout import COUNTERS
from shmm.program import Program

PAGE, RW, READ, NONE, ANON_FIXED, SHARED_FIXED, DONTNEED = 4096, 3, 1, 0, 0x32, 0x31, 4
ARENA = 0x2000_0000_0000 - (1 << 20)    # across a border of page tables
PLACES, STEP = 48, 16                   # where operations begin, and how many pages apart
GROWSDOWN, NORESERVE, POPULATE = 0x100, 0x4000, 0x8000
HINTS = (0, 1, 2, 14, 8, 10, 11, 18, 19, 22, 23)    # FREE, DONTFORK, WIPEONFORK, POPULATE_READ and _WRITE among them
SECONDS = 1.0
HOLDS = 1000                            # how often a lock is held until somebody waits for it

pytest_plugins = ("engines",)

POLICIES = {
    "mmap_lock": {"scheme": "mmap_lock"},
    "spf, walk irq, tables ipi": {"scheme": "spf"},
    "spf, walk rcu, tables rcu": {"scheme": "spf", "walk": "rcu", "table_free": "rcu"},
    "spf, signals": {"scheme": "spf", "ipi": "signal"},
    "spf, two nodes": {"scheme": "spf", "nnode": 2},
    "spf, secondary MMU": {"scheme": "spf", "mmu_notifier": 1},
    "mmap_lock, secondary MMU": {"scheme": "mmap_lock", "mmu_notifier": 1},
    "spf, PREEMPT_RT": {"scheme": "spf", "preempt_rt": 1, "mmu_notifier": 1},
    "spf, latched tree": {"scheme": "spf", "vma_tree": "latched", "vma_free": "rcu"},
    "spf, stacks grow": {"scheme": "spf", "stack_growth": 1},
    "mmap_lock, stacks grow": {"scheme": "mmap_lock", "stack_growth": 1},
}


def one(p: Program, dice: random.Random) -> None:
    """One operation somewhere."""
    addr, pages = ARENA + dice.randrange(PLACES) * STEP * PAGE, dice.randint(1, 3 * STEP)
    kinds = {"map": 5, "unmap": 3, "protect": 2, "drop": 2, "hint": 1, "write": 9, "read": 4, "probe": 3,
             "guest": 4, "client": 1}
    kind = dice.choices(tuple(kinds), tuple(kinds.values()))[0]
    if kind == "map":
        flags = dice.choice((0, 0, 0, GROWSDOWN, POPULATE, NORESERVE))
        p.mmap(addr, pages * PAGE, dice.choice((RW, RW, RW, READ)), ANON_FIXED | flags, may_fail=True)
    elif kind == "unmap":
        p.munmap(addr, pages * PAGE, may_fail=True)
    elif kind == "protect":
        p.mprotect(addr, pages * PAGE, dice.choice((RW, RW, READ, NONE)), may_fail=True)
    elif kind in ("drop", "hint"):
        p.madvise(addr, pages * PAGE, DONTNEED if kind == "drop" else dice.choice(HINTS), may_fail=True)
    elif kind == "probe":
        p.probe(addr)
    elif kind == "guest":               # fails where there is no secondary MMU
        p.secondary(addr + PAGE * dice.randrange(pages), dice.choice((None, 7)), may_fail=True)
    elif kind == "client":
        p.notifier(dice.random() < 0.7, may_fail=True)
    else:
        p.touch(addr, pages, write=kind == "write", value=dice.randrange(256), may_fail=True)


def chaos(seed: int, child: int = 0) -> Program:
    """Random operations until the run is stopped; child: the slot of copies of the address space to make, to run
    for a while and to leave."""
    dice, p = random.Random(seed), Program()
    with p.forever():
        for _ in range(12):
            for _ in range(12):
                one(p, dice)
            if child:
                p.fork(child)
                one(p, dice)            # races with what the fork has made copy-on-write
                p.mm(child)
                for _ in range(6):
                    one(p, dice)
                p.mm(1)                 # the last one out of the copy
    return p


def work(segment, number: int, cpus: int) -> int:
    """CPU `number`: runs its program to its end, and stays in its address space."""
    cpu = _fast.Cpu(segment.address, number)
    cpu.online(os.getpid())
    if number:
        cpu.attach(1)
    mms = segment.view("cpu")["mm"][:cpus]
    while not mms.all():                # all of them run it
        time.sleep(0.001)
    del mms
    return cpu.run()


def stop(segment) -> None:
    time.sleep(SECONDS)
    segment.view("seg")["stop"] = 1


def load(segment, programs: list[Program]) -> None:
    """Writes the CPUs' programs, and makes the address space that they run."""
    at, insn, cpu = 0, segment.view("insn"), segment.view("cpu")
    for number, program in enumerate(programs):
        records = program.array()
        insn[at : at + len(records)] = records
        cpu["program_first"][number], cpu["program_len"][number] = at, len(records)
        cpu["rng"][number] = number + 1
        at += len(records)
    assert _fast.Cpu(segment.address, 0).exec(1) == 0


def storm(segment, programs: list[Program]) -> list[int]:
    """Runs the programs, each in a process, for a second; how each ended."""
    load(segment, programs)
    cpus = len(programs)
    return crew(lambda: stop(segment), *(lambda n=n: work(segment, n, cpus) for n in range(cpus)))[1:]


def finish(segment, cpus: int) -> None:
    """What must hold afterwards: nothing broken, nothing unexpected, nothing lost."""
    segment.view("cpu")["host_pid"] = 0                 # those processes are gone: no signals to them
    executors = [_fast.Cpu(segment.address, number) for number in range(cpus)]
    for executor in executors:
        executor.rcu_drain()
    assert _fast.check(segment.address) == []
    assert counter(segment, "violations") == counter(segment, "unexpected") == 0
    for executor in executors:
        executor.exit()
    for mm in segment.view("mm")["in_use"].nonzero()[0]:        # copies that nobody came to run
        executors[0].attach(int(mm))
        executors[0].exit()
    _fast.settle(segment.address)
    assert _fast.frames_in_use(segment.address) == 0
    assert _fast.check(segment.address) == []
    seg = segment.view("seg")
    assert seg["vma_pool"]["free"] == seg["nvma"] - 1
    assert seg["anon_pool"]["free"] == seg["nanon"] - 1
    assert not segment.view("frame")["on_lru"].any() and not seg["node"]["lru_pages"].any()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cpus, forks", [(4, False), (5, True)], ids=["threads", "threads and forks"])
def test_random_operations_of_many_processes(policy, cpus, forks):
    nnode = POLICIES[policy].get("nnode", 1)
    with machine(cpus=cpus, cpu_node=[cpu % nnode for cpu in range(cpus)], **POLICIES[policy]) as segment:
        programs = [chaos(100 * cpus + n, 1 + n if forks and n else 0) for n in range(cpus)]
        assert storm(segment, programs) == [1] * cpus           # stopped, none failed
        sums = {name: counter(segment, name) for name in COUNTERS}
        finish(segment, cpus)
    assert min(sums[name] for name in ("mmap", "munmap", "mprotect", "madvise", "user_faults")) > 0
    assert sums["nr_tlb_remote_flush_received"] > 0
    assert (sums["spf_success"] > 0) == (sums["probe_speculated"] > 0) == policy.startswith("spf")
    for name in ("secondary_fill", "mmu_notifier_register", "mmu_notifier_invalidate"):
        assert (sums[name] > 0) == ("mmu_notifier" in POLICIES[policy]), name
    assert sums["secondary_hit"] > 0 or forks or "mmu_notifier" not in POLICIES[policy]     # a copy has no client
    assert sums["probe_locked"] > 0 or policy.startswith("spf")     # with luck none had to
    assert (sums["fork"] > 0 and sums["pgcopy"] > 0) == forks
    assert sums["gup_faults"] > 0
    assert (sums["stack_growths"] > 0) == ("stack_growth" in POLICIES[policy])


def rebuild(seed: int) -> Program:
    """Maps, touches and unmaps the same 2 MiB until the run is stopped: each time page_table_lock is wanted."""
    p = Program()
    with p.forever():
        p.mmap(ARENA, STEP * PAGE, RW, ANON_FIXED, may_fail=True)
        p.touch(ARENA, STEP, value=seed, may_fail=True)
        p.munmap(ARENA, STEP * PAGE, may_fail=True)
    return p


def keep(rooms, segment, number: int) -> None:
    """CPU `number`: takes page_table_lock and keeps it until somebody stands in line, many times; then all may stop.

    In between it waits for the line to move: else it might overtake those who stand there."""
    cpu, tails = rooms.Cpu(segment.address, number), segment.view("mm")["page_table_lock"]["tail"]
    for _ in range(HOLDS):
        rooms.spin_step(cpu, "lock")
        while tails[1] == 0:
            time.sleep(0.0002)
        last = int(tails[1])
        rooms.spin_step(cpu, "unlock")
        while tails[1] == last:
            time.sleep(0.0002)
    segment.view("seg")["stop"] = 1


@pytest.mark.parametrize("policy", ["mmap_lock", "spf, signals"])
@pytest.mark.parametrize(("cpus", "shared_core"), [(2, 0), (8, 1)])
@pytest.mark.parametrize("queued", [1, 2])
def test_who_must_wait_for_a_spinlock_stands_in_line(rooms, policy, cpus, shared_core, queued):
    """With eight on few cores the line often leads to one that is not running: slow, perhaps, but it ends."""
    with machine(cpus=cpus + 1, queued_spinlocks=queued, **POLICIES[policy], shared_core=shared_core) as segment:
        load(segment, [rebuild(n) for n in range(cpus)])
        ends = crew(lambda: keep(rooms, segment, cpus), *(lambda n=n: work(segment, n, cpus) for n in range(cpus)))
        assert ends[1:] == [1] * cpus
        waits, faults = counter(segment, "spinlock_queued"), counter(segment, "user_faults")
        finish(segment, cpus)
    assert waits >= HOLDS and faults > 0
