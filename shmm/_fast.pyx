"""The native engine: the rooms compiled for real processes and the wall clock."""

from libc.stdint cimport uint64_t
from libc.string cimport memset as c_memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap as host_mmap, munmap as host_munmap,
)
from posix.signal cimport sigaction, sigaction_t, sigemptyset, SA_RESTART

include "engine.pxi"

cdef extern from "sys/mman.h" nogil:
    int madvise(void*, size_t, int)
    const int MADV_NOHUGEPAGE

cdef extern from "arch.h" nogil:
    int shmm_native_shared_core
    int doorbell_signal() noexcept


# The signal delivery interrupts this process, and a handler has no argument to find its CPU by: the one process-wide
# variable of the native engine.
cdef vcpu_t *doorbell_cpu = NULL


cdef void doorbell_handler(int signo) noexcept nogil:
    if doorbell_cpu != NULL and get32(&doorbell_cpu.me.irq_depth) == 0:
        irq_handle_pending(doorbell_cpu)


cdef void engine_online(vcpu_t *c) noexcept:
    """This process is CPU c from now on: its time sharing, its interrupt line."""
    global shmm_native_shared_core, doorbell_cpu
    cdef sigaction_t action
    shmm_native_shared_core = c.g.shared_core
    doorbell_cpu = c
    c_memset(&action, 0, sizeof(action))
    action.sa_handler = doorbell_handler
    action.sa_flags = SA_RESTART
    sigemptyset(&action.sa_mask)
    sigaction(doorbell_signal(), &action, NULL)


cdef void engine_offline(vcpu_t *c) noexcept:
    """The executor goes away; a late interrupt must not find it."""
    global doorbell_cpu
    if doorbell_cpu == c:
        doorbell_cpu = NULL


def host_anonymous_fault_ns(size_t pages, int rounds=5):
    """What one anonymous write fault costs on the host's own kernel, page by page, huge pages off.

    Returns the least nanoseconds per page over `rounds` fresh mappings of `pages` pages.  Raises MemoryError."""
    cdef size_t length = pages * 4096
    cdef uint64_t best = ~(<uint64_t> 0)
    cdef uint64_t start
    cdef size_t i
    cdef unsigned char *p
    for _ in range(rounds):
        p = <unsigned char *> host_mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if p == <unsigned char *> MAP_FAILED:
            raise MemoryError(f"the host has no {length} bytes for the comparison: ask for fewer pages")
        with nogil:
            madvise(p, length, MADV_NOHUGEPAGE)
            start = now_ns()
            for i in range(pages):
                p[i * 4096] = 1
            start = now_ns() - start
            host_munmap(p, length)
        best = min(best, start)
    return best / <double> pages
