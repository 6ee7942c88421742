"""The differential oracle: the host's kernel and the native engine agree, and what would tell if they did not.

Breaking one rule at a time makes these fail (seen once each, in shmm/mm):

    speculation does not ask for an anon_vma     test_kept_programs_agree[anon-vma-refused] and [anon-vma-merge]
    merging ignores anon_vmas                    test_kept_programs_agree[anon-vma-merge]
    a broken share is not copied                 test_kept_programs_agree[cow-contents]
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import find

from shmm.cluster import oracle
from shmm.cluster.__main__ import main
from shmm.cluster.oracle import campaign, generate, kept, programs
from shmm.cluster.oracle.compare import compare
from shmm.cluster.oracle.judge import Judge
from shmm.cluster.oracle.outcome import Outcome, View
from shmm.cluster.oracle.search import Search
from shmm.program import Program

KEPT = sorted((Path(__file__).parent / "oracle").glob("*.txt"))
SCHEMES = ("mmap_lock", "spf")
ENVIRONMENT = {**os.environ, "NO_COLOR": "1"}
A = programs.ARENA
KEYS = {"schema", "seed", "host", "kernel", "schemes", "files", "warnings", "programs", "operations", "divergences",
        "diverging_programs", "coverage", "seconds"}
DIVERGENCE_KEYS = {"name", "kind", "scheme", "program", "differences", "host", "native"}


@pytest.fixture(scope="module")
def judge():
    """Both sides, for all tests of this file."""
    with Judge(SCHEMES) as one:
        yield one


def shmm(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run([sys.executable, "-m", "shmm.cluster", "oracle", *words], capture_output=True, text=True,
                          timeout=100, env=ENVIRONMENT)


def program(*lines: str):
    """The array of a program in words, each record of which may fail."""
    return Program.parse("\n".join(f"{line} opf=MAY_FAIL" for line in lines)).array()


SHARED_PAGE = program(f"MMAP prot=3 flags=0x32 addr={A:#x} len=0x2000", f"STORE addr={A:#x} value=5",
                      f"LOAD addr={A:#x}")


# ---- both sides agree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_programs_agree(judge, path):
    assert [str(one) for one in judge(kept.read(path)).differences] == []


def test_there_are_kept_programs():
    assert len(KEPT) >= 18


def test_a_small_campaign_finds_nothing(judge):
    search = Search(judge)
    search.run(1, 60, lambda verdict: None)
    assert [(kept.text_of(one.program), [str(line) for line in one.differences]) for one in search.found] == []
    assert search.programs == 60 and search.operations > 60 * 20


def test_the_emulated_address_space_begins_as_the_host_s_does(judge):
    verdict = judge(program("NOP"))
    assert len(verdict.host.areas) >= 5 and verdict.differences == []
    assert verdict.native.areas[-1].path == "[stack]"


def test_thousands_of_programs_leave_nothing_behind(judge):
    """A segment serves for all of them: files, frames and address spaces are given back each time."""
    engine = judge.engines["spf"]
    outcome = judge.real.execute(SHARED_PAGE, programs.FILES)
    for _ in range(300):
        assert engine.execute(SHARED_PAGE, programs.FILES, outcome.loaded).broken == []


# ---- the generator is no toy -------------------------------------------------------------------------------


def test_what_is_generated_covers_what_there_is(judge, monkeypatch):
    monkeypatch.setattr(campaign, "judge_of", lambda schemes: judge)
    result = campaign.work(campaign.Task(2, 0, 60, ("spf",)), lambda so_far: None)
    assert result["divergences"] == []
    seen = result["coverage"]
    wanted = ["results/MMAP ok", "results/MMAP EEXIST", "results/MMAP EINVAL", "results/MMAP EBADF",
              "results/MUNMAP ok",
              "results/MPROTECT ok", "results/MPROTECT ENOMEM", "results/MADVISE ok", "results/MADVISE ENOMEM",
              "results/BRK ok", "results/FORK ok", "results/MM ok", "results/MREMAP ok", "results/STORE faults",
              "results/STORE ok", "results/STORE SIGSEGV", "results/TOUCH SIGBUS", "flags/MMAP GROWSDOWN",
              "flags/MMAP POPULATE", "flags/MMAP NORESERVE", "flags/MMAP LOCKED", "flags/MMAP SHARED",
              "flags/MMAP FIXED_NOREPLACE", "flags/MADVISE 4"]
    assert [name for name in wanted if not seen.get(name)] == []
    accesses = sum(n for name, n in seen.items() if name.startswith(("results/STORE", "results/LOAD", "results/TOUCH")))
    died = sum(n for name, n in seen.items() if name.endswith("SIGSEGV"))
    assert died < 0.15 * accesses               # nearly all of what is asked for is there


def test_programs_shrink_to_nothing():
    assert len(programs.lower(find(generate.programs(), lambda chosen: True))) == 0


def test_a_register_that_nothing_was_mapped_through_points_where_nothing_is():
    lowered = programs.lower([("LOAD", {"addr": 4096, "base": 3}), ("NOP", {}), ("LOAD", {"base": programs.HEAP})])
    assert [line.split()[0] for line in lowered.text().splitlines()] == ["LEA", "BRK", "LOAD", "LOAD", "END"]


# ---- a difference is noticed -------------------------------------------------------------------------------


def planted(judge, change) -> list[str]:
    """The kinds of difference after one was planted in the native outcome."""
    verdict = judge(SHARED_PAGE)
    out = verdict.native
    native = replace(out, results=list(out.results), loaded=list(out.loaded), areas=list(out.areas),
                     pages=dict(out.pages), absent=dict(out.absent), broken=[])
    assert compare(SHARED_PAGE, verdict.host, native) == []
    change(native)
    return [one.kind for one in compare(SHARED_PAGE, verdict.host, native)]


def own(outcome: Outcome) -> int:
    """Which of the areas is the program's."""
    return next(n for n, area in enumerate(outcome.areas) if area.start == A)


