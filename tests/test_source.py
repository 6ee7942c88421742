"""The laws of the source tree hold (rules: source_rules.py; words: CONTRIBUTING.md), and each rule catches its crime."""

import statistics
import subprocess
import sys

import pytest
import source_rules as rules
from source_rules import ROOT

SHMM = ROOT / "shmm"
ROOMS = {str(path.relative_to(SHMM).with_suffix("")): path.read_text() for path in rules.rooms()}
ENGINE = [*sorted(SHMM.glob("*.pyx")), *sorted(SHMM.glob("*.pxi"))]
NATIVE = [path for suffix in ("h", "pxd", "pxi", "pyx") for path in sorted(SHMM.rglob(f"*.{suffix}"))]
HEADERS = "".join((SHMM / name).read_text() for name in ("layout.h", "program.h"))
PYTHON = [*sorted(SHMM.glob("*.py")), *sorted((ROOT / "cluster").glob("*.py"))]
CELLS = rules.cell_fields((SHMM / "layout.pxd").read_text())
every_room = pytest.mark.parametrize("room", ROOMS)


def told(where, findings: list[rules.Finding]) -> list[str]:
    """Findings as an editor understands them."""
    name = where.relative_to(ROOT) if hasattr(where, "relative_to") else f"shmm/{where}.pxd"
    return [f"{name}:{line}: {what}" for line, what in findings]


def over(paths, rule) -> list[str]:
    """The findings of a rule in each file."""
    return [line for path in paths for line in told(path, rule(path.read_text()))]


