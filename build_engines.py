"""How an engine is built: the one place for Cython's directives and the compiler's flags.

setup.py builds the shipped engines with it, tests/engines.py those that only tests need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension

# Directives live here and nowhere else: a `# cython:` line in a .pyx does not reach the rooms it cimports, and
# without cdivision an innocent % would take the GIL, which no room may.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "freethreading_compatible": True,
}

CFLAGS = ["-std=gnu11", "-g", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function",
          "-Werror=implicit-function-declaration"]


def engine(module: str, source: str, header: str, rooms: str = "shmm", include: Iterable[str] = (),
           optimise: str = "-O2") -> Extension:
    """One engine: its own .pyx, the rooms compiled against its own header behind the door.

    rooms: the folder of shmm; include: where the header is, if not there."""
    return Extension(
        module,
        [source],
        include_dirs=[rooms, f"{rooms}/arch", *include],
        define_macros=[("_GNU_SOURCE", None), ("SHMM_ENGINE_HEADER", f'"{header}"')],
        extra_compile_args=[*CFLAGS, optimise],
        # cythonize follows .pxd files, but not the headers that headers include
        depends=[str(path) for path in sorted(Path(rooms).rglob("*.h"))],
    )


def calibration() -> Extension:
    """What measures this machine: no rooms, only what lies behind the door."""
    return Extension("shmm._calibrate", ["shmm/_calibrate.pyx"], include_dirs=["shmm/arch"],
                     define_macros=[("_GNU_SOURCE", None)], extra_compile_args=[*CFLAGS, "-O2"],
                     depends=[str(path) for path in sorted(Path("shmm/arch").glob("*.h"))])


def host() -> Extension:
    """What executes programs on this machine's own kernel: no rooms either.

    Its executor gives up the C library, so nothing may need a canary, or turn a loop into a call of memset."""
    return Extension("shmm._host", ["shmm/_host.pyx"], include_dirs=["shmm", "shmm/arch"],
                     define_macros=[("_GNU_SOURCE", None)],
                     extra_compile_args=[*CFLAGS, "-O2", "-fno-stack-protector", "-fno-tree-loop-distribute-patterns"],
                     depends=[str(path) for path in sorted(Path("shmm").rglob("*.h"))])


def engines() -> list[Extension]:
    """The engines that are shipped, and the calibration.

    The checker names lines of rooms, so its C says which line it comes from."""
    native = engine("shmm._fast", "shmm/_fast.pyx", "native.h")
    check = engine("shmm._check", "shmm/_check.pyx", "check.h", optimise="-O3")     # a tenth faster
    sim = engine("shmm._sim", "shmm/_sim.pyx", "sim.h")
    return [*cythonize([native, sim, host(), calibration()], compiler_directives=DIRECTIVES),
            *cythonize([check], compiler_directives=DIRECTIVES, emit_linenums=True)]
