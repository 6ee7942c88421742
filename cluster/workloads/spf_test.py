"""spf_test: each task maps V areas of P pages and writes them, unmapping none, and is then done."""

from shmm.cluster.workloads import ANON, PAGE, RW, Program, Task, WorkloadError

description = "V times: mmap P pages, write them; ends (op: a page); --workload-args 'V [P]'"
finite = True


def vmas(cpus: int, pages: int) -> int:
    return min(65530, cpus * pages)


def build(task: Task) -> Program:
    try:
        words = [int(word) for word in task.args] or [64]
        times, pages = words[0], words[1] if words[1:] else task.pages // words[0]
    except (ValueError, ZeroDivisionError):
        times = pages = 0
    if len(task.args) > 2 or times < 1 or not 1 <= times * pages <= task.pages:
        raise WorkloadError(f"spf_test takes the number of areas and their pages, {task.pages} pages in all")
    p = task.thread()
    with p.repeat(times, 2):
        p.mmap(0, pages * PAGE, RW, ANON, dst=1)
        p.touch(0, pages, base=1)
    return p
