"""The laws of the source tree (CONTRIBUTING.md) hold, by the rules of source_rules.py.

The rules are proved at the end: each finds what is broken in a snippet, and nothing in the snippet repaired."""

import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import source_rules as rules
from source_rules import ROOT, Finding

SHMM = ROOT / "shmm"
ROOMS = {str(path.relative_to(SHMM).with_suffix("")): path for path in rules.rooms()}
ABOVE = {name: SHMM / f"{name}.pxd" for name in ("arch/arch", "arch/mutants", "layout")}
ENGINE = [*sorted(SHMM.glob("*.pyx")), *sorted(SHMM.glob("*.pxi"))]
NATIVE = [path for suffix in ("h", "pxd", "pxi", "pyx") for path in sorted(SHMM.rglob(f"*.{suffix}"))]
PYTHON = [*sorted(SHMM.glob("*.py")), *sorted((ROOT / "cluster").glob("*.py"))]


def found(paths: Iterable[Path], rule: Callable[[str], list[Finding]]) -> list[str]:
    """The findings of a rule in the files, as file:line: what."""
    return [f"{path.relative_to(ROOT)}:{line}: {what}" for path in paths
            for line, what in rule(path.read_text(errors="replace"))]


def expect_none(findings: list[str]) -> None:
    """Fails with all findings, and nothing around them."""
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


