"""Policies: which of several interchangeable rooms a segment's machine works with, by their names."""

from __future__ import annotations

from typing import Final

# Names of policies (the command line's and Machine's) -> the header's field and the values by name.
POLICIES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "scheme": ("scheme", ("mmap_lock", "spf")),
    "walk": ("walk_policy", ("irq", "rcu")),
    "table_free": ("table_free_policy", ("ipi", "rcu")),
    "ipi": ("ipi_policy", ("mailbox", "signal")),
    "vma_free": ("vma_free_policy", ("auto", "rcu")),
    "vma_tree": ("vma_tree", ("rbtree", "latched")),
    "thp": ("thp", ("never", "madvise", "always")),
    "collapse": ("collapse_policy", ("write", "read")),
    "fast_mremap": ("fast_mremap", ("single", "off", "locked")),
}
NUMBERS: Final = ("force_speculation", "zeroing", "paranoid", "fault_around", "shared_core", "queued_spinlocks",
                  "rcu_poll_every", "stack_growth", "thp_align", "max_map_count", "rlimit_as", "rlimit_stack",
                  "totalram", "mmu_notifier", "preempt_rt")


def resolve_policy(**policy: int | str | bool) -> dict[str, int]:
    """The header's policy fields from names: scheme=mmap_lock|spf, walk=irq|rcu, table_free=ipi|rcu,
    ipi=mailbox|signal, vma_free=auto|rcu, vma_tree=rbtree|latched, thp=never|madvise|always, collapse=write|read,
    fast_mremap=single|off|locked, and the numbers of NUMBERS.

    The header's own field names and values do as well.  Raises ValueError for what does not exist, and for
    the combinations that would be unsafe.
    """
    known = dict(POLICIES) | {field: (field, names) for field, names in POLICIES.values()}
    out: dict[str, int] = {}
    for key, value in policy.items():
        if key in NUMBERS:
            if isinstance(value, str) or not 0 <= value < 2**32:
                raise ValueError(f"{key} {value!r} is not a number that fits 32 bits")
            out[key] = int(value)
        elif key in known:
            field, names = known[key]
            if value not in names and value not in range(len(names)):
                raise ValueError(f"{key} {value!r} does not exist, choose from {', '.join(names)}")
            out[field] = names.index(value) if isinstance(value, str) else int(value)
        else:
            raise ValueError(f"there is no policy {key!r}, choose from {', '.join((*POLICIES, *NUMBERS))}")
    if out.get("walk_policy", 0) == 1 and out.get("table_free_policy", 0) == 0:
        raise ValueError(
            "walk rcu needs table_free rcu: an RCU walker keeps interrupts on, so the interrupt by which "
            "table_free ipi waits for walkers does not wait for this one, and its table is freed under it"
        )
    if out.get("collapse_policy", 0) == 1 and out.get("table_free_policy", 0) == 0:
        raise ValueError(
            "collapse read needs table_free rcu: a fault that holds mmap_lock for read too may still look into the "
            "table that a collapse took, and with table_free ipi nothing waits for it"
        )
    return out
