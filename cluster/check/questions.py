"""What reviewers asked, answered by exploring.

A question names the scenarios that show its matter, and the protections it is about: first the protocol as it is is
explored under both schemes, then each protection is taken away where its absence shows (mutants.py), and the
counterexample is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shmm.cluster.check import mutants
from shmm.cluster.check.explore import Task
from shmm.cluster.check.schedule import Schedule
from shmm.cluster.config import SCHEMES

LORE = "lore.kernel.org/r/"
V2 = "20220128131006.67712-1-michel@lespinasse.org"


class QuestionError(ValueError):
    """There is no such question."""


@dataclass(frozen=True)
class Question:
    """One question and how exploring answers it."""

    name: str
    asked: str
    by: str
    source: str
    scenarios: tuple[str, ...]
    mutants: tuple[str, ...]            # what to take away, one after the other
    answer: str
    variants: tuple[str, ...] = ("base",)
    memory: tuple[str, ...] = ("sc",)
    bound: int = 2
    without: tuple[str, ...] = ()       # variants in which protections are taken away; (): those of mutants.py


QUESTIONS: dict[str, Question] = {question.name: question for question in (
    Question(
        name="rbtree-descent",
        asked="A lockless descent of the rbtree does not oops?  How do we know that each pointer is the right one, "
              "with nodes being torn down?",
        by="Andrew Morton, 31 January 2022; answered by Matthew Wilcox",
        source=LORE + "20220131171434.89870a8f1ae294912e7ff19e@linux-foundation.org",
        scenarios=("fault_munmap", "unlink_on_the_way", "recycled_vma", "split_merge", "reader_across_grace"),
        mutants=("VMA_FREE_NOW", "VMA_LINKS_REUSED", "PUBLISH_VMA", "SEQ_BOTH"),
        answer="It need not be the right one.  Every link leads to a VMA that is readable for a grace period and "
               "never back up (T1 to T3 in mm/vma_tree.pxd), so the descent ends somewhere; where, does not matter, "
               "for a writer that was about has moved mmap_seq, and then the result is thrown away.  Without the "
               "grace period, with the links reused, or with nodes linked before they are filled, it runs into freed "
               "memory or in circles; without the count, a page ends up outside any mapping.",
    ),
    Question(
        name="vma-free",
        asked="Must VMAs be freed by RCU, or would type-stable slots (SLAB_TYPESAFE_BY_RCU) do?",
        by="the series itself, 11/35",
        source=LORE + V2,
        scenarios=("reader_across_grace", "unlink_on_the_way"), mutants=("VMA_FREE_NOW", "RCU_READER_IGNORED"),
        answer="With slots that are free at once, a descent reads a VMA that has been freed: harmless only as long "
               "as nobody ever looks at more than the count can void.  The grace period makes the rule simple: what "
               "was found in an RCU section may be read to its end.",
    ),
    Question(
        name="irq-off",
        asked="What do disabled interrupts protect in the page-table walk, and need they be disabled at all?",
        by="Matthew Wilcox, 1 February 2022; Andrew Morton asked what it means under PREEMPT_RT",
        source=LORE + "YfiY9zRm8BhSp7eA@casper.infradead.org",
        scenarios=("table_free_walk", "upper_tables_free"), variants=("base", "rcu"),
        mutants=("WALK_UNPROTECTED", "TABLE_FREE_NOW", "IPI_ACK_LOST", "SEQ1"),
        answer="They keep the tables' memory, and nothing else: tables are freed after a shootdown, which waits for "
               "every CPU with interrupts off.  An RCU section does as well if tables are freed by RCU (variant "
               "rcu); both are exhausted here.  Whether what was read is still true is SEQ1's and SEQ2's business.",
    ),
    Question(
        name="ptl-trylock",
        asked="Why is the page-table lock only tried, and the fault given up when it is taken?",
        by="the series itself, 17/35; Sebastian Siewior: no regular spin_lock may appear in that section",
        source=LORE + "YflrLpx3gpRMcu6p@linutronix.de",
        scenarios=("flush_under_ptl", "two_faults"), variants=("base",), mutants=("PTL_SPIN", "PTL_LOOP"),
        answer="Whoever zaps dirty pages of a shared file flushes under that lock and waits for every CPU with "
               "interrupts off.  A speculator that waits for the lock with interrupts off is such a CPU: the two "
               "wait for each other.",
    ),
    Question(
        name="single-sequence-check",
        asked="The count is looked at four times.  Which of these looks are needed?",
        by="the series itself, 13/35 and 17/35; Peter Zijlstra called the count excessive",
        source=LORE + "YG3GBhvVt2cQkZVz@hirez.programming.kicks-ass.net",
        scenarios=("fault_munmap", "fault_mprotect", "fault_map_fixed", "upper_tables_free"),
        mutants=("ODD", "SEQ1", "SEQ2", "SEQ_BOTH", "SEQ_PARITY_ONLY"),
        answer="Three of four.  Oddness at the start: a fault that begins inside a writer's section sees no change.  "
               "SEQ1: else the lock that is tried may lie in a table that is gone.  SEQ2, under the lock: else a "
               "writer slips in between.  The look after the copy alone can go (VMA_COPY, docs/checking.md): it "
               "saves work.",
    ),
    Question(
        name="downgrade",
        asked="munmap tears down under the read lock, with the count even.  Why does no speculator mistake that for "
              "peace?",
        by="the series itself, 10/35",
        source=LORE + V2,
        scenarios=("fault_munmap", "downgrade_window", "table_free_walk"),
        mutants=("DOWNGRADE_EVEN", "DOWNGRADE_EARLY", "SEQ_SILENT"),
        answer="Because the downgrade moves the count on, by two in all, and comes after the VMAs have left the "
               "tree: who began before finds another number, who begins after finds no VMA.  Either alone is not "
               "enough.",
    ),
    Question(
        name="per-vma-memcmp",
        asked="One count for the whole address space aborts for any change anywhere.  Why not compare the VMA with "
              "the copy?",
        by="Peter Zijlstra, 7 April 2021; answered by Michel Lespinasse",
        source=LORE + "YG3GBhvVt2cQkZVz@hirez.programming.kicks-ass.net",
        scenarios=("mprotect_back", "table_free_walk", "cow_aba"), mutants=("VMA_MEMCMP",),
        answer="A comparison misses what changed and changed back, and sees nothing of a munmap that has not yet "
               "touched the VMA it looks at.  Comparing needs a count per VMA to be sound, which is another scheme.",
    ),
    Question(
        name="ptlock-free",
        asked="Where the page-table lock is allocated apart from struct page, it is freed with the table, before any "
              "grace period.  Does a speculator lock freed memory?",
        by="David Hildenbrand, 31 January 2022; no answer in the thread",
        source=LORE + "1bfec16f-76c6-9beb-26b2-ca508baa76a3@redhat.com",
        scenarios=("table_free_walk", "upper_tables_free"), variants=("base", "rcu"), mutants=("PTL_FREED",),
        answer="Yes, if it is freed then: the counterexample tries the lock between SEQ1 and SEQ2.  With the lock "
               "inside the frame's record, which is never anything else, SEQ2 fails and nothing was harmed.",
    ),
    Question(
        name="table-free-fallback",
        asked="Where tables are freed by RCU and no page can be had to collect them in, the kernel interrupts every "
              "CPU and frees the table at once.  Is that enough for a walk under rcu_read_lock?",
        by="nobody in the thread; mm/mmu_gather.c says of that interrupt that it is no RCU grace period",
        source=LORE + V2,
        scenarios=("table_free_walk", "upper_tables_free"), variants=("rcu", "both"),
        mutants=("TABLE_FREE_FALLBACK",),
        answer="No.  The interrupt waits for CPUs that have interrupts off, and a walk under RCU alone has them on: it "
               "reads a table that is free.  A walk with interrupts off is safe even then (variant both).  So the "
               "series' choice, rcu_read_lock wherever tables are freed by RCU, has a hole when memory is short.",
    ),
    Question(
        name="notifier-registration",
        asked="A speculative copy-on-write takes mmu_notifier_lock, a lock for each address space.  What for, when "
              "registering a notifier moves mmap_seq already?",
        by="the series itself, 23 to 26/35: v1 had the race",
        source=LORE + V2,
        scenarios=("cow_notifier", "secondary_cow", "secondary_zap"),
        mutants=("NOTIFIER_NO_LOCK", "NOTIFIER_REGISTER_NO_LOCK", "NOTIFIER_REGISTER_NO_MMAP_LOCK", "NOTIFIER_UNTOLD"),
        answer="mmap_seq stops a speculator that has not passed SEQ2.  One that has sees nothing any more: it found no "
               "client and told nobody, the client registers, looks up the old page without any lock and keeps it, or "
               "hears of an end that had no start.  The lock's grace period alone outlasts the change of the pte where "
               "the page-table lock keeps preemption off; the end behind it, and all of it under PREEMPT_RT, needs the "
               "reader's side.  mmap_lock for write is what classical faults need, and not enough for these.",
    ),
    Question(
        name="preempt-rt",
        asked="Interrupts are off in the walk.  What does that mean under PREEMPT_RT, where spinlocks sleep?",
        by="Andrew Morton, 31 January 2022; answered by Sebastian Siewior",
        source=LORE + "YflrLpx3gpRMcu6p@linutronix.de",
        scenarios=("flush_under_ptl", "two_faults"), variants=("rt",), mutants=("PTL_SPIN",), without=("rt",),
        answer="That no spinlock may be waited for there, and none is: the page-table lock is only tried, which may be "
               "done anywhere outside an interrupt handler.  A plain spin_lock in its place would sleep with "
               "interrupts off; the rule (I8) reports it at the first use, contended or not.  Elsewhere waiters sleep, "
               "holders may be preempted, and nothing of the protocol minds.",
    ),
    Question(
        name="cow-aba",
        asked="One thread copies a shared page; another gets it for itself, stores to it, and has it shared once "
              "more.  VMA and pte are as before: does the copy overwrite the store?",
        by="Michel Lespinasse, 30 April 2021",
        source=LORE + "20210430224649.GA29203@lespinasse.org",
        scenarios=("cow_aba", "cow_aba_fork"), mutants=("PTE_SAME", "COW_ABA"),
        answer="Not here.  Two things stand in the way, and both must go before the store is lost (COW_ABA).  The "
               "count: whoever write-protects the page again is a writer, and SEQ1 or SEQ2 fails.  And the reference "
               "that the copying thread holds: a page is written in place only by its one holder, so the other thread "
               "copies, too, and the pte is another.  In kernels that count mappings instead of references (before "
               "5.9) only the count is left, as he says.  His mprotect back and forth gives the permission back by "
               "itself since 6.1 and changes the pte; a fork does not.  The comparison of the pte is needed against "
               "copies that move no count (PTE_SAME).",
    ),
    Question(
        name="read-lock-writers",
        asked="MADV_DONTNEED changes ptes under the read lock and does not move the count.  What orders it with a "
              "speculator?",
        by="the series itself (facts that follow from 10/35)",
        source=LORE + V2,
        scenarios=("fault_dontneed", "two_faults", "flush_under_ptl"), mutants=("ZAP_NO_LOCK", "PTE_NONE", "PTE_SAME"),
        answer="The page-table lock alone, and the look at the pte under it.  Without either, a page is lost or two "
               "take one place.",
    ),
    Question(
        name="fast-mremap",
        asked="mremap moves whole page tables, and takes only the locks of the upper levels.  What keeps a speculator "
              "out that holds the lock of the table itself?",
        by="Kalesh Singh, for Android, where it was a use after free",
        source="gerrit-public.fairphone.software, kernel/msm-4.19, 81bae4ededd1443b723011480a6c071e35f9415e",
        scenarios=("mremap_pmd_move", "mremap_fault", "mremap_store"),
        mutants=("MREMAP_PMD_MOVE", "MREMAP_NO_PTL", "MREMAP_NO_FLUSH"),
        answer="Nothing: past SEQ2 a speculator trusts that whoever changes its table takes the table's "
               "lock.  One that copies a page writes it into a table that maps another address by then, and "
               "flushes the old address: who has read at the new one goes on reading what was before.  So a "
               "table may move whole only if nobody can speculate (fast_mremap=single, Android's rule), or "
               "with its lock held (fast_mremap=locked, which is what is exhausted here); else pte by pte, "
               "under both locks, flushed before either is dropped.",
    ),
    Question(
        name="barriers",
        asked="Which barriers does the count need?  Would the kernel's seqcount API say it better?",
        by="Sebastian Siewior, 1 February 2022",
        source=LORE + "YflrLpx3gpRMcu6p@linutronix.de",
        scenarios=("fault_mprotect", "fault_munmap"), memory=("sc", "tso", "weak"), bound=1,
        mutants=("RMB_START", "WMB_END"),
        answer="The pair around the new even count: the writer's before it, the reader's after it.  The other pair "
               "stands beside the page-table lock's release and acquire, which order as much where it matters "
               "(docs/checking.md).  x86 shows neither.",
    ),
    Question(
        name="thp-collapse",
        asked="pte_map_lock compares the pmd entry with what was walked, against a collapse into a huge page.  What "
              "does that add to the two looks at the count?",
        by="the series itself, 17/35",
        source=LORE + V2,
        scenarios=("fault_collapse", "fault_collapse_read", "collapse_dontneed"), variants=("base", "rcu"),
        mutants=("PMD_SAME", "PMD_UNDER_PTL", "DEPOSIT_FREE_NOW", "COLLAPSE_NO_FLUSH"),
        answer="Nothing, as long as a collapse holds mmap_lock for write: the count moves.  If it held it for read "
               "(fault_collapse_read), the entry alone would tell; one look before the lock is enough if the walk "
               "has interrupts off, for the collapse's flush waits for it, and not if the walk is an RCU section: then "
               "it must be looked at under the lock.  And such walks may read a table that is freed straight from the "
               "deposit, as zap_deposited_table does: that has to wait for a grace period.",
    ),
    Question(
        name="fast-gup",
        asked="get_user_pages_fast walks with interrupts off, and the speculative fault leans on that precedent.  What "
              "does it need them for that a speculative fault does not?",
        by="the series itself, 14/35; Andy Lutomirski, April 2021",
        source=LORE + V2,
        scenarios=("gup_munmap", "gup_collapse", "gup_copy"),
        mutants=("GUP_IRQ_ON", "COLLAPSE_NO_FLUSH"),
        answer="For the table's memory, both alike.  But a speculator commits under the table's lock and looks at the "
               "count there; a pin is taken with no lock at all, so that nothing else says that the frame is still "
               "the page's: interrupts that hold off the flush do (x86 had nothing more until 4.13), or a second look "
               "at the entries, without which only a machine can do whose every flush interrupts (GUP_NO_RECHECK, "
               "docs/checking.md).",
    ),
    Question(
        name="shootdown",
        asked="Is it sure that no stale translation is used once munmap has returned, also by a CPU that takes "
              "interrupts late?",
        by="the mission of this laboratory",
        source="shmm/mm/ipi.pxd, shmm/mm/irq.pxd",
        scenarios=("shootdown_late", "shootdown_reuse", "mprotect_late"), variants=("base", "signal"),
        mutants=("IPI_LOST", "IPI_ACK_LOST", "MAILBOX_UNREAD", "MB_SENDER", "MB_TARGET", "FREE_BEFORE_FLUSH",
                 "FLUSH_BEFORE_ZAP", "MPROTECT_NO_FLUSH"),
        answer="Yes, for both deliveries.  Requests are posted before the sender looks who has interrupts off, and a "
               "CPU looks into its mailbox after it has said that they are: with either full barrier gone, a store "
               "buffer is enough for both to look past each other.",
    ),
)}


def find(name: str) -> Question:
    """The question of this name.  Raises QuestionError."""
    if name not in QUESTIONS:
        raise QuestionError(f"there is no question {name!r}; there are {', '.join(QUESTIONS)}")
    return QUESTIONS[name]


def introduction(question: Question, width: int = 118) -> list[str]:
    """What is asked, and by whom."""
    return [*textwrap.wrap(question.asked, width), f"    {question.by}", f"    {question.source}", ""]


def tasks(question: Question, seed: int = 1) -> list[Task]:
    """The protocol as it is under both schemes, then without each protection, where that shows."""
    whole = [Task(scenario, scheme, variant, memory, bound=question.bound)
             for scenario in question.scenarios for scheme in SCHEMES for variant in question.variants
             for memory in question.memory]
    return whole + [replace(task, variant=variant) for mutant in mutants.tasks(question.mutants, seed)
                    for task in mutants.places(mutant) for variant in question.without or (task.variant,)]


def first_of_each_mutant(schedules: Sequence[Schedule]) -> list[Schedule]:
    """Of the schedules that break something, the first without each protection."""
    out: dict[str, Schedule] = {}
    for one in schedules:
        out.setdefault(one.mutant, one)
    return list(out.values())


def as_expected(question: Question, runs: Sequence[dict[str, Any]]) -> bool:
    """Whether nothing breaks as it is, and something does without each protection."""
    broken = {run["mutant"] for run in runs if run["violation"] is not None}
    return None not in broken and set(question.mutants) <= broken


def explored(question: Question, runs: Sequence[dict[str, Any]]) -> str:
    """What the answer rests on, in one line."""
    whole = [run for run in runs if run["mutant"] is None]
    how = "exhausted" if all(run["exhausted"] for run in whole) else "not exhausted"
    done = sum(run["schedules"] for run in whole)
    return (f"explored: {done:,} schedules of {len(question.scenarios)} scenarios, both schemes, up to "
            f"{question.bound} deviations ({how}), memory {', '.join(question.memory)}")
