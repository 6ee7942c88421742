"""Programs: every record's fields, mistakes refused in one line, and the text form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmm import Machine
from shmm._fast import Cpu
from shmm.layout import CONSTANTS, COUNTERS, OPS
from shmm.program import INSN, OP, Program, ProgramError

EXPECT, MAY_FAIL = CONSTANTS["OPF_EXPECT"], CONSTANTS["OPF_MAY_FAIL"]
WRITE, COUNT = CONSTANTS["OPF_WRITE"], CONSTANTS["OPF_COUNT"]


def fields(record) -> dict[str, int]:
    """The fields that are not 0, the operation by name."""
    named = {name: int(record[name]) for name in INSN.names if record[name] and name != "op"}
    return {"op": OPS[record["op"]]} | named


@pytest.mark.parametrize("build, expected", [
    (lambda p: p.mmap(4096, 8192, 3, 0x22, file=2, offset=4096, dst=1, base=2, len_reg=3),
     {"op": "MMAP", "addr": 4096, "len": 8192, "prot": 3, "flags": 0x22, "value": 2, "aux": 4096, "dst": 1,
      "base": 2, "len_reg": 3}),
    (lambda p: p.munmap(4096, 8192, base=1, expect=0),
     {"op": "MUNMAP", "addr": 4096, "len": 8192, "base": 1, "opf": EXPECT}),
    (lambda p: p.mprotect(4096, 8192, 1, expect=-12),
     {"op": "MPROTECT", "addr": 4096, "len": 8192, "prot": 1, "opf": EXPECT, "expect": -12}),
    (lambda p: p.madvise(4096, 8192, 4, may_fail=True, count=True),
     {"op": "MADVISE", "addr": 4096, "len": 8192, "value": 4, "opf": MAY_FAIL | COUNT}),
    (lambda p: p.brk(4096, dst=13), {"op": "BRK", "addr": 4096, "dst": 13}),
    (lambda p: p.load(7, dst=3, base=4), {"op": "LOAD", "addr": 7, "dst": 3, "base": 4}),
    (lambda p: p.store(7, 255), {"op": "STORE", "addr": 7, "value": 255}),
    (lambda p: p.fetch(7, count=True), {"op": "FETCH", "addr": 7, "opf": COUNT}),
    (lambda p: p.touch(7, 10), {"op": "TOUCH", "addr": 7, "count": 10, "len": 4096, "value": 1,
                                "opf": WRITE | COUNT}),
    (lambda p: p.touch(7, 10, 64, write=False, value=0, ops=False),
     {"op": "TOUCH", "addr": 7, "count": 10, "len": 64}),
    (lambda p: p.probe(7, base=2), {"op": "PROBE", "addr": 7, "base": 2, "opf": COUNT}),
    (lambda p: p.probe(7, expect=0, may_fail=True, count=False),
     {"op": "PROBE", "addr": 7, "opf": EXPECT | MAY_FAIL}),
    (lambda p: p.lea(1, 2, -1, 3, -5),
     {"op": "LEA", "dst": 1, "base": 2, "count": 2**64 - 1, "len_reg": 3, "value": -5}),
    (lambda p: p.rand(1, 10, 4096, 7), {"op": "RAND", "dst": 1, "count": 10, "aux": 4096, "value": 7}),
    (lambda p: p.barrier(), {"op": "BARRIER"}),
    (lambda p: p.nop(), {"op": "NOP"}),
    (lambda p: p.ops(9), {"op": "OPS", "count": 9}),
    (lambda p: p.turn(9), {"op": "TURN", "value": 9}),
    (lambda p: p.next(9, 3), {"op": "NEXT", "value": 9, "count": 3}),
    (lambda p: p.mm(2), {"op": "MM", "value": 2}),
    (lambda p: p.exec(2, 4096, 8192), {"op": "EXEC", "value": 2, "addr": 4096, "aux": 8192}),
    (lambda p: p.fork(2), {"op": "FORK", "value": 2}),
    (lambda p: p.exit(), {"op": "EXIT"}),
])
def test_each_method_adds_the_record_it_says(build, expected):
    program = Program()
    assert build(program) == 0
    assert fields(program.array()[0]) == expected


def test_an_end_closes_every_program_once():
    program = Program()
    assert [fields(r)["op"] for r in program.array()] == ["END"]
    program.nop()
    assert [fields(r)["op"] for r in program.array()] == ["NOP", "END"]
    program.end()
    assert [fields(r)["op"] for r in program.array()] == ["NOP", "END"]


def test_a_jump_behind_the_last_end_lands_on_another_end():
    program = Program()
    program.jmp(2)
    program.end()
    assert [fields(r)["op"] for r in program.array()] == ["JMP", "END", "END"]


def test_loops():
    program = Program()
    with program.forever() as top:
        with program.repeat(3, reg=5):
            program.ops(1)
        program.barrier()
    assert top == 0
    assert [fields(r) for r in program.array()] == [
        {"op": "LEA", "dst": 5, "count": 1, "value": 3}, {"op": "OPS", "count": 1},
        {"op": "DJNZ", "dst": 5, "value": 1}, {"op": "BARRIER"}, {"op": "JMP"}, {"op": "END"},
    ]


def repeat(program: Program, n: int, reg: int) -> None:
    with program.repeat(n, reg):
        program.lea(reg, value=1)


@pytest.mark.parametrize("build, message", [
    (lambda p: p.mmap(0, -1, 3, 0x22), r"record 0 \(MMAP\): length -1 is not in"),
    (lambda p: p.mmap(-4096, 1, 3, 0x22), r"addr -4096 is not in"),
    (lambda p: p.mmap(2**64, 1, 3, 0x22), r"addr 18446744073709551616 is not in"),
    (lambda p: p.mmap(0, 1, 2**32, 0x22), r"prot 4294967296 is not in"),
    (lambda p: p.load(0, dst=16), r"register 16 is not in 0\.\.15"),
    (lambda p: p.load(0, base=-1), r"register -1 is not in 0\.\.15"),
    (lambda p: p.munmap(0, 1, len_reg=99), r"register 99 is not in 0\.\.15"),
    (lambda p: p.load(0, dst=14), r"register 14 holds the task's number"),
    (lambda p: p.store(0, 256), r"value 256 is not a byte"),
    (lambda p: p.touch(0, 1, value=-1), r"value -1 is not a byte"),
    (lambda p: p.touch(0, -1), r"count -1 is not in"),
    (lambda p: p.touch(0, 1, -4096), r"length -4096 is not in"),
    (lambda p: p.load(0, dst=1, expect=2**63), r"expect 9223372036854775808 is not in"),
    (lambda p: p.rand(1, 0), r"below 0 is not in 1\.\.2147483648"),
    (lambda p: p.rand(1, 2**31 + 1), r"below 2147483649 is not in"),
    (lambda p: p.mm(0), r"address space 0 is not in 1\.\.63"),
    (lambda p: p.fork(64), r"address space 64 is not in 1\.\.63"),
    (lambda p: p.djnz(0, 0), r"register 0 is always 0"),
    (lambda p: repeat(p, 0, 1), r"cannot repeat 0 times"),
    (lambda p: repeat(p, 2, 1), r"record 1 \(LEA\): register 1 counts an enclosing repeat"),
    (lambda p: p.add("JUMP"), r"there is no operation 'JUMP'"),
    (lambda p: p.add("NOP", length=1), r"there is no field 'length'"),
    (lambda p: (p.jmp(3), p.array()), r"record 0 \(JMP\): the program has records 0\.\.1.* at 3"),
    (lambda p: (p.nop(), p.djnz(1, -1), p.array()), r"record 1 \(DJNZ\): .* at -1"),
    (lambda p: p.extend(np.zeros(1)), r"records of dtype float64 are not program records"),
])
def test_mistakes_are_refused_in_one_line(build, message):
    with pytest.raises(ProgramError, match=message) as caught:
        build(Program())
    assert "\n" not in str(caught.value)


def test_a_number_that_is_not_whole_is_a_type_error():
    with pytest.raises(TypeError):
        Program().ops(1.5)


@pytest.mark.parametrize("field, value, message", [
    ("op", len(OPS), rf"record 1 \({len(OPS)}\): there is no operation {len(OPS)}"),
    ("base", 16, r"record 1 \(NOP\): there is no register 16"),
])
def test_generated_records_are_validated_too(field, value, message):
    records = np.zeros(3, INSN)
    records["op"] = OP["NOP"]
    records[1][field] = value
    program = Program()
    program.extend(records)
    with pytest.raises(ProgramError, match=message):
        program.array()
    with pytest.raises(ProgramError, match=message):
        Program.from_array(records)


def test_many_records_keep_their_order():
    program = Program()
    for n in range(1000):
        assert program.ops(n) == n
    block = program.array()
    assert program.extend(block) == 1000
    assert len(program) == 2001
    assert program.array()["count"][:1000].tolist() == list(range(1000))
    assert (program.array()[1000:] == block).all()


def test_text_shows_what_is_not_zero():
    program = Program()
    program.mmap(0, 4096, 3, 0x22, dst=1, expect=-12, may_fail=True)
    assert program.text() == (
        "MMAP dst=1 opf=EXPECT|MAY_FAIL prot=0x3 flags=0x22 len=0x1000 expect=-12\nEND\n"
    )


def test_text_may_have_comments_and_empty_lines():
    program = Program.parse("# a program\n\nNOP   # nothing\nOPS count=0x10\n")
    assert [fields(r) for r in program.array()] == [{"op": "NOP"}, {"op": "OPS", "count": 16}, {"op": "END"}]


@pytest.mark.parametrize("text, message", [
    ("NOP\nHALT\n", "line 2: record 1: there is no operation 'HALT'"),
    ("OPS count", "line 1: 'count' is not field=value"),
    ("OPS op=1", "line 1: 'op=1' is not field=value"),
    ("OPS self=1", "line 1: 'self=1' is not field=value"),
    ("OPS count=ten", "line 1: 'ten' is not a value for count"),
    ("LOAD opf=MAYBE", "line 1: 'MAYBE' is not a value for opf"),
    ("OPS count=-1", "line 1: .* count -1 is not in"),
])
def test_text_that_is_no_program_is_refused_with_its_line(text, message):
    with pytest.raises(ProgramError, match=message):
        Program.parse(text)


def in_field(name: str) -> st.SearchStrategy[int]:
    """Everything that fits a field."""
    info = np.iinfo(INSN[name])
    return st.integers(int(info.min), int(info.max))


records = st.fixed_dictionaries(
    {"op": st.sampled_from([op for op in OPS if op not in ("JMP", "DJNZ", "MM", "EXEC", "FORK")]),
     "value": st.integers(0, 255), "dst": st.integers(0, 13), "base": st.integers(0, 15)},
    optional={name: in_field(name) for name in ("opf", "reserved", "prot", "flags", "addr", "len", "count",
                                                "expect", "aux")},
)


@given(st.lists(records, max_size=20))
def test_text_round_trip(rows):
    program = Program()
    for row in rows:
        program.add(**row)
    assert Program.parse(program.text()) == program
    assert (Program.parse(program.text()).array() == program.array()).all()
    assert Program.from_array(program.array()) == program


# ---- what the interpreter makes of it ----------------------------------------------------------------------

BASE, PAGE, RW, ANON = 0x10000000, 4096, 3, 0x32       # MAP_FIXED | MAP_ANONYMOUS | MAP_PRIVATE


def run(program: Program, outcome: int = 0, first: int = 7) -> tuple[list[int], dict[str, int], int]:
    """Runs a program on a machine of one CPU, not at the region's start; results, counters, failed record + 1."""
    with Machine(cpus=1, memory="1MiB") as machine:
        records = program.array()
        here = slice(first, first + len(records))
        machine.segment.view("insn")[here] = records
        cpu = machine.segment.view("cpu")[0]
        cpu["program_first"], cpu["program_len"] = first, len(records)
        assert Cpu(machine.segment.address, 0).run() == outcome
        counters = dict(zip(COUNTERS, cpu["counter"].tolist(), strict=True))
        failed = int(cpu["failed_pc"])
        del cpu
        return machine.segment.view("result")[here].tolist()[:-1], counters, failed


