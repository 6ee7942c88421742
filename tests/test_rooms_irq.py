"""Interrupts and shootdowns: who is waited for, and what no CPU can use any more afterwards."""

import os

import pytest
from rooms.crew import counter, crew, machine, nanoseconds

pytest_plugins = ("engines",)

IPI_ALL = 2**64 - 1
IRQ_OFF = 1
HOW = {"an instruction": 0, "interrupts off": 1, "nested": 2}       # USE_* of interrupts.pxi
OFF = ["off", "insn", "nested"]
ON = ["user", "kernel", "sleep"]


@pytest.fixture(params=["mailbox", "signal"])
def ipi(request):
    return request.param


def running(rooms, segment, number: int):
    """The CPU as this process, a thread of mm 1."""
    cpu = rooms.Cpu(segment.address, number)
    cpu.online(os.getpid())
    assert cpu.attach(1) == 0
    return cpu


def mm_for(rooms, segment) -> None:
    """An address space to run, with a user of its own."""
    assert rooms.Cpu(segment.address, 7).exec(1) == 0


# ---- one at a time ---------------------------------------------------------------------------------------------


@pytest.fixture
def pair(rooms):
    """Two CPUs of one address space, executed by this process."""
    with machine() as segment:
        a, b = (rooms.Cpu(segment.address, n) for n in (0, 1))
        a.exec(1)
        b.attach(1)
        for cpu in (a, b):
            rooms.mode(cpu, "wake")
        yield segment, a, b


def test_requests_in_one_mailbox_become_everything(rooms, pair):
    segment, a, b = pair
    rooms.post(a, b, 1, 0x123, 2)
    assert segment.view("cpu")["ipi_req"][1] == 1 << 63 | 1 << 48 | 0x123 << 12 | 2 << 2
    rooms.post(a, b, 1, 0x456, 1)
    assert segment.view("cpu")["ipi_req"][1] == IPI_ALL
    rooms.mode(b, "off")
    assert segment.view("cpu")["ipi_req"][1] == 0
    rooms.mode(b, "on")
    assert counter(segment, "nr_tlb_remote_flush_received") == 1


@pytest.mark.parametrize("begin, end", [("off", "on"), ("insn", "endinsn"), ("sleep", "wake")])
def test_a_request_is_handled_where_interrupts_go_off_or_on(rooms, pair, begin, end):
    segment, a, b = pair
    rooms.post(a, b, 1, 1, 1)
    rooms.mode(b, begin)                        # seen at once, unless the CPU goes to sleep
    assert (segment.view("cpu")["ipi_req"][1] != 0) == (begin == "sleep")
    rooms.post(a, b, 1, 1, 1)
    assert segment.view("cpu")["ipi_req"][1] != 0
    rooms.mode(b, end)
    assert segment.view("cpu")["ipi_req"][1] == 0


def test_sections_nest(rooms, pair):
    segment, a, b = pair
    rooms.mode(b, "off")
    rooms.mode(b, "off")
    rooms.post(a, b, 1, 1, 1)
    rooms.mode(b, "on")
    assert segment.view("cpu")["state"][1] & IRQ_OFF
    assert segment.view("cpu")["ipi_req"][1] != 0
    rooms.mode(b, "on")
    assert not segment.view("cpu")["state"][1] & IRQ_OFF
    assert segment.view("cpu")["ipi_req"][1] == 0


def test_a_section_that_began_anew_is_another_section(rooms, pair):
    segment, _, b = pair
    rooms.mode(b, "off")
    first = int(segment.view("cpu")["state"][1])
    rooms.mode(b, "on")
    rooms.mode(b, "off")
    assert segment.view("cpu")["state"][1] != first
    rooms.mode(b, "on")


@pytest.mark.parametrize("pages, asked", [(1, 1 << 2), (33, 33 << 2), (34, 0)])
def test_long_ranges_are_asked_for_as_a_whole(rooms, pair, pages, asked):
    segment, a, _ = pair
    rooms.shoot_now(a, 0x5000, 0x5000 + (pages << 12))
    assert segment.view("cpu")["ipi_req"][1] == 1 << 63 | 1 << 48 | 5 << 12 | asked
    assert counter(segment, "nr_tlb_remote_flush") == 1
    assert counter(segment, "nr_tlb_local_flush_all") == (pages > 33)


def test_only_cpus_that_have_run_the_mm_are_asked(rooms, pair):
    segment, a, _ = pair
    stranger = rooms.Cpu(segment.address, 2)
    rooms.mode(stranger, "wake")
    rooms.shoot_now(a, 0, 4096)
    assert segment.view("cpu")["ipi_req"].tolist()[1:4] == [1 << 63 | 1 << 48 | 1 << 2, 0, 0]


# ---- who is waited for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", OFF + ON)
def test_a_shootdown_waits_for_interrupts_that_are_off_and_for_nothing_else(rooms, ipi, state):
    with machine(ipi=ipi) as segment:
        mm_for(rooms, segment)
        ns = nanoseconds(10)
        _, (held, over) = crew(
            lambda: rooms.hold(running(rooms, segment, 0), 2, ns, state),
            lambda: rooms.shoot(running(rooms, segment, 1), 2, ns),
        )
        assert held
        assert over == (state in OFF)


# ---- G1: what is given away is used no more -----------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 64])
@pytest.mark.parametrize("how", HOW)
def test_G1_no_translation_is_used_after_its_shootdown(rooms, ipi, how, pages):
    with machine(ipi=ipi) as segment:
        mm_for(rooms, segment)
        ns = nanoseconds(0.3)
        changed, *ends = crew(
            lambda: rooms.tlb_changer(running(rooms, segment, 0), 3, ns, 0, pages),
            *(lambda n=n: rooms.tlb_users(running(rooms, segment, n), 3, ns, 1, HOW[how]) for n in (1, 2)),
        )
        assert sum(stale for _, stale in ends) == 0
        assert changed > 0 and min(uses for uses, _ in ends) > 0
        assert counter(segment, "nr_tlb_remote_flush_received") > 0
        assert counter(segment, "tlb_hit") > 0


def test_G1_with_several_senders(rooms, ipi):
    with machine(ipi=ipi) as segment:
        mm_for(rooms, segment)
        ns = nanoseconds(0.5)
        *changed, one, other = crew(
            *(lambda n=n: rooms.tlb_changer(running(rooms, segment, n), 4, ns, n, 1) for n in (0, 1)),
            *(lambda n=n: rooms.tlb_users(running(rooms, segment, n), 4, ns, 2, 0) for n in (2, 3)),
        )
        assert one[1] + other[1] == 0
        assert min(changed) > 0
