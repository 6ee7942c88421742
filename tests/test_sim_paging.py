"""Swap, NUMA hints and userfaultfd in virtual time: the same operations, charged for the accesses they make."""

from simulated import config, fine, job, simulated

from shmm.program import Program

PAGE, RW, ANON_FIXED, PAGEOUT = 4096, 3, 0x32, 21
ARENA = 0x2000_0000_0000
PAGES = 32


def filled() -> Program:
    p = Program()
    p.mmap(ARENA, PAGES * PAGE, RW, ANON_FIXED)
    p.touch(ARENA, PAGES, value=3)
    return p


def test_a_page_that_goes_out_and_comes_back_is_copied_twice():
    program = filled()
    program.madvise(ARENA, PAGES * PAGE, PAGEOUT)
    program.touch(ARENA, PAGES, write=False)
    program.load(ARENA, expect=3)
    here = filled()
    here.touch(ARENA, PAGES, write=False)
    away, stays = (fine(simulated(config(cpus=1), job(p, swap_pages=PAGES))) for p in (program, here))
    assert away.run["counters"]["pswpout"] == away.run["counters"]["pswpin"] == PAGES
    assert stays.ns("copy") == 0
    copies = fine(simulated(config(cpus=1), job(shared_and_written(), mms=2)))
    assert copies.run["counters"]["pgcopy"] == PAGES
    assert away.ns("copy") > 1.5 * copies.ns("copy") > 0


def shared_and_written() -> Program:
    """Each page is copied once."""
    p = filled()
    p.fork(2)
    p.touch(ARENA, PAGES, value=4)
    p.mm(2)                             # so that both come to an end
    return p


def test_a_page_moves_to_the_other_socket():
    one, two = filled(), Program()
    one.numa(ARENA, PAGES * PAGE)
    between = [Program() for _ in range(27)]                # the rest of the first socket's cores
    for p in (one, *between, two):
        p.barrier()
    two.touch(ARENA, PAGES, write=False)
    outcome = fine(simulated(config(cpus=29), job(one, *between, two)))
    counters = outcome.run["counters"]
    assert counters["numa_hint_faults"] == counters["numa_pages_migrated"] == PAGES
    assert counters["numa_hint_faults_local"] == 0


def test_one_cpu_answers_another():
    answers, faults = Program(), Program()
    answers.mmap(ARENA, PAGES * PAGE, RW, ANON_FIXED)
    answers.userfault(ARENA, PAGES * PAGE)
    for p in (answers, faults):
        p.barrier()
    with answers.repeat(PAGES, 1):
        answers.uffd_read(dst=2)
        answers.uffd_copy(0, PAGE, 9, base=2)
    for page in range(PAGES):
        faults.load(ARENA + page * PAGE, expect=9)
    outcome = fine(simulated(config(cpus=2), job(answers, faults)))
    assert outcome.run["counters"]["userfaults"] == PAGES
    assert outcome.run["counters"]["userfaultfd"] == 2 * PAGES + 1
    assert {entry["part"] for entry in outcome.run["time_stack"]} & {"sleep", "block", "wake", "asleep"}