@pytest.fixture(scope="module")
def table() -> list[tuple[str, str]]:
    """The rooms and their floors, as CONTRIBUTING.md has them."""
    return rules.floors_table((ROOT / "CONTRIBUTING.md").read_text())


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A fresh translation of every engine: what Cython said, and the C of the rooms' functions."""
    copy = rules.copy_source(tmp_path_factory.mktemp("source"))
    ran = subprocess.run([sys.executable, "setup.py", "--name"], cwd=copy, check=True, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    bodies = {}
    for path in ENGINE:
        if path.suffix == ".pyx":
            bodies |= rules.generated_functions((copy / "shmm" / path.name).with_suffix(".c").read_text())
    return ran.stdout, bodies


# ---- the floors ------------------------------------------------------------------------------------------------

def test_the_table_of_rooms_is_in_order_and_complete(table):
    there = {*ROOMS, "layout", "arch/arch", *(path.name for path in ENGINE)}
    assert rules.table_is_in_order(table) == []
    assert {name for _, name in table} == there


@every_room
def test_a_room_uses_only_what_is_below_it(room, table):
    assert told(room, rules.floor_findings(room, ROOMS[room], table)) == []


def test_layout_and_engines_keep_to_their_floors(table):
    assert rules.floor_findings("layout", (SHMM / "layout.pxd").read_text(), table) == []
    assert rules.floor_findings("arch/arch", (SHMM / "arch/arch.pxd").read_text(), table) == []
    for path in ENGINE:
        assert told(path, rules.floor_findings(path.name, path.read_text(), table)) == []


def test_shmm_does_not_import_its_cluster():
    assert over(sorted(SHMM.rglob("*.py*[!dxic]")), rules.imports_cluster) == []


# ---- the door --------------------------------------------------------------------------------------------------

def test_nothing_but_arch_names_what_is_behind_the_door():
    found = []
    for path in NATIVE:
        if path.parent.name != "arch":
            strip = rules.code_in_c if path.suffix == ".h" else rules.code
            found += told(path, rules.door_findings(strip(path.read_text()), room=path in rules.rooms()))
    assert found == []


def test_cells_are_never_copied_as_structs():
    assert over([*rules.rooms(), *ENGINE], lambda text: rules.cell_copies(text, CELLS)) == []


# ---- the rooms -------------------------------------------------------------------------------------------------

@every_room
def test_a_room_holds_only_what_a_room_may_hold(room):
    assert told(room, rules.room_findings(ROOMS[room])) == []


@every_room
def test_every_barrier_names_its_partner(room):
    assert told(room, rules.barrier_findings(ROOMS[room])) == []


def test_functions_are_short():
    assert over(rules.rooms(), lambda text: rules.lengths(text, 80)) == []
    assert statistics.median(f.length for text in ROOMS.values() for f in rules.functions(text)) <= 12


def test_cython_has_nothing_to_say(build):
    assert rules.build_log_findings(build[0]) == []


def test_no_room_calls_into_python(build):
    assert len(build[1]) >= 250
    assert rules.python_calls(build[1]) == []


@every_room
def test_every_function_of_a_room_is_compiled_into_an_engine(room, build):
    assert told(room, rules.not_compiled(room, ROOMS[room], build[1])) == []


# ---- the layout ------------------------------------------------------------------------------------------------

def test_layout_pxd_declares_what_the_headers_define():
    assert rules.layout_findings(HEADERS, (SHMM / "layout.pxd").read_text()) == []


def test_every_constant_that_is_mentioned_exists():
    known = set().union(*(rules.constants_in_c(path.read_text()) for path in NATIVE if path.suffix == ".h"))
    assert over([*NATIVE, *PYTHON], lambda text: rules.unknown_constants(text, known)) == []


def test_the_stub_declares_what_the_engine_offers():
    engine = (SHMM / "_fast.pyx").read_text() + (SHMM / "engine.pxi").read_text()
    assert rules.stub_findings((SHMM / "_fast.pyi").read_text(), engine) == []


# ---- files -----------------------------------------------------------------------------------------------------

def test_everything_public_has_a_docstring():
    assert over(PYTHON, rules.undocumented) + over(ENGINE, rules.undocumented_in_engine) == []


def test_files_are_short():
    wanted = (".pyx", ".pxd", ".pxi", ".py", ".h")
    paths = [path for folder in ("shmm", "cluster") for path in sorted((ROOT / folder).rglob("*")) if path.suffix in wanted]
    assert over(paths, lambda text: rules.too_long(text, 400)) == []


def test_workloads_fit_on_a_screen():
    workloads = [path for path in sorted((ROOT / "cluster/workloads").glob("*.py")) if path.name != "__init__.py"]
    assert over(workloads, lambda text: rules.too_long(text, 40)) == []


def test_no_file_mentions_somebodys_machine_or_a_foreign_licence():
    found = []
    for path in rules.project_files():
        found += told(path, rules.unwanted(path.read_text(errors="replace")))
    assert found == []


# ---- the rules themselves: broken code is caught, the same code repaired is not -------------------------------------

ROOM = '"""A room."""\n\n'
TABLE = [("primitives", "mm/spinlock"), ("objects", "mm/frame"), ("operations", "mm/mmap")]
HEADER = "typedef struct { a64 seq; p32 a, b; a32 *slot; tlb_entry_t e[4]; } x_t;"
PXD = ("cdef extern from *:\n    ctypedef struct x_t:\n        a64 seq\n        p32 a\n        p32 b\n"
       "        a32 *slot\n        tlb_entry_t e[1]\n")


def in_room(line: str, signature: str = "void f(vcpu_t *c) noexcept nogil") -> str:
    """A room with one function of one line."""
    return f"{ROOM}cdef inline {signature}:\n    {line}\n"


@pytest.mark.parametrize(("rule", "broken", "fine"), [
    (lambda text: rules.table_is_in_order(rules.floors_table(text)),
     "| layout | `layout` | x |\n| arch | `arch/arch` | x |\n",
     "".join(f"| {floor} | `{floor}` | x |\n" for floor in rules.FLOORS)),
    (lambda text: rules.table_is_in_order(rules.floors_table(text)),
     "".join(f"| {floor} | `x` | x |\n" for floor in rules.FLOORS),
     "".join(f"| {floor} | `{floor}.pyx` | x |\n" for floor in rules.FLOORS)),
    # upward, sideways to a room further down (so: a cycle), to itself, unknown, and in every way of writing it
    *[(lambda text: rules.floor_findings("mm/frame", text, TABLE), f"{line}\n",
       "from shmm.mm.spinlock cimport spin_lock\nfrom libc.errno cimport ENOMEM\n")
      for line in ("from shmm.mm.mmap cimport vm_mmap", "from shmm.mm cimport spinlock, mmap as m", "cimport shmm.mm.mmap",
                   "from shmm.mm.frame cimport x", "from shmm.mm.unknown cimport x",
                   "from shmm.mm cimport (\n    spinlock,\n    mmap,\n)")],
    (lambda text: rules.floor_findings("mm/unknown", text, TABLE), "", None),
    *[(rules.imports_cluster, line, 'import clusters\n"""shmm.cluster runs programs."""\n')
      for line in ("import shmm.cluster.launch", "from shmm import cluster", "from shmm.cluster import launch",
                   "from . import cluster", "from .cluster import launch", "import_module('shmm.cluster')")],
    *[(lambda text: rules.door_findings(rules.code(text), room=True), in_room(line), in_room(f"pass    # not {line}"))
      for line in ("__atomic_load_n(p, 0)", "__sync_synchronize()", "volatile = 1", "x = p.v", "clock_gettime(0, &t)",
                   "usleep(1)", "syscall(SYS_futex, p)", "pause_insn()", "atomic_thread_fence(5)", "sched_yield()",
                   "memset(c.me.tlb_l1, 0, 8)", "kill(pid, 9)")],
    *[(lambda text: rules.door_findings(rules.code_in_c(text), room=False), f"{line}\n", f"/* {line} */\n")
      for line in ("static volatile int x;", '__asm__("isb");', "p->v = 1;", "asm(x);")],
    *[(lambda text: rules.cell_copies(text, {"start", "end"}), in_room(broken), in_room(fine))
      for broken, fine in (("v.start = w.start", "to.start = ld64_relaxed(&v.start)"),
                           ("c.vmas[a].start = c.vmas[b].end", "st64_relaxed(&c.vmas[a].start, x)"),
                           ("c.vmas[a] = c.vmas[b]", "v = &c.vmas[a]"), ("cdef a64 x", "cdef a64 *x"))],
    (lambda text: rules.cell_copies(text, set()), in_room("p[0] = q[0]", "void f(a32 *p, a32 *q) noexcept nogil"),
     in_room("p[0] = q[0]", "void f(u32 *p, u32 *q) noexcept nogil")),
    *[(rules.room_findings, ROOM + line + "\n", ROOM + "cdef enum:\n    X = 1\n")
      for line in ("cdef int counter", "import os", "from cpython.bytes cimport x", "from shmm.mm.vma cimport *", "X = 1",
                   "def f():\n    pass", "cdef void f() noexcept nogil:\n    pass", "include 'x.pxi'")],
    (rules.room_findings, "cdef enum:\n    X = 1\n", ROOM),
    *[(rules.room_findings, in_room("pass", signature), in_room("pass"))
      for signature in ("void f()", "void f() nogil", "void f() noexcept", "u32 f(\n    u32 a,\n) except -1 nogil")],
    (rules.room_findings, in_room("with gil: pass"), in_room("pass    # never with gil")),
    (lambda text: rules.lengths(text, 80), in_room("\n    ".join(["pass"] * 80)), in_room("\n    ".join(["pass"] * 79))),
    *[(rules.barrier_findings, in_room(line), in_room(f"{line}    # pairs with the reader's"))
      for line in ("smp_mb()", "smp_rmb()", "smp_wmb()", "st64_mb(p, 1)", "st64_release(p, 1)", "x = ld32_acquire(p)",
                   "cmpxchg64_acquire(p, 0, 1)", "fetch_add64_release(p, 1)")],
    (rules.barrier_findings, in_room("# C: too far above\n\n\n\n    smp_mb()"), in_room("# C: near\n\n\n    smp_mb()")),
    (rules.barrier_findings, in_room("smp_mb()    # orders things"), in_room("st64_release(p, 1)    # (T1)")),
    (rules.barrier_findings, in_room("smp_mb()").replace("A room.", "A pairs with B."),
     in_room("st32_release(p, 1)").replace("A room.", "A pairs with B.")),
    (lambda text: rules.python_calls(rules.generated_functions(text)),
     "static CYTHON_INLINE int __pyx_f_4shmm_2mm_3vma_f(int *__pyx_v_c) {\n  PyGILState_Ensure();\n}\n",
     "static int __pyx_f_4shmm_2mm_3vma_f(int *__pyx_v_c) {\n  /* PyErr_ */ x(__pyx_k_text);\n}\n"),
    (lambda text: rules.python_calls(rules.generated_functions(text)),
     "static int __pyx_f_4shmm_6scheme_3spf_f(int *__pyx_v_c) {\n  __Pyx_WriteUnraisable(0);\n}\n",
     "static int __pyx_pf_4shmm_5_fast_f(int *__pyx_v_c) {\n  PyErr_Occurred();\n}\n"),
    (lambda text: rules.not_compiled("mm/vma", text, {"__pyx_f_4shmm_2mm_3vma_f": ""}),
     in_room("pass", "void g() noexcept nogil"), in_room("pass")),
    *[(lambda text: rules.layout_findings(text, PXD), HEADER.replace(old, new), HEADER)
      for old, new in (("a64 seq;", ""), ("a64 seq;", "p64 seq;"), ("a, b", "b, a"), ("*slot", "slot"), ("e[4]", "e"),
                       ("b;", "b, c;"), ("x_t", "y_t"))],
    (lambda text: rules.unknown_constants(text, rules.constants_in_c("#define SHMM_A 1\nenum e { SHMM_B = 2 };\n")),
     "# see SHMM_C\n", "SHMM_A + SHMM_B    # SHMM_PTE_*\n"),
    *[(rules.undocumented, text, '"""m"""\nclass A:\n    """a"""\n    def _f(self): pass\n')
      for text in ("x = 1\n", '"""m"""\ndef f(): pass\n', '"""m"""\nclass A:\n    """a"""\n    def f(self): pass\n')],
    (rules.undocumented_in_engine, "def f(int a,\n      b):\n    return 1\n", 'def f(a):\n    """f"""\n'),
    *[(lambda text: rules.stub_findings(text, "def f(u64 a, bytes b not None, int c=0):\n    pass\n"), text,
       "def f(a: dict[str, int], b: bytes, c: int = ...) -> None: ...")
      for text in ("", "def f(a: int) -> None: ...", "def f(a, b, c): ...\ndef g(): ...")],
    (lambda text: rules.too_long(text, 2), "1\n2\n3\n", "1\n2\n"),
    *[(rules.unwanted, text, "a farmer at work; public domain")
      for text in ("see /wor" "k/x", "py" "pi.org", "Copyright (C) 1991 Lin" "us", "GNU General " "Public License")],
])
def test_a_rule_finds_what_is_broken_and_nothing_else(rule, broken, fine):
    assert rule(broken) != []
    assert fine is None or rule(fine) == []


def test_a_hint_in_the_build_log_is_found(tmp_path):
    (tmp_path / "hint.pyx").write_text("cdef void f() nogil:\n    pass\n\ndef g():\n    with nogil:\n        f()\n")
    ran = subprocess.run([sys.executable, "-m", "cython", "-3", "hint.pyx"], cwd=tmp_path, check=True, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert rules.build_log_findings(ran.stdout) != []
    (tmp_path / "warned.pyx").write_text("cdef int f() except? -1:\n    return 1\n\nwith open('x') as unused_name: pass\n"
                                         "DEF X = 1\n")
    ran = subprocess.run([sys.executable, "-m", "cython", "-3", "warned.pyx"], cwd=tmp_path, check=True, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert rules.build_log_findings(ran.stdout) != []
