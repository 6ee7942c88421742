"""The parser of perf script's output: its variants, and files that are no trace."""

import lzma
from pathlib import Path

import pytest

from shmm.cluster.replay.trace import TraceError, parse, read

TRACES = Path(__file__).parent / "traces"
FAULT = "python3 18480/18480 [000]  3054.400074839:  exceptions:page_fault_user: " \
        "address=0x7f241c991b70 ip=0x7f241c9ab000 error_code=0x14"


def only(line: str):
    """The event of a line that holds one."""
    trace = parse([line])
    assert (trace.unparsed, trace.other, len(trace.events)) == (0, 0, 1), line
    return trace.events[0]


def test_fault():
    event = only(FAULT)
    assert (event.comm, event.pid, event.tid, event.name) == ("python3", 18480, 18480, "page_fault_user")
    assert event.time == pytest.approx(3054.400074839)
    assert event.args == (0x7F241C991B70, 0x7F241C9AB000, 0x14)


@pytest.mark.parametrize(("call", "fields", "args"), [
    ("mmap", "addr: 0x00000000, len: 0x00009ca3, prot: 0x00000001, flags: 0x00000002, fd: 0x00000003, off: 0x00001000",
     (0, 0x9CA3, 1, 2, 3, 0x1000)),
    ("munmap", "addr: 0x7f4f4a234000, len: 0x00009ca3", (0x7F4F4A234000, 0x9CA3)),
    ("mprotect", "start: 0x7f4f4a279000, len: 0x00002000, prot: 0x00000001", (0x7F4F4A279000, 0x2000, 1)),
    ("mremap", "addr: 0x7000, old_len: 0x1000, new_len: 0x2000, flags: 0x00000001, new_addr: 0x00000000",
     (0x7000, 0x1000, 0x2000, 1, 0)),
    ("brk", "brk: 0x55ac3726f000", (0x55AC3726F000,)),
    ("madvise", "start: 0x7fce54021000, len_in: 0x00474000, behavior: 0x00000004", (0x7FCE54021000, 0x474000, 4)),
    ("clone", "clone_flags: 0x01200011, newsp: 0x00000000, parent_tidptr: 0x00000000, child_tidptr: 0x7f, tls: 0x0",
     (0x1200011,)),
    ("clone3", "uargs: 0x7ffd3f0, size: 0x00000058", ()),
])
def test_calls(call, fields, args):
    event = only(f"xz 18774/18775 [000]  3063.5:     syscalls:sys_enter_{call}: {fields}")
    assert (event.name, event.call, event.args) == ("enter", call, args)


@pytest.mark.parametrize(("text", "result"), [
    ("0x7f4f4a209000", 0x7F4F4A209000), ("0x0", 0), ("0xfffffffffffffff4", -12), ("-12", -12), ("ret=0x10", 16),
])
def test_results_are_signed(text, result):
    event = only(f"xz 18774/18775 [000]  3063.5:  syscalls:sys_exit_mmap: {text}")
    assert (event.name, event.call, event.args) == ("exit", "mmap", (result,))


@pytest.mark.parametrize(("comm", "prefix"), [
    ("xz", "              xz     7/8     [001]  12.345678901: "),
    ("Web Content", "Web Content 7/8 [001]  12.345678: "),
    ("kworker/0:1", "     kworker/0:1   7/   8 [011] 12.345678: "),
    ("GC Thread#12", "GC Thread#12  7/8 12.345678901:    "),
    ("a 1/2 b", "a 1/2 b 7/8 [000] 12.345678901: "),
    ("xz", "xz 7/8 [000] "),
    ("xz", "xz 7/8 [000] 12.345678:          1 "),
])
@pytest.mark.parametrize("event", [
    "syscalls:sys_enter_brk: brk: 0x00001000", "sys_enter_brk: brk: 0x00001000", "syscalls:sys_enter_brk(brk: 0x1000)",
    "sys_enter_brk(brk: 4096)", "raw-1:sys_enter_brk:   brk=0x1000",
])
def test_variants_of_spacing_and_fields(comm, prefix, event):
    parsed = only(prefix + event)
    assert (parsed.comm, parsed.pid, parsed.tid, parsed.args) == (comm, 7, 8, (4096,))


def test_one_number_is_both_process_and_thread():
    trace = parse(["xz 7 [000] 1.5: syscalls:sys_enter_brk: brk: 0x0"])
    assert (trace.events[0].pid, trace.events[0].tid, trace.paired) == (7, 7, False)
    assert parse([FAULT]).paired


def test_calls_without_optional_fields():
    event = only("a 1/1 1.0: syscalls:sys_enter_mremap: addr: 0x1000, old_len: 0x1000, new_len: 0x2000, flags: 0x1")
    assert event.args == (0x1000, 0x1000, 0x2000, 1, 0)


def test_older_kernels_print_a_symbol_for_the_instruction():
    assert only(FAULT.replace("0x7f241c9ab000", "main+0x10")).args[1] == 0


def test_flushes_keep_their_reason():
    event = only("ls 9/9 [001] 1.5: tlb:tlb_flush: pages:-1 reason:local MM shootdown (3)")
    assert (event.name, event.args) == ("tlb_flush", (3,))


def test_what_is_no_event_is_counted_and_quoted_once():
    trace = parse(["# captured on: today\n", "\n", FAULT + "\n", "what is this\n", "nor this\n", FAULT[:90],
                   "ls 9/9 [001] 1.5: sched:sched_switch: prev_comm=ls\n"])
    assert (len(trace.events), trace.other, trace.unparsed) == (1, 1, 3)
    assert trace.first_unparsed == "what is this"
    assert trace.cpus == {"000"}


def test_files_are_recognised_by_their_contents(tmp_path):
    text = (FAULT + "\n").encode()
    plain, packed = tmp_path / "plain.xz", tmp_path / "packed.txt"
    plain.write_bytes(text)
    packed.write_bytes(lzma.compress(text))
    assert read(plain).events == read(packed).events


@pytest.mark.parametrize(("name", "contents", "says"), [
    ("empty", b"", "no memory event"),
    ("poem", b"shall I compare thee\nto a summer's day\n", "shall I compare thee"),
    ("binary", bytes(range(256)) * 40, "no memory event"),
    ("short.xz", lzma.compress(FAULT.encode() * 1000)[:-40], "damaged or truncated"),
    ("noise.xz", lzma.compress(FAULT.encode())[:20] + b"\xff" * 60, "damaged or truncated"),
])
def test_files_that_are_no_trace(tmp_path, name, contents, says):
    path = tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(TraceError, match=says) as error:
        read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "nothing")
    with pytest.raises(TraceError, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.xz")), ids=lambda path: path.name)
def test_recorded_traces_parse_whole(path):
    trace = read(path)
    assert trace.unparsed == trace.other == 0
    assert trace.faults > 500 and trace.paired
