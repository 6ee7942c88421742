"""Builds the engines: one thin .pyx each over the same rooms (see CONTRIBUTING.md)."""

import pathlib
import sys

from Cython.Build import cythonize
from setuptools import setup

sys.path.insert(0, str(pathlib.Path(__file__).parent))      # a build front end leaves it out of the path
from build_engines import DIRECTIVES, engine

setup(
    packages=["shmm", "shmm.arch", "shmm.mm", "shmm.scheme", "shmm.exec",
              "shmm.cluster", "shmm.cluster.replay", "shmm.cluster.workloads"],
    package_dir={"shmm": "shmm", "shmm.cluster": "cluster"},
    package_data={"shmm": ["*.h", "*.pxd", "*.pxi", "*.pyx", "*.pyi", "py.typed"], "shmm.arch": ["*.h", "*.pxd"],
                  "shmm.mm": ["*.pxd"], "shmm.scheme": ["*.pxd"], "shmm.exec": ["*.pxd"]},
    ext_modules=cythonize([engine("shmm._fast", "shmm/_fast.pyx", "native.h")], compiler_directives=DIRECTIVES),
)
