"""Builds the engines that only tests need (tests/rooms), against the rooms of the shmm that is imported.

A plugin of the test modules that name it in pytest_plugins: the fixture `rooms` is the native engine with exercisers
of single rooms, `count` the counting engine, `litmus` the check engine without rooms.  Built extensions stay in
pytest's cache folder under a hash of all that went into them, so that a change of any room builds them anew and
nothing else does."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

import shmm

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = Path(shmm.__file__).resolve().parent
SOURCES = ROOT / "tests" / "rooms"
HEADERS = {"_rooms": "native.h", "_count": "count.h", "_litmus": "check.h"}     # engine -> what is behind its door
FASTER = {"_rooms": ["-g0"], "_count": ["-g0", "-O1"], "_litmus": ["-g0"]}      # to build; on top of the shipped ones'


def inputs() -> list[Path]:
    """Every file that can change what comes out of a build."""
    kinds = {".pxd", ".pxi", ".pyx", ".h"}
    files = [path for folder in (SHIPPED, SOURCES) for path in folder.rglob("*") if path.suffix in kinds]
    return [ROOT / "build_engines.py", Path(__file__), *sorted(files)]


def fingerprint() -> str:
    """A hash of the inputs, the interpreter and the compilers' names."""
    import Cython

    state = hashlib.sha256(repr((sys.version, Cython.__version__, os.environ.get("CC"))).encode())
    for path in inputs():
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


def build(name: str, folder: Path) -> None:
    """Makes the extension in folder, in this process."""
    from Cython.Build import cythonize
    from setuptools import Distribution

    sys.path.insert(0, str(ROOT))
    from build_engines import DIRECTIVES, engine

    extension = engine(name, str(SOURCES / f"{name}.pyx"), HEADERS[name], str(SHIPPED), [str(SOURCES)])
    extension.extra_compile_args = [*extension.extra_compile_args, *FASTER[name]]
    made = cythonize([extension], compiler_directives=DIRECTIVES, build_dir=str(folder / "c"), force=True,
                     include_path=[str(SHIPPED.parent), str(SHIPPED), str(SOURCES)])
    command = Distribution({"name": name, "ext_modules": made}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder), str(folder / "o")
    command.ensure_finalized()
    command.run()


def start_build(name: str, cache: Path) -> tuple[Path, subprocess.Popen[bytes]]:
    """A build in a fresh folder of the cache, in a process of its own; what it says goes to the folder's log."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-new-", dir=cache))
    with (folder / "log").open("w") as log:
        return folder, subprocess.Popen([sys.executable, __file__, name, str(folder)], stdout=log, stderr=log)


def finish_build(name: str, folder: Path, process: subprocess.Popen[bytes], place: Path) -> None:
    """Puts an ended build in its place.  Raises RuntimeError with the log's end if it failed."""
    log = (folder / "log").read_text()
    if process.returncode or "performance hint" in log:             # a hint: somewhere nogil code would take the GIL
        raise RuntimeError(f"cannot build {name}, see {folder}: {log[-2000:]}")
    for old in sorted(place.parent.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)[:-4]:
        shutil.rmtree(old, ignore_errors=True)
    try:
        folder.rename(place)
    except OSError:                                     # another session was faster
        shutil.rmtree(folder)


def build_missing(cache: Path, tag: str) -> None:
    """Builds what the cache does not hold of the fingerprint, side by side."""
    missing = [name for name in HEADERS if not (cache / f"{name}-{tag}").exists()]
    started = [(name, *start_build(name, cache)) for name in missing]
    for _, _, process in started:
        process.wait()
    for name, folder, process in started:
        finish_build(name, folder, process, cache / f"{name}-{tag}")


def load(name: str, folder: Path) -> ModuleType:
    """Imports the extension built in folder."""
    (path,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Engines:
    """What a session has built, or why it could not."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.tag, self.failure = cache, fingerprint(), ""
        try:
            build_missing(cache, self.tag)
        except RuntimeError as error:
            self.failure = str(error)

    def __getitem__(self, name: str) -> ModuleType:
        if self.failure:
            pytest.fail(self.failure, pytrace=False)
        return load(name, self.cache / f"{name}-{self.tag}")


BUILT = pytest.StashKey[Engines]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds before the first test, so that no test's time-out counts the compiler's time."""
    wanted = any({"rooms", "count", "litmus"} & set(getattr(item, "fixturenames", ())) for item in session.items)
    if wanted and not session.config.option.collectonly:
        cache = getattr(session.config, "cache", None)
        folder = cache.mkdir("engines") if cache is not None else Path(tempfile.mkdtemp(prefix="shmm-engines-"))
        session.config.stash[BUILT] = Engines(folder)


@pytest.fixture(scope="session")
def rooms(pytestconfig: pytest.Config) -> ModuleType:
    """The native engine with exercisers of single rooms (_rooms.pyx)."""
    return pytestconfig.stash[BUILT]["_rooms"]


@pytest.fixture(scope="session")
def count(pytestconfig: pytest.Config) -> ModuleType:
    """The counting engine (_count.pyx)."""
    return pytestconfig.stash[BUILT]["_count"]


@pytest.fixture(scope="session")
def litmus(pytestconfig: pytest.Config) -> ModuleType:
    """The check engine without rooms (_litmus.pyx)."""
    return pytestconfig.stash[BUILT]["_litmus"]


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
