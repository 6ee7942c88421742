"""Builds the engines: one thin .pyx each over the same rooms (see CONTRIBUTING.md)."""

import pathlib
import sys

from setuptools import setup

sys.path.insert(0, str(pathlib.Path(__file__).parent))      # a build front end leaves it out of the path
from build_engines import engines

setup(
    packages=["shmm", "shmm.arch", "shmm.mm", "shmm.scheme", "shmm.exec",
              "shmm.cluster", "shmm.cluster.anchors", "shmm.cluster.calibrate", "shmm.cluster.check",
              "shmm.cluster.machines", "shmm.cluster.oracle", "shmm.cluster.record", "shmm.cluster.replay",
              "shmm.cluster.simulate",
              "shmm.cluster.validate", "shmm.cluster.workloads", "shmm.scenarios"],
    package_dir={"shmm": "shmm", "shmm.cluster": "cluster", "shmm.scenarios": "tests/scenarios"},
    package_data={"shmm": ["*.h", "*.pxd", "*.pxi", "*.pyx", "*.pyi", "py.typed"],
                  "shmm.arch": ["*.h", "*.pxd", "check/*.h", "sim/*.h", "host/*.h"], "shmm.mm": ["*.pxd"],
                  "shmm.scheme": ["*.pxd"], "shmm.exec": ["*.pxd"],
                  "shmm.cluster.machines": ["*.toml"], "shmm.cluster.anchors": ["*.json", "README.md"]},
    ext_modules=engines(),
)
