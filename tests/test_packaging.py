"""What an installed shmm holds: everything that one needs to compile another engine against it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from source_rules import copy_source

ENGINE = """
from shmm.arch.arch cimport u64
from shmm.layout cimport mm_t
from shmm.mm.seqcount cimport mmap_seq_read_start

def first(size_t address):
    return mmap_seq_read_start(<mm_t *> address)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the project's source.  Not optimised: what matters is what the wheel holds."""
    copy = copy_source(tmp_path_factory.mktemp("source"))
    recipe = copy / "build_engines.py"
    assert {'"-O2"', '"-O3"'} <= set(re.findall(r'"-O\d"', recipe.read_text()))
    recipe.write_text(re.sub(r'"-O\d"', '"-O0"', recipe.read_text()))
    return copy


@pytest.fixture(scope="module")
def wheel(source) -> zipfile.ZipFile:
    """The wheel that pip makes of it."""
    ran = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "out", "."],
                         cwd=source, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
    (path,) = (source / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_all_sources_of_the_engines(wheel, source):
    kinds = {".pxd", ".h", ".pxi", ".pyx", ".py", ".pyi", ".typed"}
    expected = {str(path.relative_to(source)) for path in (source / "shmm").rglob("*") if path.suffix in kinds}
    assert {"shmm/layout.h", "shmm/mm/fault.pxd", "shmm/py.typed", "shmm/arch/native.h"} <= expected
    assert expected - set(wheel.namelist()) == set()


def test_the_wheel_holds_the_cluster_as_a_part_of_shmm(wheel, source):
    cluster = {f"shmm/{path.relative_to(source)}" for kind in ("py", "toml")
               for path in (source / "cluster").rglob(f"*.{kind}")}
    assert {"shmm/cluster/workloads/page_fault1.py", "shmm/cluster/machines/skylake-2x28.toml"} <= cluster
    assert cluster - set(wheel.namelist()) == set()
    assert "shmm/scenarios/fault_munmap.py" in wheel.namelist()
    figures = {f"shmm/cluster/anchors/{path.name}" for path in (source / "cluster/anchors").glob("*.json")}
    assert len(figures) >= 5 and figures - set(wheel.namelist()) == set()
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"shmm"}


def test_the_wheel_holds_nothing_built_but_the_engines(wheel):
    written = (r".*\.(py|pyi|pyx|pxd|pxi|h)|shmm/py\.typed|.*\.dist-info/.*|"
               r"shmm/cluster/(machines/[\w-]+\.toml|anchors/(\w+\.json|README\.md))")
    built = [name for name in wheel.namelist() if not re.fullmatch(written, name)]
    modules = {"shmm/_fast", "shmm/_check", "shmm/_sim", "shmm/_host", "shmm/_calibrate"}
    assert {name.split(".")[0] for name in built} == modules and len(built) == len(modules), built


def test_another_engine_compiles_against_the_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "other.pyx").write_text(ENGINE)
    subprocess.run([sys.executable, "-m", "cython", "-3", "-I", "site", "-I", "site/shmm", "other.pyx"], cwd=tmp_path,
                   check=True)
    include = subprocess.run([sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('include'))"],
                             check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-fsyntax-only", "-Isite/shmm", "-Isite/shmm/arch",
                    f"-I{include}", "other.c"], cwd=tmp_path, check=True)
