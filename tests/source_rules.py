"""The laws of the source tree, as functions from text to findings.  test_source.py applies and proves them.

A finding is (line or 0, what is wrong).  Rooms are the .pxd files of shmm/mm, shmm/scheme and shmm/exec."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Finding = tuple[int, str]

ROOT = Path(__file__).parents[1]
FLOORS = ("arch", "layout", "primitives", "objects", "operations", "schemes", "exec", "engines")
ROOM_FOLDERS = ("mm", "scheme", "exec")
CELL = r"(?:a32|a64|p32|p64)"

NOT_CODE = re.compile(r'""".*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*', re.DOTALL)
NOT_CODE_IN_C = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
FUNCTION = re.compile(r"^cdef inline ([^:]*):", re.MULTILINE)


# ---- reading -----------------------------------------------------------------------------------------------------

def rooms() -> list[Path]:
    """Every room's file."""
    return sorted(path for folder in ROOM_FOLDERS for path in (ROOT / "shmm" / folder).glob("*.pxd"))


def project_files() -> list[Path]:
    """What is, or would be, under version control; outside a checkout, what is not hidden, nor built."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                                capture_output=True, text=True).stdout.splitlines()
        paths = [ROOT / name for name in listed]
    else:
        folders = [ROOT / name for name in ("shmm", "cluster", "tests", "benches", ".ci")]
        paths = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return sorted(path for path in paths if path.is_file() and path.suffix not in {".so", ".pyc"})


def copy_source(to: Path) -> Path:
    """The project as it is written, without anything built, in a new folder."""
    built = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    for name in ("shmm", "cluster", "tests/scenarios"):
        shutil.copytree(ROOT / name, to / name, ignore=built)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, to)
    return to


def blank(pattern: re.Pattern[str], text: str) -> str:
    """The text with what the pattern matches turned into spaces: lines and columns stay."""
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def code(text: str) -> str:
    """Cython or Python without comments and strings."""
    return blank(NOT_CODE, text)


def comments(text: str) -> str:
    """What code() leaves out."""
    return "".join(a if a != b or a == "\n" else " " for a, b in zip(text, code(text), strict=True))


def code_in_c(text: str) -> str:
    """C without comments and strings."""
    return blank(NOT_CODE_IN_C, text)


def line_of(text: str, position: int) -> int:
    """The number of the line at a position."""
    return text.count("\n", 0, position) + 1


def each(pattern: str, text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Every match with the number of its line."""
    for match in re.finditer(pattern, text, re.MULTILINE):
        yield line_of(text, match.start()), match


class Function(NamedTuple):
    """An inline function of a room."""

    line: int
    name: str
    signature: str              # without the colon
    body: str                   # code only
    length: int                 # in lines, all of it


def functions(text: str) -> list[Function]:
    """The inline functions of a room."""
    bare = code(text)
    found = []
    for match in FUNCTION.finditer(bare):
        next_one = re.compile(r"^\S", re.MULTILINE).search(bare, match.end())
        end = next_one.start() if next_one else len(bare)
        name = re.search(r"(\w+)\(", match[1])
        found.append(Function(line_of(bare, match.start()), name[1] if name else "?", match[1], bare[match.end():end],
                              len(text[match.start():end].rstrip().splitlines())))
    return found


# ---- the floors --------------------------------------------------------------------------------------------------

def floors_table(contributing: str) -> list[tuple[str, str]]:
    """The rows of CONTRIBUTING.md's table of rooms, top to bottom: (floor, room as a path below shmm/)."""
    return re.findall(r"^\| (\w+) +\| `([\w/]+(?:\.\w+)?)` +\| \S.* \|$", contributing, re.MULTILINE)


def table_is_in_order(table: list[tuple[str, str]]) -> list[Finding]:
    """Floors come in their order, each in one piece, and no room comes twice."""
    floors = [floor for floor, _ in table]
    names = [name for _, name in table]
    found = [(0, f"{name} is in the table twice") for name in sorted(set(names)) if names.count(name) > 1]
    if list(dict.fromkeys(floors)) != list(FLOORS):
        found.append((0, f"the floors are {list(dict.fromkeys(floors))}, not {list(FLOORS)}"))
    elif floors != sorted(floors, key=FLOORS.index):
        found.append((0, "a floor comes in two pieces"))
    return found


def cimports(text: str) -> list[tuple[int, str]]:
    """What a Cython file cimports of shmm, as paths below shmm/."""
    found, bare = [], code(text)
    for line, match in each(r"^[ \t]*from shmm([\w.]*) cimport (\([^)]*\)|[^\n]*)", bare):
        parts = match[1].split(".")[1:]
        if not parts or parts in ([folder] for folder in (*ROOM_FOLDERS, "arch")):
            names = [name.split()[0] for name in match[2].strip("() \n").split(",") if name.strip()]
            found += [(line, "/".join([*parts, name])) for name in names]
        else:
            found.append((line, "/".join(parts)))
    found += [(line, match[1].replace(".", "/")) for line, match in each(r"^[ \t]*cimport shmm\.([\w.]+)", bare)]
    return found


