"""benches/test_virtual.py: compared with itself nothing has changed, and a machine that is 1 % slower is noticed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from simulated import MACHINE

from shmm.cluster import machines

BENCHES = Path(__file__).resolve().parents[1] / "benches"


def bench(storage: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Benchmarks a few points."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(BENCHES / "test_virtual.py"), "--benchmark-only",
         "-k", "page_fault1 and not 28", f"--benchmark-storage={storage}", *words],
        capture_output=True, text=True, timeout=100, cwd=BENCHES.parent,
    )


def test_virtual_time_is_compared_to_the_last_bit(tmp_path):
    saved = bench(tmp_path, "--benchmark-save=before")
    assert saved.returncode == 0, saved.stdout
    assert "modelled on skylake-2x28" in saved.stdout
    compare = ("--benchmark-compare", "--benchmark-compare-fail=mean:0%")
    again = bench(tmp_path, *compare)
    assert again.returncode == 0, again.stdout[-2000:]
    machine = machines.load(MACHINE)
    slower = tmp_path / "slower.toml"
    text = machines.dumps(machine.with_figures({"kernel.exception": 1.01 * machine.ns("kernel.exception")}))
    slower.write_text(re.sub(r'"varied: [^"]*"', '"estimate: 1 % longer"', text))
    changed = bench(tmp_path, "--machine", str(slower), *compare)
    assert changed.returncode == 1 and "Performance has regressed" in changed.stdout + changed.stderr
    assert "test_workload[page_fault1-1-spf]" in changed.stdout + changed.stderr
