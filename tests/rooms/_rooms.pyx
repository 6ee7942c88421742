"""The shipped native engine, and exercisers of single rooms on its Cpu.

Each process of a test calls one exerciser with its own Cpu.  Exercisers that race take the number of parties, which
all wait for each other first, and a deadline (`until`, in ns of the monotonic clock) after which they return; they
count what went wrong instead of stopping."""

include "_fast.pyx"
include "words.pxi"
include "locks.pxi"
include "grace.pxi"
include "interrupts.pxi"
include "objects.pxi"
