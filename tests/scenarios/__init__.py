"""Scenarios for the schedule explorer: one small file each, and the name of the file is the scenario's.

A scenario's file holds

    its docstring          whose first line is what `shmm check --list` says
    build(s)               fills in s.setup[i] and s.cpu[i], the Programs of CPU i, s.files and s.swap_pages (see Scene)
    variants               optional: the policy variants under which it is explored; ("base",) otherwise
    policy                 optional: further fields of the machine's policy, {"queued_spinlocks": 1}; nodes, too
    never                  optional: counters that no schedule may move, ("SPF_ABORT_UNMAPPED",)

Every operation costs: the number of schedules grows with the accesses to the power of the bound.  So each CPU executes
as few operations as show the race, on single pages; all that comes before belongs into s.setup, which is run once.
"""
