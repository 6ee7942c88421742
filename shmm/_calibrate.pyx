"""What one process of a calibration does (shmm/arch/calibrate.h); shmm.cluster.calibrate starts them and judges."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "calibrate.h" nogil:
    const int CAL_PROCESSES, CAL_VALUES, CAL_NMETHODS
    const char *const cal_names[1]
    ctypedef struct cal_result_t:
        double value[1]
        uint64_t ops, losses
        int64_t voluntary, involuntary
        int32_t status, finished
    ctypedef struct cal_area_t:
        cal_result_t result[1]
    int cal_run(cal_area_t*, int, uint32_t, uint32_t, unsigned char*, size_t) noexcept


def methods():
    """The names of the methods there are."""
    return tuple([cal_names[i].decode() for i in range(CAL_NMETHODS)])


def area_size():
    """Bytes of the memory that the processes of a launch share: zeros, at a multiple of 128."""
    return sizeof(cal_area_t)


def most_processes():
    """How many processes a launch can have."""
    return CAL_PROCESSES


cdef cal_area_t *area_of(unsigned char[::1] area, int role) except NULL:
    """The area in a buffer.  Raises ValueError if it is none, or if nobody can have that role."""
    if area.shape[0] < <Py_ssize_t> sizeof(cal_area_t) or <size_t> &area[0] % 128:
        raise ValueError(f"an area is {sizeof(cal_area_t)} bytes at a multiple of 128: use mmap.mmap(-1, area_size())")
    if not 0 <= role < CAL_PROCESSES:
        raise ValueError(f"there is no role {role}: a launch has at most {CAL_PROCESSES} processes")
    return <cal_area_t *> &area[0]


def measure(unsigned char[::1] area not None, str method not None, int role, int processes,
            unsigned char[::1] buffer=None):
    """Executes a method in a role, together with the other processes of the launch, and leaves the report in the area.

    buffer: private memory, for methods about pages or memory, a multiple of 4096 bytes.  Returns 0 or a negative
    errno; ends within seconds whatever the others do.  Raises ValueError for a method that does not exist."""
    cdef cal_area_t *shared = area_of(area, role)
    cdef unsigned char *memory = NULL
    cdef size_t size = 0
    cdef int number, status
    if method not in methods():
        raise ValueError(f"there is no method {method!r}; there are {', '.join(methods())}")
    number = methods().index(method)
    if buffer is not None:
        memory, size = &buffer[0], buffer.shape[0]
    with nogil:
        status = cal_run(shared, number, role, processes, memory, size)
    return status


def report(unsigned char[::1] area not None, int role):
    """What the process in this role has left in the area, or None if it has not come to an end.

    values: ns unless the method says otherwise; ops, losses; voluntary, involuntary: context switches; status."""
    cdef cal_result_t *out = &area_of(area, role).result[role]
    if not out.finished:
        return None
    return {
        "values": tuple([out.value[i] for i in range(CAL_VALUES)]), "ops": out.ops, "losses": out.losses,
        "voluntary": out.voluntary, "involuntary": out.involuntary, "status": out.status,
    }