@pytest.fixture(scope="module")
def table() -> list[tuple[str, str]]:
    """The rooms and their floors, as CONTRIBUTING.md has them."""
    return rules.floors_table((ROOT / "CONTRIBUTING.md").read_text())


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A fresh translation of every engine: what Cython said, and the C of the rooms' functions."""
    copy = rules.copy_source(tmp_path_factory.mktemp("source"))
    ran = subprocess.run([sys.executable, "setup.py", "--name"], cwd=copy, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
    bodies: dict[str, str] = {}
    for path in SHMM.glob("*.pyx"):
        bodies |= rules.generated_functions((copy / "shmm" / path.name).with_suffix(".c").read_text())
    return ran.stdout, bodies


# ---- floors ------------------------------------------------------------------------------------------------------

def test_the_table_of_rooms_is_in_order_and_complete(table):
    assert rules.table_is_in_order(table) == []
    assert {name for _, name in table} == {*ROOMS, *ABOVE, *(path.name for path in ENGINE)}


def test_rooms_use_only_what_is_above_them_in_the_table(table):
    paths = ROOMS | ABOVE | {path.name: path for path in ENGINE}
    expect_none([line for name, path in paths.items()
                 for line in found([path], lambda text, name=name: rules.floor_findings(name, text, table))])


def test_shmm_does_not_import_its_cluster():
    expect_none(found([*sorted(SHMM.rglob("*.py")), *sorted(SHMM.rglob("*.pyi"))], rules.imports_cluster))


# ---- the door ----------------------------------------------------------------------------------------------------

def test_nothing_but_arch_names_what_is_behind_the_door():
    outside = [path for path in NATIVE if SHMM / "arch" not in path.parents]
    headers = [path for path in outside if path.suffix == ".h"]
    engines = [path for path in outside if path not in headers and path not in ROOMS.values()]
    expect_none(found(headers, lambda text: rules.door_findings(rules.code_in_c(text), room=False))
                + found(engines, lambda text: rules.door_findings(rules.code(text), room=False))
                + found(ROOMS.values(), lambda text: rules.door_findings(rules.code(text), room=True)))


def test_cells_are_never_copied_as_structs():
    cells = rules.cell_fields((SHMM / "layout.pxd").read_text())
    assert {"start", "mmap_seq", "mmap_base", "lru_frame", "counter"} <= cells
    expect_none(found([*ROOMS.values(), *ENGINE], lambda text: rules.cell_copies(text, cells)))


# ---- rooms -------------------------------------------------------------------------------------------------------

def test_a_room_holds_only_what_a_room_may_hold():
    expect_none(found(ROOMS.values(), rules.room_findings))


def test_every_barrier_names_its_partner():
    expect_none(found(ROOMS.values(), rules.barrier_findings))


def test_every_mutant_is_asked_about_by_a_room():
    mutants = rules.constants_in_c((SHMM / "arch/mutants.h").read_text())
    mutants = {name for name in mutants if name.startswith("SHMM_M_")} - {"SHMM_M_", "SHMM_M_NONE"}
    told = set(re.findall(r"\bSHMM_M_\w+", (SHMM / "arch/mutants.pxd").read_text()))
    asked = {name for path in ROOMS.values() for name in re.findall(r"\bSHMM_M_\w+", rules.code(path.read_text()))}
    assert len(mutants) > 40
    assert mutants == asked == told - {"SHMM_M_NONE"}       # cimported and not asked: cython-lint finds that


def test_functions_are_short():
    expect_none(found(ROOMS.values(), lambda text: rules.lengths(text, 80)))
    every = [function.length for path in ROOMS.values() for function in rules.functions(path.read_text())]
    assert statistics.median(every) <= 12


def test_cython_has_nothing_to_say(build):
    expect_none([what for _, what in rules.build_log_findings(build[0])])


def test_no_room_calls_into_python(build):
    expect_none([what for _, what in rules.python_calls(build[1])])


def test_every_function_of_a_room_is_compiled_into_an_engine(build):
    expect_none([line for name, path in ROOMS.items()
                 for line in found([path], lambda text, name=name: rules.not_compiled(name, text, build[1]))])


# ---- the layout --------------------------------------------------------------------------------------------------

def test_layout_pxd_declares_what_the_headers_define():
    headers = "".join((SHMM / name).read_text() for name in ("layout.h", "words.h", "counters.h", "program.h"))
    expect_none(found([SHMM / "layout.pxd"], lambda text: rules.layout_findings(headers, text)))


def test_every_constant_that_is_mentioned_exists():
    known = set().union(*(rules.constants_in_c(path.read_text()) for path in NATIVE if path.suffix == ".h"))
    expect_none(found([*NATIVE, *PYTHON], lambda text: rules.unknown_constants(text, known)))


def test_the_stub_declares_what_the_engine_offers():
    engine = "".join((SHMM / name).read_text() for name in ("_fast.pyx", "engine.pxi", "engine_facts.pxi"))
    expect_none(found([SHMM / "_fast.pyi"], lambda text: rules.stub_findings(text, engine)))
    checker = (SHMM / "_check.pyx").read_text()                 # its stub takes the rest over from the other
    expect_none(found([SHMM / "_check.pyi"], lambda text: rules.stub_findings(text, checker)))
    for name in ("_calibrate", "_host"):
        engine = (SHMM / f"{name}.pyx").read_text()
        expect_none(found([SHMM / f"{name}.pyi"], lambda text, engine=engine: rules.stub_findings(text, engine)))


# ---- files -------------------------------------------------------------------------------------------------------

def test_everything_public_has_a_docstring():
    expect_none(found(PYTHON, rules.undocumented) + found(ENGINE, rules.undocumented_in_engine))


def test_files_are_short():
    kinds = {".pyx", ".pxd", ".pxi", ".py", ".h"}
    paths = [path for folder in ("shmm", "cluster") for path in sorted((ROOT / folder).rglob("*"))]
    expect_none(found([path for path in paths if path.suffix in kinds], lambda text: rules.too_long(text, 400)))


def test_workloads_fit_on_a_screen():
    paths = [path for path in sorted((ROOT / "cluster/workloads").glob("*.py")) if path.name != "__init__.py"]
    expect_none(found(paths, lambda text: rules.too_long(text, 40)))


def test_no_file_mentions_somebodys_machine_or_a_foreign_licence():
    expect_none(found(rules.project_files(), rules.unwanted))


# ---- the rules: what is broken is found, and what is not is not ----------------------------------------------------

TABLE = [("primitives", "mm/spinlock"), ("objects", "mm/frame"), ("operations", "mm/mmap")]
LAYOUT_H = "typedef struct { a64 seq; p32 a, b; a32 *slot; tlb_entry_t e[A * B]; } x_t;"
LAYOUT_PXD = ("cdef extern from *:\n    ctypedef struct x_t:\n        a64 seq\n        p32 a\n        p32 b\n"
              "        a32 *slot\n        tlb_entry_t e[1]\n")
GENERATED = "static CYTHON_INLINE int __pyx_f_4shmm_{}(int *__pyx_v_c) {{\n  {};\n}}\n"


def table_of(floors: Iterable[str], room: str = "{}") -> str:
    """A table with one room per floor."""
    return "".join(f"| {floor} | `{room.format(floor)}` | purpose |\n" for floor in floors)


def room(*lines: str, signature: str = "void f(vcpu_t *c) noexcept nogil", doc: str = "A room.") -> str:
    """A room with one function."""
    body = "".join(f"    {line}\n" for line in lines)
    return f'"""{doc}"""\n\ncdef inline {signature}:\n{body}'


def beside(statement: str) -> str:
    """A room that has something beside its function."""
    return f'"""A room."""\n\n{statement}\n\ncdef inline void f() noexcept nogil:\n    pass\n'


PROOFS = {
    "the order of the table": (lambda text: rules.table_is_in_order(rules.floors_table(text)), [
        (table_of(reversed(rules.FLOORS)), table_of(rules.FLOORS)),
        (table_of(rules.FLOORS[1:]), table_of(rules.FLOORS)),
        (table_of(rules.FLOORS, "same"), table_of(rules.FLOORS, "mm/{}")),
        (table_of([*rules.FLOORS, "arch"], "{}.pyx"), table_of(rules.FLOORS, "{}.pyx")),
    ]),
    # up, to a room that could come back (a cycle), to itself, to nowhere, in each way of writing it
    "floors": (lambda text: rules.floor_findings("mm/frame", text, TABLE), [
        (broken, "from shmm.mm.spinlock cimport x\nfrom libc.errno cimport ENOMEM\n# from shmm.mm.mmap cimport x\n")
        for broken in ("from shmm.mm.mmap cimport vm_mmap", "from shmm.mm cimport spinlock, mmap as m",
                       "from shmm.mm cimport (\n    spinlock,\n    mmap,\n)", "cimport shmm.mm.mmap",
                       "from shmm.mm.frame cimport x", "from shmm.mm.nowhere cimport x")
    ]),
    "rooms without a row": (lambda text: rules.floor_findings(text, "", TABLE), [("mm/nowhere", "mm/frame")]),
    "imports of the cluster": (rules.imports_cluster, [
        (broken, 'import clusters\n"""shmm.cluster runs programs."""\n')
        for broken in ("import shmm.cluster.launch", "from shmm import cluster", "from shmm.cluster import launch",
                       "from . import cluster", "from .cluster import launch", "import_module('shmm.cluster')")
    ]),
    "the door, rooms": (lambda text: rules.door_findings(rules.code(text), room=True), [
        (room(broken), room(f"cpu_pause()    # not {broken}"))
        for broken in ("__atomic_load_n(p, 0)", "__sync_synchronize()", "volatile = 1", "x = p.v", "usleep(1)",
                       "clock_gettime(0, &t)", "syscall(SYS_futex, p)", "pause_insn()", "atomic_thread_fence(5)",
                       "cpu_pauses()", "sched_yield()", "memset(c.me.tlb_l1, 0, 8)", "kill(pid, 9)")
    ]),
    "the door, headers": (lambda text: rules.door_findings(rules.code_in_c(text), room=False), [
        (f"{broken}\n", f"/* {broken} */ futex_wait(p, 1, 0); char *s = \"{broken[:7]}\";\n")
        for broken in ("static volatile int x;", "__asm__(isb);", "p->v = 1;", "asm(x);", "FUTEX_WAIT;")
    ]),
    "copied cells": (lambda text: rules.cell_copies(text, {"start", "end"}), [
        (room("v.start = w.start"), room("to.start = ld64_relaxed(&v.start)", "x = v.start == w.start")),
        (room("c.vmas[a].start = c.vmas[b].end"), room("st64_relaxed(&c.vmas[a].start, x)")),
        (room("c.vmas[a] = c.vmas[b]"), room("v = &c.vmas[a]", "c.gather[a] = c.gather[b]")),
        (room("cdef a64 x"), room("cdef a64 *x")),
        (room("p[0] = q[0]", signature="void f(a32 *p, a32 *q) noexcept nogil"),
         room("p[0] = q[0]", signature="void f(u32 *p, u32 *q) noexcept nogil")),
    ]),
    "beside the functions": (rules.room_findings, [
        (beside(broken), beside("from libc.errno cimport ENOMEM\n\ncdef enum:\n    X = 1\n\ncdef struct s:\n    int a"))
        for broken in ("cdef int counter", "import os", "from cpython.bytes cimport x", "from shmm.mm.vma cimport *",
                       "X = 1", "def f():\n    pass", "cdef void g() noexcept nogil:\n    pass", "include 'x.pxi'")
    ]),
    "inline functions": (rules.room_findings, [
        *((room("pass", signature=broken), room("pass", signature="u32 f(\n    u32 a,\n) noexcept nogil"))
          for broken in ("void f()", "void f() nogil", "void f() noexcept", "u32 f(\n    u32 a,\n) except -1 nogil")),
        (room("with gil: pass"), room("pass    # never with gil")),
        (room("pass").partition("\n\n")[2], room("pass")),
    ]),
    "long functions": (lambda text: rules.lengths(text, 80), [(room(*["pass"] * 80), room(*["pass"] * 79))]),
    "barriers": (rules.barrier_findings, [
        *((room(broken), room(f"{broken}    # pairs with the reader's"))
          for broken in ("smp_mb()", "smp_rmb()", "smp_wmb()", "st64_mb(p, 1)", "announce(c, state, SHMM_M_MB_KERNEL)",
                         "st64_release(p, 1)", "x = ld32_acquire(p)", "cmpxchg64_acquire(p, 0, 1)",
                         "fetch_add64_release(p, 1)")),
        (room("# C: too far above", "", "", "", "smp_mb()"), room("# C: near", "", "", "smp_mb()")),
        (room("smp_mb()    # orders things"), room("st64_release(p, 1)    # (T1)")),
        (room("smp_mb()", doc="A pairs with B."), room("st32_release(p, 1)", doc="A pairs with B.")),
    ]),
    "the build log": (rules.build_log_findings, [
        (f"[1/1] Cythonizing x.pyx\n{broken}\n", "[1/1] Cythonizing x.pyx\n")
        for broken in ("performance hint: x.pxd:3:0: Exception check on 'f' will always require the GIL",
                       "warning: x.pxd:3:0: Unreachable code")
    ]),
    "calls into Python": (lambda text: rules.python_calls(rules.generated_functions(text)), [
        (GENERATED.format("2mm_3vma_f", "PyGILState_Ensure()"),
         GENERATED.format("2mm_3vma_f", "/* PyErr_ */ x(__pyx_k_a)")),
        (GENERATED.format("6scheme_3spf_f", "__Pyx_WriteUnraisable(0)"),
         GENERATED.format("5_fast_f", "PyErr_Occurred()")),
    ]),
    "rooms that nobody compiles": (lambda text: rules.not_compiled("mm/vma", text, {"__pyx_f_4shmm_2mm_3vma_f": ""}), [
        (room("pass", signature="void g() noexcept nogil"), room("pass")),
    ]),
    "the layout": (lambda text: rules.layout_findings(text, LAYOUT_PXD), [
        (LAYOUT_H.replace(old, new), LAYOUT_H)
        for old, new in (("a64 seq;", ""), ("a64 seq;", "p64 seq;"), ("b;", "b, c;"), ("*slot", "slot"),
                         ("e[A * B]", "e"), ("x_t", "y_t"))
    ]),
    "constants": (lambda text: rules.unknown_constants(text, rules.constants_in_c(
        "#define SHMM_A 1\nenum e { SHMM_B = 2 };\n#define SHMM_OPS(X) \\\n\tX(END) /* x */ \\\n\tX(NOP)\n"
        "#define SHMM_MUTANTS(X) \\\n\tX(ODD, \"spf\", \"X(NONE)\")\n")), [
        (broken, "SHMM_A + SHMM_B + SHMM_OP_NOP + SHMM_M_ODD    # SHMM_PTE_*, SHMM_C_name\n")
        for broken in ("# see SHMM_C\n", "SHMM_M_NONE")
    ]),
    "docstrings": (rules.undocumented, [
        (broken, '"""m"""\nclass A:\n    """a"""\n    def _f(self): pass\n')
        for broken in ("x = 1\n", '"""m"""\ndef f(): pass\n', '"""m"""\nclass A:\n    """a"""\n    def f(self): pass\n')
    ]),
    "docstrings of an engine": (rules.undocumented_in_engine, [
        ("def f(int a,\n      b):\n    return 1\n", 'def f(a):\n    """f"""\n    def __cinit__(self):\n        pass\n'),
    ]),
    "the stub": (lambda text: rules.stub_findings(text, "def f(u64 a, bytes b not None, int c=0):\n    pass\n"), [
        (broken, "def f(a: dict[str, int], b: bytes, c: int = ...) -> None: ...")
        for broken in ("", "def f(a: int) -> None: ...", "def f(a, b, c): ...\ndef g(): ...")
    ]),
    "long files": (lambda text: rules.too_long(text, 2), [("1\n2\n3\n", "1\n2\n")]),
    "unwanted words": (rules.unwanted, [
        (broken, "a farmer at work/ in the public domain")
        for broken in ("see /wor" "k/x", "py" "pi.org", "Copyright (C) 1991 Lin" "us", "GNU General " "Public License")
    ]),
}


@pytest.mark.parametrize("name", PROOFS)
def test_a_rule_finds_what_is_broken_and_nothing_else(name):
    rule, snippets = PROOFS[name]
    for broken, fine in snippets:
        assert rule(broken) != [], broken
        assert rule(fine) == [], fine


def test_cython_still_hints_as_the_rule_expects(tmp_path):
    (tmp_path / "hint.pyx").write_text("cdef void f() nogil:\n    pass\n\ndef g():\n    with nogil:\n        f()\n")
    ran = subprocess.run([sys.executable, "-m", "cython", "-3", "hint.pyx"], cwd=tmp_path, check=True, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert rules.build_log_findings(ran.stdout) != []
