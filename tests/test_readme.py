"""What the README shows in Python runs, and shows something."""

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_example_runs():
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    greeting, faults, speculated = re.fullmatch(r"(b'.*') (\d+) (\d+)\n", done.stdout).groups()
    assert greeting == "b'written by CPU 1'"
    assert int(faults) == 255                   # all pages but the one that was written
    assert int(speculated) == 255               # and none of these faults took the lock
