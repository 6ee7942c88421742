"""Takes protections away one at a time, and sees what notices: a checker that never finds anything proves nothing.

For each mutant, depth-first search looks through its scenarios for the first that breaks; there PCT shows with several
seeds how many random schedules it takes, and the schedule is made as small as it can be.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shmm import _check
from shmm.cluster.check import explore, schedule
from shmm.cluster.check.explore import Task

SEEDS = 5
SAMPLES = 20_000            # schedules of PCT for each seed
CAP = 2_000_000             # schedules of one depth-first search

@dataclass(frozen=True)
class Plan:
    """Where a mutant is looked for."""

    scenarios: tuple[str, ...]
    memory: tuple[str, ...] = ("sc",)
    variants: tuple[str, ...] = ("base",)
    scheme: str = "spf"
    bound: int = 2
    depth: int = 3
    schedule: str = ""          # deviations written down by hand, where the search would have to go too deep


WEAK = ("weak", "tso")
ORDER = ("fault_munmap", "fault_mprotect", "fault_map_fixed", "fault_mmap", "reader_across_grace")

# By name; the others by their group.
PLANS: dict[str, Plan] = {
    "ODD": Plan(("fault_mprotect", "fault_map_fixed"), depth=4),
    "VMA_COPY": Plan(("fault_munmap", "fault_mprotect", "fault_map_fixed", "split_merge", "mprotect_back")),
    "PROBE_CHECK": Plan(("probe_munmap",)),
    "SEQ1": Plan(("upper_tables_free",)),
    "VMA_MEMCMP": Plan(("table_free_walk", "mprotect_back")),
    "COW_ABA": Plan(("cow_aba_fork",)),
    "PTL_SPIN": Plan(("flush_under_ptl",)),
    "PTL_LOOP": Plan(("flush_under_ptl",)),
    "WALK_UNPROTECTED": Plan(("table_free_walk",)),
    "DOWNGRADE_EARLY": Plan(("fault_munmap", "downgrade_window")),
    "PTE_NONE": Plan(("two_faults",)),
    "PTE_SAME": Plan(("two_copies", "cow_aba")),
    "PMD_SAME": Plan(("fault_collapse_read",), variants=("base", "rcu")),
    "PMD_UNDER_PTL": Plan(("fault_collapse_read",), variants=("rcu",)),
    "HUGE_PMD_NONE": Plan(("huge_faults",)),
    "SPLIT_REFS_LATE": Plan(("huge_split",)),
    "DEPOSIT_FREE_NOW": Plan(("collapse_dontneed",), variants=("rcu",)),
    "COLLAPSE_NO_FLUSH": Plan(("store_collapse", "gup_collapse", "collapse_dontneed")),
    "COLLAPSE_TWICE": Plan(("two_collapses",)),
    "GUP_IRQ_ON": Plan(("gup_munmap",)),
    "GUP_NO_RECHECK": Plan(("gup_munmap", "gup_copy")),
    "VMA_FREE_NOW": Plan(("reader_across_grace",)),
    "VMA_LINKS_REUSED": Plan(("unlink_on_the_way",)),
    "TABLE_FREE_NOW": Plan(("table_free_walk",), variants=("base", "rcu")),
    "PTL_FREED": Plan(("table_free_walk",)),
    "TABLE_FREE_FALLBACK": Plan(("table_free_walk",), variants=("rcu",)),
    "LATCH_NO_BUMP": Plan(("rotation",), variants=("latched",)),
    "LATCH_NO_RETRY": Plan(("rotation",), variants=("latched",)),
    "LATCH_ONE_COPY": Plan(("rotation",), variants=("latched",)),
    "MB_SENDER": Plan(("mprotect_late", "fork_store"), WEAK),
    "MB_TARGET": Plan(("shootdown_late",), ("tso", "weak")),
    # CPU 1 drives a grace period and has just looked at CPU 0; CPU 0 stands on a VMA; CPU 2 unmaps that, and does not
    # see yet that the grace period has begun, so it takes that one for a later one and frees at its end
    "MB_GRACE": Plan(("grace_driver",), ("weak",), schedule="2.0S1,1.151s0,0.39s2,2.151o1,2.152s1"),
    # a fault enters by insn_begin and looks again under the ptl; a look-up of the VMA alone has only these
    "MB_KERNEL": Plan(("probe_munmap",), ("tso", "weak")),
    "WMB_BEGIN": Plan(("probe_munmap",), ("weak",)),
    "RMB_CHECK": Plan(("probe_munmap",), ("weak",)),
    "WMB_END": Plan(("fault_munmap",), ("weak",)),
    "RMB_START": Plan(("fault_mprotect",), ("weak",)),
    "PUBLISH_VMA": Plan(("recycled_vma", "fault_munmap"), ("weak",)),
    "PUBLISH_TABLE": Plan(("two_faults",), scheme="mmap_lock"),
    "UNLOCK_RELAXED": Plan(("first_faults", "dontneed_mmap"), ("sc", "weak")),
    "SPIN_RELAXED": Plan(("three_faults", "three_installs"), ("sc", "weak"), scheme="mmap_lock"),
    "UP_READ_RELAXED": Plan(("dontneed_mmap",), scheme="mmap_lock"),
    "IRQ_ENABLE_RELAXED": Plan(("shootdown_reuse",)),
    "MPROTECT_NO_FLUSH": Plan(("mprotect_late",)),
    "ZAP_NO_LOCK": Plan(("fault_munmap",)),
    "UFFD_NO_CHECK": Plan(("uffd_fault",)),
    "UFFD_WP_NO_CHECK": Plan(("uffd_protect",)),
    "UFFD_WP_NO_FLUSH": Plan(("uffd_protect",)),
    "UFFD_NO_RECHECK": Plan(("uffd_fault",)),
    "NUMA_SECOND_LOCK": Plan(("numa_second_lock",)),
    "MIGRATE_NO_FLUSH": Plan(("numa_stale",)),
    "SWAP_NO_FLUSH": Plan(("swap_fault",)),
    "SWAP_EARLY": Plan(("swap_fault",)),
    "SWAP_READ_EARLY": Plan(("swap_again",)),
    "MREMAP_NO_FLUSH": Plan(("mremap_store",)),
    "TRUNCATE_NO_RECHECK": Plan(("truncate_fault",)),
    "TRUNCATE_NO_FLUSH": Plan(("truncate_stale",)),
    "UNLINK_FILE_LATE": Plan(("truncate_munmap",)),
    "MREMAP_NO_PTL": Plan(("mremap_fault",)),
    "MREMAP_PMD_MOVE": Plan(("mremap_pmd_move",)),
    "FREE_BEFORE_FLUSH": Plan(("shootdown_late", "fault_dontneed")),
    "FLUSH_BEFORE_ZAP": Plan(("shootdown_late",)),
    # CPU 0 has woken the first of two readers; that one is done before the second is told, and a writer slips in
    "RWSEM_SHARES_LATE": Plan(("woken_readers",), scheme="mmap_lock", bound=1, schedule="0.45s1,2.49S0,0.223s1,3.18s0"),
    "RCU_READER_IGNORED": Plan(("reader_across_grace",)),
    "MCS_NODE_LATE": Plan(("three_faults",), scheme="mmap_lock"),
    "MCS_HANDOFF": Plan(("three_faults",), scheme="mmap_lock"),
    "ANON_VMA_RACE": Plan(("first_faults",)),
    "ANON_VMA_LOCK": Plan(("first_faults",)),
    "DOWNGRADE_BELOW_STACK": Plan(("stack_growth_munmap",)),
    "STACK_GROW_NO_LOCK": Plan(("stack_growth",)),
    "STACK_GROW_UNCHECKED": Plan(("stack_growth",)),
    "FORK_NO_FLUSH": Plan(("fork_stale_store",)),
    "FORK_READ_LOCK": Plan(("fork_faults",)),
    # whoever holds mmap_lock needs no other lock against a registration, and a speculator no mmap_lock
    "NOTIFIER_REGISTER_NO_MMAP_LOCK": Plan(("cow_notifier",), scheme="mmap_lock"),
    "NOTIFIER_UNTOLD": Plan(("secondary_cow", "secondary_zap")),
    "NOTIFIER_LATE": Plan(("secondary_zap",)),
    "NOTIFIER_NO_END": Plan(("secondary_cow",)),
    "NOTIFIER_MPROTECT": Plan(("secondary_mprotect",)),
    "NOTIFIER_FORK": Plan(("secondary_fork",)),
    "SECONDARY_NO_RETRY": Plan(("secondary_cow", "secondary_zap")),
}
GROUPS: dict[str, Plan] = {
    "spf": Plan(("fault_munmap",)),
    "order": Plan(ORDER, WEAK),
    "flush": Plan(("shootdown_late",)),
    "thp": Plan(("fault_collapse",)),
    "lock": Plan(("two_writers_one_reader",)),
    "notifier": Plan(("cow_notifier",)),
    "spare": Plan(ORDER, WEAK),
}

# The group "spare": protections that others stand in for, so that nothing notices when they are gone, and why
# (docs/checking.md says more).  They are explored like the others: to be noticed one day would be news.
SPARE = "spare"
EXPLANATIONS: dict[str, str] = {
    "VMA_COPY": "pte_map_lock looks at mmap_seq twice more before anything is committed; this early look saves work.",
    "GUP_NO_RECHECK":
        "interrupts are off from the look at the pte to the reference; every shootdown here waits for that.",
}


@dataclass(frozen=True)
class Mutant:
    """One protection to take away."""

    mutant: str
    group: str
    missing: str
    seed: int
    plan: Plan = field(compare=False)


def tasks(names: Sequence[str], seed: int) -> list[Mutant]:
    """The mutants of these names, all without any."""
    return [Mutant(name, group, missing, seed, PLANS.get(name, GROUPS[group]))
            for name, group, missing in _check.mutants()
            if name != schedule.NO_MUTANT and (not names or name in names)]


def places(mutant: Mutant) -> list[Task]:
    """Where to look, in this order."""
    plan = mutant.plan
    return [Task(scenario, plan.scheme, variant, memory, bound=plan.bound, depth=plan.depth, seed=mutant.seed,
                 mutant=mutant.mutant, schedules=CAP)
            for memory in plan.memory for variant in plan.variants for scenario in plan.scenarios]


def directed(mutant: Mutant) -> Task:
    """The schedule that was written down for it."""
    script = tuple(schedule.parse_deviation(part, mutant.plan.schedule) for part in mutant.plan.schedule.split(","))
    return replace(places(mutant)[0], strategy="directed", script=script, shrink=False)


def kill(mutant: Mutant, tell: Callable[[int], None]) -> dict[str, Any]:
    """One element of "mutants", with the runs behind it."""
    runs = []
    if mutant.plan.schedule:
        runs.append(explore.run(directed(mutant), progress=tell))
        if runs[-1]["violation"] is not None:
            return killed(mutant, runs[-1], runs) | {"runs": runs}
    for place in places(mutant):
        runs.append(explore.run(place, progress=tell))
        if runs[-1]["violation"] is not None:
            sampled = [explore.run(replace(place, strategy="pct", seed=mutant.seed + number, schedules=SAMPLES,
                                           shrink=False), progress=tell) for number in range(SEEDS)]
            return killed(mutant, runs[-1], sampled) | {"runs": runs + sampled}
    for place in places(mutant):        # deeper than the bound, perhaps
        runs.append(explore.run(replace(place, strategy="pct", schedules=SAMPLES), progress=tell))
        if runs[-1]["violation"] is not None:
            return killed(mutant, runs[-1], runs[-1:]) | {"runs": runs}
    return verdict(mutant) | {"schedules": sum(run["schedules"] for run in runs), "runs": runs}


def verdict(mutant: Mutant) -> dict[str, Any]:
    """What is said of a mutant that survives."""
    return {"mutant": mutant.mutant, "group": mutant.group, "missing": mutant.missing, "killed": False,
            "scenario": None, "scheme": None, "variant": None, "memory": None, "strategy": None, "schedules": None,
            "preemptions": None, "invariant": None, "schedule": None, "explanation": EXPLANATIONS.get(mutant.mutant)}


def killed(mutant: Mutant, found: dict[str, Any], sampled: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is said of one that is noticed: by PCT if most seeds find it, else by what found it."""
    hits = [run["schedules"] for run in sampled if run["violation"] is not None]
    by = sampled[0] if 2 * len(hits) > len(sampled) else found
    counts = sorted(run["schedules"] for run in sampled) if by is sampled[0] else [found["schedules"]]
    parameter = {"pct": f"pct {by['depth']}", "dfs": f"dfs {by['bound']}"}.get(by["strategy"], by["strategy"])
    violation = found["violation"]
    return verdict(mutant) | {
        "killed": True, "scenario": found["scenario"], "scheme": found["scheme"], "variant": found["variant"],
        "memory": found["memory"], "strategy": parameter, "schedules": int(statistics.median_high(counts)),
        "preemptions": violation["preemptions"], "invariant": violation["invariant"], "schedule": violation["schedule"],
    }


def as_expected(result: dict[str, Any]) -> bool:
    """A protection is missed when it is taken away, unless it is a spare one."""
    return bool(result["killed"]) != (result["group"] == SPARE)


def keep(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes a file for each mutant that was noticed."""
    folder.mkdir(exist_ok=True)
    for result in results:
        if result["killed"]:
            comments = [f"{result['mutant']}: {result['missing']}", f"killed by {result['invariant']}, preemptions: "
                        f"{result['preemptions']}; written by check --mutants --keep"]
            schedule.write(folder / f"{result['mutant']}.txt", comments, [schedule.parse(result["schedule"])])