def test_a_program_runs_as_it_was_written():
    program = Program()
    program.lea(2, value=BASE)
    program.mmap(0, 8 * PAGE, RW, ANON, dst=1, base=2, expect=BASE)
    program.touch(0, 8, base=1, value=9)
    program.touch(PAGE, 3, 2 * PAGE, write=False, base=1, ops=False)
    program.load(PAGE, dst=3, base=1, expect=9)
    program.load(PAGE, base=1, expect=9)
    program.lea(4, 3, 100, 3, -1)                           # 9 * 100 + 9 - 1
    program.munmap(0, 0, base=1, len_reg=4, expect=0)       # 908 bytes: one page
    program.load(0, base=1, expect=-14)
    program.mprotect(0, PAGE, RW, base=1, may_fail=True)
    program.store(PAGE, 200, base=1, count=True)
    program.ops(10)
    results, counters, failed = run(program)
    assert results == [0, BASE, 8, 0, 0, 0, 0, 0, -14, -12, 0, 0]
    assert failed == 0
    assert counters["ops"] == 8 + 1 + 10
    assert counters["user_faults"] == 8 + 1


def test_probes_find_mappings_and_take_no_fault():
    program = Program()
    program.lea(2, value=BASE)
    program.mmap(BASE, 2 * PAGE, RW, ANON)
    program.probe(PAGE, base=2)
    program.probe(2 * PAGE, base=2, count=False)
    program.munmap(BASE, PAGE)
    program.probe(0, base=2, expect=0)
    results, counters, failed = run(program)
    assert (results, failed) == ([0, BASE, 1, 0, 0, 0], 0)
    assert (counters["ops"], counters["probe_locked"], counters["user_faults"]) == (2, 3, 0)
    assert counters["syscalls"] == 2                        # those of mmap and munmap