@pytest.mark.parametrize("field, value", [("perms", "r--p"), ("end", A + 4096), ("offset", 4096), ("path", "[heap]")])
def test_a_planted_line_of_maps_is_noticed(judge, field, value):
    def change(outcome):
        outcome.areas[own(outcome)] = replace(outcome.areas[own(outcome)], **{field: value})
    assert planted(judge, change) == ["maps"]


def test_planted_results_bytes_pages_and_breaches_are_noticed(judge):
    assert planted(judge, lambda out: out.results.__setitem__(1, 2)) == ["result"]      # one fault too many
    assert planted(judge, lambda out: out.loaded.__setitem__(2, 6)) == ["byte"]
    assert planted(judge, lambda out: out.pages.pop(A)) == ["residency", "contents"]
    assert planted(judge, lambda out: out.pages.__setitem__(A + 4096, bytes(4096))) == ["residency"]
    assert planted(judge, lambda out: out.absent.__setitem__(A + 4096, b"1" * 4096)) == ["contents"]
    assert planted(judge, lambda out: setattr(out, "populated", 1)) == ["populate"]
    assert planted(judge, lambda out: setattr(out, "others", {2: View([], {}, {})})) == ["spaces"]
    assert planted(judge, lambda out: out.pages.__setitem__(A, bytes(4096))) == ["contents"]
    assert planted(judge, lambda out: out.broken.append("I4")) == ["invariant"]


class Liar:
    """A judge whose native engine gives too much to each store of a byte above 100."""

    def __init__(self, judge):
        self.judge = judge

    def __call__(self, array):
        verdict = self.judge(array)
        results = list(verdict.native.results)
        for at, record in enumerate(array):
            if int(record["op"]) == programs.OP["STORE"] and record["value"] > 100 and results[at] >= 0:
                results[at] += 1
        native = replace(verdict.native, results=results)
        return replace(verdict, native=native, differences=compare(array, verdict.host, native))


def test_a_diverging_program_is_found_and_shrunk(judge):
    search = Search(Liar(judge))
    search.run(5, 40, lambda verdict: None)
    shrunk = min(search.found, key=lambda one: len(one.program))
    assert shrunk.kind.startswith("result STORE")
    words = [line.split()[0] for line in kept.text_of(shrunk.program).splitlines() if not line.startswith("LEA")]
    assert words in (["MMAP", "STORE"], ["BRK", "BRK", "STORE"])
    assert search.programs == 40 or len(search.found) == 8


# ---- the command line --------------------------------------------------------------------------------------


def test_the_document(tmp_path):
    done = shmm("--programs", "12", "--seed", "9", "--json", "-", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == KEYS and document["schema"] == "shmm.oracle/1"
    assert (document["programs"], document["seed"], document["divergences"]) == (12, 9, [])
    assert document["operations"] > 200 and set(document["coverage"]) == {"results", "flags", "merges"}
    assert "no divergence" in done.stderr
    again = json.loads(shmm("--programs", "12", "--seed", "9", "--json", "-", "--jobs", "1").stdout)
    assert (again["coverage"], again["operations"]) == (document["coverage"], document["operations"])


def test_a_divergence_has_both_outcomes_and_becomes_a_file(judge, tmp_path):
    verdict = Liar(judge)(program(f"MMAP prot=3 flags=0x32 addr={A:#x} len=0x1000", f"STORE addr={A:#x} value=200"))
    entry = campaign.entry(verdict)
    assert set(entry) == DIVERGENCE_KEYS
    assert (entry["host"]["results"][1], entry["native"]["results"][1]) == (1, 2)
    (path,) = kept.write(tmp_path, [entry])
    assert path.name == f"{entry['name']}.txt" and path.read_text().startswith("# result record 1 (STORE")
    assert (kept.read(path) == verdict.program).all()


def test_kept_files_are_replayed():
    done = shmm(*map(str, KEPT[:3]))
    assert done.returncode == 0 and done.stdout.startswith("3 programs, ")


@pytest.mark.parametrize("words, message", [
    (["no-such-file.txt"], "cannot read no-such-file.txt"),
    (["--programs", "0"], "--programs"),
    (["--scheme", "none"], "'none' does not exist"),
])
def test_usage(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["oracle", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_file_that_holds_no_program(tmp_path, capsys):
    (tmp_path / "bad.txt").write_text("JUMP value=1\n")
    with pytest.raises(SystemExit) as ended:
        main(["oracle", str(tmp_path / "bad.txt")])
    assert ended.value.code == 2 and "there is no operation 'JUMP'" in capsys.readouterr().err


def test_without_hypothesis_there_is_one_line_that_says_so(monkeypatch, capsys):
    monkeypatch.setattr(oracle.importlib.util, "find_spec", lambda name: None)
    assert main(["oracle", "--programs", "1"]) == 3
    assert capsys.readouterr().err == "shmm: generated programs need Hypothesis: pip install 'shmm[oracle]'\n"


def test_elsewhere_than_on_linux_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(oracle.platform, "machine", lambda: "riscv64")
    assert main(["oracle"]) == 3
    assert "Linux on x86-64" in capsys.readouterr().err
