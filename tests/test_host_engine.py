"""The host engine: each record does on this kernel what it says, and whatever a program does, nothing stays."""

import errno
import mmap
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shmm.host import EXECUTED, Host, HostError
from shmm.layout import CONSTANTS, OPS
from shmm.maps import Area
from shmm.program import MAY_FAIL, Program

PAGE = 4096
RW, RWX = 3, 7
ANON, SHARED, PRIVATE, FIXED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MAP_SHARED, mmap.MAP_PRIVATE, 0x10
DONTNEED, DONTFORK = 4, 10
EFAULT, SIGBUS = -errno.EFAULT, -CONSTANTS["SIGBUS"]
PLACE = 0x2000_0000_0000


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(cpus=4) as one:
        yield one
    assert one.process.returncode == 0


def descendants(pid: int) -> list[int]:
    """The processes whose parent this one is."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def one_area(pages: int = 4, prot: int = RW, flags: int = ANON, **fields: int) -> Program:
    """A program that begins with one mapping, at PLACE."""
    program = Program()
    program.mmap(PLACE, pages * PAGE, prot, flags | FIXED, expect=PLACE, **fields)
    return program


def added(host: Host, maps: list[Area]) -> list[tuple[int, int, str]]:
    """What a program has mapped beside what it began with, relative to PLACE."""
    began = set(host.maps())
    return [(area.start - PLACE, area.end - PLACE, area.perms) for area in maps if area not in began]


# ---- what a program begins with ------------------------------------------------------------------------------------

def test_a_program_begins_with_the_executor_and_nothing_else(host):
    start = host.start
    names = [Path(area.path.removesuffix(" (deleted)")).name.partition(".")[0] for area in start.maps]
    assert set(names) <= {"memfd:shmm-host", "_host", "", "[stack]", "[vsyscall]"}
    assert len(start.maps) == len(start.anon_vma) == len(start.flags) < 14
    image = [area for area, name in zip(start.maps, names, strict=True) if name in ("_host", "")]
    assert image[-1].end - image[0].start < 1 << 20          # nothing of Python's heap, with which its zeroes may merge
    by_name = dict(zip(names, zip(start.anon_vma, start.flags, strict=True), strict=True))
    assert by_name["[stack]"][0] and "gd" in by_name["[stack]"][1]
    assert not by_name["memfd:shmm-host"][0] and "sh" in by_name["memfd:shmm-host"][1]


def test_mmap_base_and_brk_are_where_the_kernel_puts_things(host):
    p = Program()
    at = p.mmap(0, PAGE, RW, ANON)
    brk = p.brk(0, dst=2)
    p.brk(2 * PAGE, base=2)
    outcome = host.execute(p)
    assert outcome.results[at] == host.start.mmap_base - PAGE
    stat = Path(f"/proc/{host.process.pid}/stat").read_text().rpartition(")")[2].split()
    assert outcome.results[brk] == host.start.start_brk == int(stat[44])
    heap = [area for area in outcome.maps if area.path == "[heap]"]
    first = -(-host.start.start_brk // PAGE) * PAGE
    assert [(area.start, area.end) for area in heap] == [(first, -(-(host.start.start_brk + 2 * PAGE) // PAGE) * PAGE)]


def test_a_run_leaves_the_next_one_the_same_address_space(host):
    end = host.execute(Program())
    p = one_area()
    p.store(PLACE, 3)
    host.execute(p)
    assert host.execute(Program()).maps == end.maps == host.maps()
    assert host.execute(Program()).spaces[1].residency == {}


# ---- accesses ------------------------------------------------------------------------------------------------------

def test_accesses_count_their_faults_and_find_what_was_stored(host):
    p = one_area()
    p.load(PLACE, dst=1)
    p.store(PLACE, 7)
    p.store(PLACE, 8)
    p.load(PLACE, dst=2, expect=8)
    p.touch(PLACE, 4)
    p.load(PLACE + 3 * PAGE, dst=3)
    outcome = host.execute(p)
    assert outcome.status == "done" and outcome.message == ""
    # the zero page; its copy; nothing; nothing; the other three; nothing
    assert outcome.results.tolist() == [PLACE, 1, 1, 0, 0, 3, 0, 0]
    assert outcome.faults.tolist() == [0, 1, 1, 0, 0, 3, 0, 0]
    assert outcome.registers[1:4] == (0, 8, 1)
    assert outcome.loaded.tolist() == [0, 0, 0, 0, 8, 0, 1, 0]


def test_an_access_that_a_process_would_die_of_is_a_result(host):
    p = one_area(prot=1)
    p.load(PLACE)
    p.store(PLACE, may_fail=True)
    p.load(PLACE + 4 * PAGE, may_fail=True)
    p.touch(PLACE + 2 * PAGE, 4, write=False, may_fail=True)
    p.load(1 << 63, may_fail=True)
    p.load(CONSTANTS["TASK_SIZE"], may_fail=True)
    p.load(0, may_fail=True)
    p.load(PLACE)
    assert host.execute(p).results.tolist() == [PLACE, 1, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, 0, 0]


def test_without_exactness_accesses_count_no_faults_unless_something_is_expected(host):
    p = one_area()
    p.store(PLACE)
    p.touch(PLACE, 4, expect=3)
    p.load(PLACE + PAGE, expect=1)
    assert host.execute(p, exact=False).results.tolist() == [PLACE, 0, 3, 0, 0]


def test_a_fetch_needs_an_executable_page_and_does_no_harm(host):
    p = one_area(prot=RWX)
    p.store(PLACE, 9)
    expected = [PLACE, 1]
    # zeroes, a breakpoint, a privileged instruction, a return, an undefined one, a jump to itself, a stray store
    for code in (b"\0\0", b"\xcc", b"\xf4", b"\xc3", b"\x0f\x0b", b"\xeb\xfe", b"\x0f\x05", b"\xa2\1\2\3\4\5\6\7\0"):
        for at, byte in enumerate(code):
            p.store(PLACE + at, byte)
            expected.append(0)
        p.fetch(PLACE)
        expected.append(0)
    p.fetch(PLACE + PAGE)
    p.fetch(PLACE + 4 * PAGE - 1)
    p.fetch(PLACE + 4 * PAGE, may_fail=True)
    p.mprotect(PLACE, PAGE, RW)
    p.fetch(PLACE, may_fail=True)
    p.load(PLACE, expect=0xa2)
    outcome = host.execute(p)
    assert outcome.results.tolist() == [*expected, 1, 1, EFAULT, 0, EFAULT, 0, 0], outcome.message


# ---- system calls --------------------------------------------------------------------------------------------------

def test_system_calls_do_what_they_say(host):
    p = one_area(8)
    p.touch(PLACE, 8)
    p.munmap(PLACE + 2 * PAGE, PAGE)
    p.mprotect(PLACE, PAGE, 1)
    p.madvise(PLACE + 4 * PAGE, PAGE, DONTNEED)
    p.load(PLACE + 4 * PAGE, expect=0)
    p.add("MREMAP", addr=PLACE + 6 * PAGE, len=2 * PAGE, count=PAGE)
    p.munmap(PLACE + 1, PAGE, may_fail=True)
    p.mmap(PLACE, PAGE, RW, ANON | 0x100000, may_fail=True, dst=5)         # MAP_FIXED_NOREPLACE
    p.probe(PLACE + PAGE + 5)
    p.probe(PLACE + 2 * PAGE)
    outcome = host.execute(p)
    assert outcome.results.tolist() == [PLACE, 8, 0, 0, 0, 1, PLACE + 6 * PAGE, -errno.EINVAL, -errno.EEXIST, 1, 0, 0]
    assert added(host, outcome.maps) == [(0, PAGE, "r--p"), (PAGE, 2 * PAGE, "rw-p"), (3 * PAGE, 7 * PAGE, "rw-p")]
    assert outcome.registers[5] == 2**64 - errno.EEXIST
    pages = [0, 1, 3, 4, 5, 6]
    assert [(page - PLACE) // PAGE for page in sorted(outcome.spaces[1].residency)] == pages
    assert [outcome.spaces[1].contents[PLACE + n * PAGE][0] for n in pages] == [1, 1, 1, 0, 1, 1]


def test_files_are_cached_and_end_in_a_bus_error(host):
    p = one_area(4, flags=SHARED, file=1)
    p.touch(PLACE, 2)
    p.load(PLACE + 2 * PAGE, may_fail=True)
    p.mmap(PLACE + 8 * PAGE, 2 * PAGE, RW, PRIVATE | FIXED, file=1, expect=PLACE + 8 * PAGE)
    p.load(PLACE + 8 * PAGE, expect=1)                  # both pages are cached: mapped together
    p.load(PLACE + 9 * PAGE, expect=1)
    p.store(PLACE + 8 * PAGE, 5)
    p.load(PLACE, expect=1)
    p.add("TRUNCATE", value=1, aux=PAGE)
    p.load(PLACE + PAGE, may_fail=True)
    p.mmap(0, PAGE, RW, SHARED, file=3, may_fail=True)
    p.mmap(PLACE + 16 * PAGE, 2 * PAGE, RW, SHARED | FIXED, file=2, expect=PLACE + 16 * PAGE)
    p.load(PLACE + 16 * PAGE, expect=0)
    p.load(PLACE + 17 * PAGE, expect=0)                 # nobody has touched it, and yet it was mapped with the other
    outcome = host.execute(p, files=[(2, False), (2, True)])
    assert outcome.results.tolist() == [PLACE, 2, SIGBUS, PLACE + 8 * PAGE, 1, 0, 1, 0, 0, SIGBUS, -errno.EBADF,
                                        PLACE + 16 * PAGE, 1, 0, 0]
    assert outcome.spaces[1].page(PLACE + 8 * PAGE)[:1] == b"\5"
    assert outcome.spaces[1].page(PLACE + 9 * PAGE) is None


def test_shared_anonymous_memory_is_the_same_page_after_a_fork(host):
    p = one_area(flags=SHARED | mmap.MAP_ANONYMOUS)
    p.fork(2)
    p.store(PLACE, 9)
    p.mm(2)
    p.load(PLACE, expect=9)
    assert host.execute(p).status == "done"


# ---- address spaces ------------------------------------------------------------------------------------------------

def test_a_fork_copies_on_write_and_the_cpu_moves_between_the_two(host):
    p = one_area()
    p.store(PLACE, 5)
    p.fork(2)
    p.fork(2, may_fail=True)
    p.store(PLACE, 6)                       # a copy
    p.fork(3)
    p.mm(2)                                 # address space 1 is gone
    p.load(PLACE, expect=5)
    p.store(PLACE, 7)                       # nobody else has the page any more: no copy, but a fault
    p.add("MM", value=1, opf=MAY_FAIL)
    p.mm(2)                                 # where it is already
    p.load(PLACE, expect=7)
    p.mm(3)
    p.load(PLACE, dst=1, expect=6)
    p.munmap(PLACE, 2 * PAGE)
    outcome = host.execute(p)
    assert outcome.status == "done", outcome.message
    assert outcome.results.tolist() == [PLACE, 1, 0, -errno.EBUSY, 1, 0, 0, 0, 1, -errno.EINVAL, 0, 0, 0, 0, 0, 0]
    assert outcome.registers[1] == 6 and outcome.running == 3
    assert set(outcome.spaces) == {3} and added(host, outcome.maps) == [(2 * PAGE, 4 * PAGE, "rw-p")]


def test_every_address_space_that_exists_is_reported(host):
    p = one_area()
    p.store(PLACE, 5)
    p.madvise(PLACE + PAGE, PAGE, DONTFORK)
    p.fork(4)
    p.store(PLACE, 6)
    outcome = host.execute(p)
    assert set(outcome.spaces) == {1, 4} and outcome.running == 1
    assert outcome.spaces[1].page(PLACE) == b"\6" + bytes(PAGE - 1)
    assert outcome.spaces[4].page(PLACE) == b"\5" + bytes(PAGE - 1)
    assert added(host, outcome.spaces[4].maps) == [(0, PAGE, "rw-p"), (2 * PAGE, 4 * PAGE, "rw-p")]
    assert (PLACE + PAGE) not in outcome.spaces[4].residency


def test_exec_begins_afresh_and_exit_leaves_nothing_to_access(host):
    p = one_area()
    p.store(PLACE, 5)
    p.fork(2)
    p.exec(3)
    p.load(PLACE, may_fail=True)
    p.mmap(PLACE, PAGE, RW, ANON | FIXED, expect=PLACE)
    p.lea(5, value=77)
    p.exit()
    p.load(PLACE, may_fail=True)
    p.mmap(PLACE, PAGE, RW, ANON, may_fail=True)
    p.fork(5, may_fail=True)
    p.exit()
    p.mm(2)
    p.load(PLACE, expect=5)
    p.add("EXEC", value=2)                  # the slot that it is in is free once it is left
    p.fork(6)
    p.add("EXEC", value=6, opf=MAY_FAIL)    # and one that is not
    p.load(PLACE, may_fail=True)
    outcome = host.execute(p)
    assert outcome.status == "done", outcome.message
    inval = -errno.EINVAL
    assert outcome.results.tolist() == [PLACE, 1, 0, 0, EFAULT, PLACE, 0, 0, inval, inval, inval, 0, 0, 0, 0, 0,
                                        -errno.EBUSY, inval, 0]
    assert outcome.registers[5] == 77 and outcome.running == 0 and outcome.maps == []
    assert set(outcome.spaces) == {6} and list(outcome.spaces[6].maps) == host.maps()


# ---- programs ------------------------------------------------------------------------------------------------------

def test_registers_jumps_and_random_numbers_are_those_of_the_other_engines(host):
    p = Program()
    p.lea(1, value=5)
    p.lea(2, base=1, scale=-3, add_reg=1, value=1)
    with p.repeat(3, 3):
        p.lea(4, base=4, value=10)
    p.rand(6, 1000, scale=8, base_value=3)
    p.ops(7)
    outcome = host.execute(p, registers={4: 100}, seed=12345)
    assert outcome.registers[1:5] == (5, 2**64 - 9, 0, 130) and outcome.registers[14:] == (0, 1)
    assert outcome.cpus[0]["ops"] == 7
    x = 12345
    x ^= x >> 12
    x = (x ^ (x << 25)) % 2**64
    x ^= x >> 27
    assert outcome.registers[6] == 3 + 8 * ((x * 0x2545f4914f6cdd1d % 2**64 >> 33) % 1000)


def test_a_result_that_was_not_expected_ends_the_program(host):
    p = one_area()
    p.load(PLACE, expect=1)
    p.store(PLACE)
    outcome = host.execute(p)
    assert outcome.status == "failed"
    assert outcome.message == "CPU 0: its program failed at record 1: the result was 0, expected 1"
    assert outcome.results.tolist() == [PLACE, 1, 0, 0]


def test_threads_share_an_address_space_and_meet_at_barriers(host):
    programs = []
    for task in range(4):
        p = Program()
        if task == 0:
            p.mmap(PLACE, 4 * PAGE, RW, ANON | FIXED)
        p.barrier()
        p.lea(1, base=14, scale=PAGE, value=PLACE)
        p.store(0, 10 + task, base=1)
        p.barrier()
        p.lea(2, base=14, scale=-PAGE, value=PLACE + 3 * PAGE)
        p.load(0, base=2, dst=3)
        p.barrier()
        p.turn(task)
        p.store(PLACE + task, 50 + task)
        p.next(task + 1, (task + 1) % 4)
        programs.append(p)
    outcome = host.execute(programs)
    assert outcome.status == "done", outcome.message
    assert [cpu["registers"][3] for cpu in outcome.cpus] == [13, 12, 11, 10]
    assert outcome.spaces[1].page(PLACE)[:4] == bytes([50, 51, 52, 53])


def test_a_thread_may_begin_before_anyone_else_goes_on(host):
    p = Program()
    p.mmap(0, PAGE, RW, ANON)
    for _ in range(50):
        assert host.execute([p, p], look=False).status == "done"


def test_what_cannot_be_executed_is_refused_in_one_line(host):
    forks = Program()
    forks.fork(2)
    with pytest.raises(HostError, match=r"^the host engine runs programs of several CPUs as threads of one process: "):
        host.execute([forks, Program()])
    scan = Program()
    scan.numa(PLACE, PAGE)
    with pytest.raises(HostError, match=r"^the host engine has no NUMA: only an emulated kernel does that"):
        host.execute(scan)
    with pytest.raises(ValueError, match=r"^the programs have more records than the 16384 that there is room for$"):
        host.execute(np.zeros(16385, forks.array().dtype))
    with pytest.raises(ValueError, match=r"^a program has at most 255 files$"):
        host.execute(Program(), files=[(1, False)] * 256)
    assert host.execute(Program()).status == "done"


# ---- the end of programs, and of everything ------------------------------------------------------------------------

def test_a_program_that_destroys_its_executor_is_reported(host):
    image = [area for area in host.maps() if Path(area.path).name.startswith("_host.")]
    for address, length in ((image[0].start, image[-1].end - image[0].start), (1 << 40, 1 << 21)):
        p = Program()
        p.nop()
        p.munmap(address, length)
        outcome = host.execute(p, seconds=60)
        assert outcome.status == "destroyed" and outcome.spaces == {}
        assert outcome.message.startswith("the program destroyed its executor at record 1 (MUNMAP): SIG")
    assert descendants(host.process.pid) == []
    assert host.execute(Program()).maps == host.maps()


def test_a_fork_without_its_executor_is_reported(host):
    p = Program()
    p.madvise(1 << 40, 1 << 16, DONTFORK)
    p.fork(2)
    p.mm(2)
    outcome = host.execute(p, seconds=60)
    assert outcome.status == "destroyed" and " at record 2 (MM): " in outcome.message
    assert descendants(host.process.pid) == [] and host.execute(Program()).status == "done"


def test_a_program_that_overwrites_what_executes_it_harms_nobody_else(host):
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = (1 << 40) + (1 + 3) * 65536                 # of address space 3, which would say which process it is
    p = Program()
    for at in range(0, 1024, 4):
        for number, byte in enumerate(bystander.pid.to_bytes(4, "little")):
            p.store(state + at + number, byte)
    assert host.execute(p, look=False).results[:-1].tolist() == [0] * 1024
    host.execute(Program())
    assert bystander.poll() is None
    bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_a_program_that_does_not_end_is_ended(host):
    p = Program()
    p.fork(2)
    p.jmp(1)
    outcome = host.execute(p, seconds=0.2)
    assert outcome.status == "deadline" and descendants(host.process.pid) == []
    assert outcome.message == "the program was still at record 1 (JMP) when its time was over"


def test_every_operation_is_executed_or_refused(host):
    header = "".join(path.read_text() for path in (Path(__file__).parent.parent / "shmm/arch/host").glob("*.h"))
    named = set(re.findall(r"\bSHMM_OP_(\w+)", header))
    for name in OPS:
        if name in EXECUTED:
            assert name in named, f"{name} is said to be executed, and shmm/arch/host does not name it"
            continue
        p = Program()
        p.add(name)
        with pytest.raises(HostError, match=rf"^the host engine has no {name}: "):
            host.execute(p)


def test_what_a_program_started_is_gone_before_the_next(host):
    p = Program()
    for slot in (2, 3, 4):
        p.fork(slot)
    assert len(host.execute(p).spaces) == 4
    assert descendants(host.process.pid) == []


def test_a_zygote_that_dies_is_said_to(host):
    other = Host()
    other.maps()
    os.kill(other.process.pid, signal.SIGKILL)
    with pytest.raises(HostError, match=r"^the process that executes programs was killed by SIGKILL$"):
        other.execute(Program())
    other.close()


def test_a_host_that_cannot_begin_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr("shmm._host.__file__", str(tmp_path / "nothing.so"))
    with pytest.raises(HostError, match=r"exited with status 1: ImportError: .*nothing\.so: cannot open"):
        Host()


LAUNCHER = """
from shmm.host import Host
from shmm.program import MAY_FAIL, Program
host = Host()
host.maps()
endless = Program()
endless.fork(2)
endless.jmp(1)
print(host.process.pid, flush=True)
host.execute(endless, seconds=600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_launcher_that_dies_takes_every_process_with_it(number):
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as launcher:
        zygote = int(launcher.stdout.readline())
        watched = os.pidfd_open(zygote)
        processes = [zygote]
        while len(processes) < 3:           # until the program has forked
            processes = [zygote, *descendants(zygote)]
        pidfds = [os.pidfd_open(pid) for pid in processes[1:]]
        launcher.send_signal(number)
        launcher.wait(60)
    for pidfd in [watched, *pidfds]:
        ended, _, _ = select.select([pidfd], [], [], 60)
        assert ended, "a process has outlived its launcher by a minute"
        os.close(pidfd)
