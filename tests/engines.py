"""Builds the engines that only tests need (tests/rooms), against the rooms of the shmm that is imported.

A plugin of the test modules that name it in pytest_plugins: the fixture `rooms` is the native engine with exercisers
of single rooms, `count` the counting engine.  Built extensions stay in pytest's cache folder under a hash of all that
went into them, so that a change of any room builds them anew and nothing else does."""

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
HEADERS = {"_rooms": "native.h", "_count": "count.h"}       # engine -> what is behind its door


def inputs() -> list[Path]:
    """Every file that can change what comes out of a build."""
    kinds = {".pxd", ".pxi", ".pyx", ".h"}
    files = [path for folder in (SHIPPED, SOURCES) for path in folder.rglob("*") if path.suffix in kinds]
    return [ROOT / "build_engines.py", *sorted(files)]


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
    made = cythonize([extension], compiler_directives=DIRECTIVES, build_dir=str(folder / "c"), force=True,
                     include_path=[str(SHIPPED.parent), str(SHIPPED), str(SOURCES)])
    command = Distribution({"name": name, "ext_modules": made}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder), str(folder / "o")
    command.ensure_finalized()
    command.run()


def build_missing(cache: Path) -> None:
    """Builds what the cache does not hold, side by side, each in a process of its own."""
    tag, started = fingerprint(), []
    for name in HEADERS:
        if not (cache / f"{name}-{tag}").exists():
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-new-", dir=cache))
            command = [sys.executable, __file__, name, str(folder)]
            log = (folder / "log").open("w+")
            started.append((name, folder, log, subprocess.Popen(command, stdout=log, stderr=log)))
    for name, folder, log, process in started:
        failed = process.wait()
        log.seek(0)
        text = log.read()
        log.close()
        if failed or "performance hint" in text:        # a hint is an exception check or the GIL in nogil code
            raise RuntimeError(f"cannot build {name}, see {folder}: {text[-2000:]}")
        for old in sorted(cache.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)[:-4]:
            shutil.rmtree(old, ignore_errors=True)
        try:
            folder.rename(cache / f"{name}-{tag}")
        except OSError:                                 # another session was faster
            shutil.rmtree(folder)


def load(name: str, cache: Path) -> ModuleType:
    """Imports the built extension."""
    (path,) = (cache / f"{name}-{fingerprint()}").glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def engine_cache(pytestconfig, tmp_path_factory) -> Path:
    """Where built engines are, all of them there."""
    cache = getattr(pytestconfig, "cache", None)
    folder = cache.mkdir("engines") if cache is not None else tmp_path_factory.mktemp("engines")
    build_missing(folder)
    return folder


@pytest.fixture(scope="session")
def rooms(engine_cache: Path) -> ModuleType:
    """The native engine with exercisers of single rooms (_rooms.pyx)."""
    return load("_rooms", engine_cache)


@pytest.fixture(scope="session")
def count(engine_cache: Path) -> ModuleType:
    """The counting engine (_count.pyx)."""
    return load("_count", engine_cache)


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