def floor_findings(room: str, text: str, table: list[tuple[str, str]]) -> list[Finding]:
    """A room uses only rooms above it in the table; so there is no way up and no cycle."""
    names = [name for _, name in table]
    if room not in names:
        return [(0, f"{room} has no row in CONTRIBUTING.md's table of rooms")]
    found = []
    for line, used in cimports(text):
        if used not in names:
            found.append((line, f"{used} has no row in CONTRIBUTING.md's table of rooms"))
        elif names.index(used) >= names.index(room):
            found.append((line, f"{room} ({dict((b, a) for a, b in table)[room]}) reaches up to {used}"))
    return found


def imports_cluster(text: str) -> list[Finding]:
    """`shmm` never imports `shmm.cluster`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ("shmm." if node.level else "") + (node.module or "")
            names = [module, *(f"{module.rstrip('.')}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            names = [str(node.args[0].value)] if "import" in ast.unparse(node.func) else []
        if any(re.match(r"(shmm\.|\.)?cluster\b", name) for name in names):
            found.append((node.lineno, "shmm imports shmm.cluster"))
    return found


# ---- the door ----------------------------------------------------------------------------------------------------

BEHIND_THE_DOOR = (r"__atomic_\w*|__sync_\w*|\bvolatile\b|\b(?:__)?asm(?:__)?\b|\b\w*fence\w*|\bstdatomic\b"
                   r"|\bSYS_futex\b|\bFUTEX_\w+|\bsyscall\(|\b(?!cpu_pause\b)\w*pause\w*|\bclock_gettime\b|\bgettimeofday\b"
                   r"|\brdtscp?\b|\b(?:u|nano|clock_nano)?sleep\(|\bsched_yield\b")
NOT_FOR_ROOMS = r"\bmem(?:set|cpy|move)\b|\bsig(?:action|nal)\b|\bkill\("


def door_findings(bare: str, room: bool) -> list[Finding]:
    """Only shmm/arch names atomics, fences, futexes, pauses and clocks, and nothing looks inside a cell."""
    pattern = f"{BEHIND_THE_DOOR}|{NOT_FOR_ROOMS}" if room else BEHIND_THE_DOOR
    found = [(line, f"{match[0]} belongs behind the door, in shmm/arch") for line, match in each(pattern, bare)]
    return found + [(line, f"{match[0]} looks inside a shared cell") for line, match in each(r"(?:\.|->)v\b", bare)]


def cell_fields(layout_pxd: str) -> set[str]:
    """The names of all fields that are cells, or arrays of them."""
    return set(re.findall(rf"^\s+{CELL} (\w+)", layout_pxd, re.MULTILINE))


def cell_copies(text: str, cells: set[str]) -> list[Finding]:
    """Cells and what holds them are copied through the door only: a plain assignment of structs compiles, silently."""
    bare = code(text)
    place = r"[\w.\[\]]*\.(\w+)(?:\[[^\]\n]*\])?"
    found = [(line, f"copies the cell {match[2]} as a struct")
             for line, match in each(rf"^\s*{place} *= *{place} *$", bare) if {match[1], match[2]} <= cells]
    found += [(line, f"stores a whole {match[1]} slot") for line, match in each(
        r"^\s*[\w.]+\.(cpus|mms|vmas|anons|files|frames|cache|result|tlb_l1|tlb_l2)\[[^\n=]*\] *=(?!=)", bare)]
    found += [(line, f"{match[1]} is a cell outside shared memory")
              for line, match in each(rf"\bcdef {CELL} (\w+)", bare)]
    for function in functions(text):
        pointers = re.findall(rf"\b{CELL} ?\*(\w+)", function.signature + function.body)
        stores = re.findall(r"^\s*(\w+)\[[^\n=]*\] *=(?!=)", function.body, re.MULTILINE)
        found += [(function.line, f"{function.name} stores through {pointer} past the door")
                  for pointer in sorted({*pointers} & {*stores})]
    return found


# ---- what a room is ------------------------------------------------------------------------------------------------

IN_A_ROOM = r"from (?:shmm|libc)\b[\w.]* cimport |cdef extern from |cdef enum:|cdef struct |ctypedef |cdef inline |\)"


def room_findings(text: str) -> list[Finding]:
    """A room is a docstring, cimports of shmm and libc, constants, private structs, inline noexcept nogil functions."""
    found = [] if text.startswith('"""') else [(1, "a room begins with its docstring")]
    bare = code(text)
    for line, match in each(r"^\S[^\n]*", bare):
        if not re.match(IN_A_ROOM, match[0]) or re.search(r"cimport +\*", match[0]):
            found.append((line, f"not for a room: {match[0]}"))
    found += [(function.line, f"{function.name} is not `noexcept nogil`") for function in functions(text)
              if not function.signature.endswith(") noexcept nogil")]
    return found + [(line, "takes the GIL") for line, _ in each(r"\bwith gil\b", bare)]


