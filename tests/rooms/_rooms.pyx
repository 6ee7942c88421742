"""The shipped native engine, and exercisers of single rooms on its Cpu.

Each process of a test calls one exerciser with its own Cpu.  Exercisers that race take the number of parties, which
all wait for each other first, and a time `ns` after which they return; they do what they do at least once, and count
what goes wrong instead of stopping."""

include "_fast.pyx"
include "words.pxi"
include "locks.pxi"
include "grace.pxi"
include "interrupts.pxi"
include "objects.pxi"
