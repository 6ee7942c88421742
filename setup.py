"""Builds the engines: one thin .pyx each over the same rooms (see CONTRIBUTING.md)."""

import pathlib

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = pathlib.Path(__file__).parent

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

CFLAGS = ["-std=gnu11", "-O2", "-g", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function",
          "-Werror=implicit-function-declaration"]


def engine(name: str, header: str) -> Extension:
    """One engine: its own .pyx, the rooms compiled against its own header behind the door."""
    return Extension(
        f"shmm.{name}",
        [f"shmm/{name}.pyx"],
        include_dirs=["shmm", "shmm/arch"],
        define_macros=[("_GNU_SOURCE", None), ("SHMM_ENGINE_HEADER", f'"{header}"')],
        extra_compile_args=CFLAGS,
        # cythonize follows .pxd files, but not the headers that headers include
        depends=[str(p.relative_to(HERE)) for p in sorted((HERE / "shmm").rglob("*.h"))],
    )


setup(
    packages=["shmm", "shmm.arch", "shmm.mm", "shmm.scheme", "shmm.exec", "shmm.cluster", "shmm.cluster.workloads"],
    package_dir={"shmm": "shmm", "shmm.cluster": "cluster"},
    package_data={"shmm": ["*.h", "*.pxd", "*.pxi", "*.pyx", "*.pyi", "py.typed"], "shmm.arch": ["*.h", "*.pxd"],
                  "shmm.mm": ["*.pxd"], "shmm.scheme": ["*.pxd"], "shmm.exec": ["*.pxd"]},
    ext_modules=cythonize([engine("_fast", "native.h")], compiler_directives=DIRECTIVES),
)