def lengths(text: str, limit: int) -> list[Finding]:
    """Functions above the limit, in lines."""
    return [(function.line, f"{function.name} has {function.length} lines, more than {limit}")
            for function in functions(text) if function.length > limit]


FENCE = r"\b(smp_r?w?mb|st\d+_mb|(?<!void )announce)\("
ONE_WAY = r"\b\w+_(?:acquire|release)\("
PARTNER = r"\bpairs?\b|\b[A-Z]\d?:|\([A-Z]\d\)"


def barrier_findings(text: str) -> list[Finding]:
    """Each barrier names its partner on its line or the three above: "pairs with", or a letter (C: ..., (T1)).

    For a one-way barrier (acquire, release) it will do that the room's docstring says the pairing."""
    said = re.match(r'""".*?"""', text, re.DOTALL)
    whole_room = said is not None and re.search(r"\bpairs? with\b", said[0]) is not None
    first = len(said[0].splitlines()) if said else 0
    lines, bare, words = text.splitlines(), code(text).splitlines(), comments(text).splitlines()
    found = []
    for i in range(first, len(lines)):
        needs_one = re.search(FENCE, bare[i]) or (not whole_room and re.search(ONE_WAY, bare[i]))
        if needs_one and not re.search(PARTNER, " ".join(words[max(first, i - 3):i + 1])):
            found.append((i + 1, f"does not name its partner: {lines[i].strip()}"))
    return found


# ---- what the compiler made of it ----------------------------------------------------------------------------------

def build_log_findings(log: str) -> list[Finding]:
    """Cython neither warns nor hints."""
    return [(line, match[0].strip()) for line, match in each(r"^.*(?:performance hint|[Ww]arning:).*", log)]


def generated_functions(generated: str) -> dict[str, str]:
    """The C bodies of the rooms' functions, by mangled name."""
    mangled = "|".join(f"{len(folder)}{folder}" for folder in ROOM_FOLDERS)
    pattern = rf"^static [^\n;]*?(__pyx_f_4shmm_(?:{mangled})_\w+)\([^;{{]*\) \{{\n(.*?)^\}}"
    return dict(re.findall(pattern, generated, re.MULTILINE | re.DOTALL))


def python_calls(bodies: dict[str, str]) -> list[Finding]:
    """No room's function calls into Python: no GIL, no exception, no object."""
    found = []
    for name, body in bodies.items():
        calls = set(re.findall(r"\b(?:_?Py|__Pyx_)\w+", code_in_c(body)))
        found += [(0, f"{name} uses {call}") for call in sorted(calls)]
    return found


def not_compiled(room: str, text: str, bodies: dict[str, str]) -> list[Finding]:
    """Functions of a room that no engine compiles, and which therefore nothing checks."""
    prefix = "__pyx_f_4shmm_" + "".join(f"{len(part)}{part}_" for part in room.split("/"))
    return [(function.line, f"{function.name} is in no engine")
            for function in functions(text) if prefix + function.name not in bodies]


# ---- the layout ----------------------------------------------------------------------------------------------------

SAME_TYPE = {"uint8_t": "u8", "uint16_t": "u16", "unsigned short": "u16", "uint32_t": "u32", "uint64_t": "u64",
             "int64_t": "i64"}


def members(body: str, separator: str) -> list[tuple[str, str]]:
    """The fields declared in a struct's body: (name, type with * and [ as far as they apply)."""
    found = []
    for declaration in filter(str.strip, body.split(separator)):
        kind, names = re.fullmatch(r"\s*(?:const )?(unsigned \w+|\w+)\s+(.*?)\s*", declaration, re.DOTALL).groups()
        for name in names.split(","):
            pointer, plain, array = re.fullmatch(r"\s*(\**)(\w+)\s*(\[?).*", name, re.DOTALL).groups()
            found.append((plain, f"{SAME_TYPE.get(kind, kind)}{pointer}{array}"))
    return found


