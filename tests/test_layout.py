"""The dtypes hold every field of layout.h and program.h, at the offsets that a C compiler gives them."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import shmm.layout as layout
from shmm.layout import ABI, CONSTANTS, COUNTERS, DTYPES, OPS

SOURCE = Path(layout.__file__).parent
PRIVATE = {"vcpu_t"}                # not in shared memory
BASIC = {"a32": "u4", "p32": "u4", "uint32_t": "u4", "a64": "u8", "p64": "u8", "uint64_t": "u8",
         "int64_t": "i8", "uint16_t": "u2", "uint8_t": "u1"}


def structures(text: str) -> dict[str, list[tuple[str, str, bool]]]:
    """Every shared struct of a header: its fields as (name, C type, is an array), in order."""
    text = re.sub(r"/\*.*?\*/|_Alignas\(\d+\)", "", text, flags=re.DOTALL)
    found = {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.DOTALL):
        fields = []
        for declaration in filter(str.strip, body.split(";")):
            kind, names = re.fullmatch(r"\s*(\w+)\s+(.*)", declaration, re.DOTALL).groups()
            for declarator in names.split(","):
                fields.append((declarator.partition("[")[0].strip(), kind, "[" in declarator))
        if name not in PRIVATE:
            found[name] = fields
    return found


def headers() -> dict[str, list[tuple[str, str, bool]]]:
    return structures((SOURCE / "layout.h").read_text() + (SOURCE / "program.h").read_text())


def macro_list(header: str, name: str) -> tuple[str, ...]:
    """The names in one of the headers' X(...) lists."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCE / header).read_text(), flags=re.DOTALL)
    body = re.search(rf"#define {name}\(X\)((?:.*\\\n)*.*\n)", text)[1]
    return tuple(re.findall(r"X\((\w+)\)", body))


def differences(parsed: dict[str, list[tuple[str, str, bool]]]) -> list[str]:
    """Where the dtypes are not what the parsed headers say."""
    found = [f"{name} is in one place only" for name in set(parsed) ^ set(DTYPES)]
    for name, fields in parsed.items():
        dtype = DTYPES.get(name, np.dtype([]))
        if [field for field, _, _ in fields] != list(dtype.names or ()):
            found.append(f"{name}: fields {[f for f, *_ in fields]}, dtype {dtype.names}")
            continue
        for field, kind, is_array in fields:
            base, shape = dtype[field].base, dtype[field].shape
            if base != (np.dtype(BASIC[kind]) if kind in BASIC else DTYPES[kind]) or bool(shape) != is_array:
                found.append(f"{name}.{field}: {dtype[field]} is not {kind}")
    return found


def test_every_field_of_the_headers_is_in_the_dtypes():
    assert differences(headers()) == []


@pytest.mark.parametrize("old, new", [
    ("a32 online;", "a32 online; a32 forgotten;"),
    ("a64 mmap_seq;", ""),
    ("spinlock_t page_table_lock;", "a64 page_table_lock;"),
    ("p64 start_brk, brk;", "p64 brk, start_brk;"),
    ("} frame_t;", "} frame_t; typedef struct { a32 x; } forgotten_t;"),
])
def test_a_field_that_is_missing_on_either_side_is_noticed(old, new):
    text = (SOURCE / "layout.h").read_text() + (SOURCE / "program.h").read_text()
    assert old in text
    assert differences(structures(text.replace(old, new))) != []


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, tuple[int, ...]]:
    """What cc says: 'struct' -> (size,), 'struct.field' -> (offset, size), 'CONSTANT' -> (value,)."""
    lines = []
    for name, fields in headers().items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), '
                  f'sizeof((({name} *)0)->{field}));' for field, _, _ in fields]
    lines += [f'printf("{name} %llu\\n", (unsigned long long)SHMM_{name});' for name in CONSTANTS]
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.c").write_text(
        '#include <stdio.h>\n#include "layout.h"\nint main(void)\n{\n' + "\n".join(lines) + "\n}\n"
    )
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", f"-I{SOURCE}", f"-I{SOURCE / 'arch'}", "layout.c",
         "-o", "layout"],
        cwd=folder, check=True,
    )
    out = subprocess.run(["./layout"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return {words[0]: tuple(map(int, words[1:])) for words in map(str.split, out.splitlines())}


def test_offsets_and_sizes_are_the_compilers(compiled):
    for name, dtype in DTYPES.items():
        assert compiled[name] == (dtype.itemsize,)
        for field in dtype.names:
            place = dtype.fields[field][1], dtype[field].itemsize
            assert compiled[f"{name}.{field}"] == place, (name, field)


def test_constants_are_the_headers(compiled):
    assert {name: compiled[name][0] for name in CONSTANTS} == CONSTANTS


def test_counters_and_operations_are_the_headers_lists():
    assert macro_list("counters.h", "SHMM_COUNTERS") == COUNTERS
    assert macro_list("program.h", "SHMM_OPS") == OPS
    assert DTYPES["cpu_t"]["counter"].shape == (len(COUNTERS),)


def test_abi_is_64_bits_and_changes_with_the_layout(monkeypatch):
    assert 0 < ABI < 2**64
    assert layout._abi() == ABI
    moved = [(s, f, offset + (f == "mmap_seq"), *rest) for s, f, offset, *rest in layout.FIELDS]
    monkeypatch.setattr(layout, "FIELDS", tuple(moved))
    assert layout._abi() != ABI