def test_a_probe_without_an_address_space_fails():
    program = Program()
    program.exit()
    program.probe(BASE, expect=-22)
    assert run(program)[0] == [0, -22]


def test_a_probe_that_was_not_expected_ends_the_program():
    program = Program()
    program.probe(BASE, expect=1)
    _, counters, failed = run(program, outcome=-1)
    assert (failed, counters["unexpected"], counters["ops"]) == (1, 1, 0)


def test_nested_repeats_run_their_bodies():
    program = Program()
    with program.repeat(3, reg=1), program.repeat(4, reg=2):
        program.ops(1)
    assert run(program)[1]["ops"] == 12


def test_random_numbers_stay_below():
    program = Program()
    program.mmap(BASE, 8 * PAGE, RW, ANON)
    with program.repeat(200, reg=1):
        program.rand(2, 8, PAGE, BASE)
        program.store(0, base=2)                            # a fault beyond the mapping would end the program
    _, counters, _ = run(program)
    assert counters["user_faults"] == 8


def test_what_was_not_expected_ends_the_program_and_is_reported():
    program = Program()
    program.mmap(BASE, PAGE, RW, ANON)
    program.load(BASE, dst=1, expect=7)
    program.ops(1)
    results, counters, failed = run(program, outcome=-1)
    assert failed == 1 + 1
    assert (counters["ops"], counters["unexpected"]) == (0, 1)
    assert len(results) == 3


def test_task_registers():
    program = Program()
    program.lea(1, 14, 1, 15, BASE)                         # task 0 + 1 task + BASE
    program.mmap(-1 % 2**64, PAGE, RW, ANON, base=1, expect=BASE)
    assert run(program)[0][1] == BASE