def structs_in_c(text: str) -> dict[str, list[tuple[str, str]]]:
    """The structs of layout.h and program.h."""
    bare = re.sub(r"_Alignas\(\d+\)", "", code_in_c(text))
    return {name: members(body, ";") for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", bare, re.DOTALL)}


def structs_in_pxd(text: str) -> dict[str, list[tuple[str, str]]]:
    """The structs of layout.pxd."""
    pattern = r"^    ctypedef struct (\w+):\n((?:        .*\n)+)"
    return {name: members(body, "\n") for name, body in re.findall(pattern, code(text), re.MULTILINE)}


def layout_findings(c_text: str, pxd_text: str) -> list[Finding]:
    """layout.pxd declares exactly the structs and fields of the headers, with their types."""
    c, pxd = structs_in_c(c_text), structs_in_pxd(pxd_text)
    found = [(0, f"{name} is declared in one place only") for name in sorted(set(c) ^ set(pxd))]
    return found + [(0, f"{name}.{field} ({kind}) is in one place only") for name in sorted(set(c) & set(pxd))
                    for field, kind in sorted(set(c[name]) ^ set(pxd[name]))]


def constants_in_c(text: str) -> set[str]:
    """The SHMM_ names that the headers define: macros, enumerators, counters, operations and mutants."""
    found = set(re.findall(r"#\s*define\s+(SHMM_\w+)", text))
    for body in re.findall(r"\benum\b[^{;]*\{(.*?)\}", code_in_c(text), re.DOTALL):
        found |= set(re.findall(r"\bSHMM_\w+", body))
    for macro, prefix in (("SHMM_COUNTERS", "SHMM_C_"), ("SHMM_OPS", "SHMM_OP_"), ("SHMM_MUTANTS", "SHMM_M_")):
        for body in re.findall(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", text):
            found |= {prefix + name for name in re.findall(r"\bX\((\w+)[,)]", code_in_c(body))}
    return found


def unknown_constants(text: str, known: set[str]) -> list[Finding]:
    """SHMM_ names that nothing defines, anywhere; SHMM_X_*, SHMM_X_## and SHMM_X_name are families."""
    return [(line, f"{match[0]} is defined nowhere")
            for line, match in each(r"\bSHMM_\w*[A-Za-z0-9]\b(?<!_name)(?!\*|_)", text) if match[0] not in known]


# ---- Python --------------------------------------------------------------------------------------------------------

def undocumented(text: str) -> list[Finding]:
    """Public modules, functions, classes and methods without a docstring."""
    def walk(body: list[ast.stmt]) -> Iterator[Finding]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                if not ast.get_docstring(node) and not any("overload" in ast.unparse(d) for d in node.decorator_list):
                    yield node.lineno, f"{node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body)

    tree = ast.parse(text)
    return ([] if ast.get_docstring(tree) else [(1, "the module has no docstring")]) + list(walk(tree.body))


def undocumented_in_engine(text: str) -> list[Finding]:
    """The same for what an engine's Cython shows to Python."""
    bare = code(text)
    return [(line, f"{match[1]} has no docstring")
            for line, match in each(r"^ *(?:def|cdef class) ([a-zA-Z]\w*)[^:]*:\n", bare)
            if not text[match.end():].lstrip().startswith('"""')]


def declared(stub: str) -> dict[str, list[str]]:
    """The parameters of each public function and method of a stub."""
    return {node.name: [arg.arg for arg in node.args.args] for node in ast.walk(ast.parse(stub))
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}


def offered(engine: str) -> dict[str, list[str]]:
    """The same of an engine's Cython."""
    return {match[1]: [re.split(r"=| not None", part)[0].split()[-1] for part in match[2].split(",") if part.strip()]
            for _, match in each(r"^ *def ([a-zA-Z]\w*)\(([^)]*)\)", code(engine))}


def stub_findings(stub: str, engine: str) -> list[Finding]:
    """The type stub declares what the engine offers, with the same parameters."""
    ours, theirs = declared(stub), offered(engine)
    return [(0, f"{name}: the stub has {ours.get(name)}, the engine {theirs.get(name)}")
            for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


# ---- every file ----------------------------------------------------------------------------------------------------

# Taken apart, so that this file does not match itself.
UNWANTED = "|".join(["/wor" "k/", "/ro" "ot/", r"\bfar" r"m\b", r"py" r"pi\.org", "python" "hosted", "np" r"mjs\.",
                     r"debian\." "org", "Copyright.{0,20}Lin" "us", "GNU General " "Public", "Identifier: *GP" "L"])


def unwanted(text: str) -> list[Finding]:
    """Paths and hosts of somebody's machine, and the kernel's licence."""
    return [(line, f"unwanted: {match[0]}") for line, match in each(UNWANTED, text)]


def too_long(text: str, limit: int) -> list[Finding]:
    """More lines than a reader should need."""
    lines = len(text.splitlines())
    return [(0, f"{lines} lines, more than {limit}")] if lines > limit else []
