# What every engine tells Python of the layout, the counters and the operations.  Included by engine.pxi.

cdef extern from "layout_fields.h" nogil:
    ctypedef struct shmm_field_t:
        const char *structure
        const char *name
        size_t offset, size, item
        int is_signed
        const char *nested
    ctypedef struct shmm_struct_t "__typeof__(shmm_structs[0])":
        const char *name
        size_t size
    const shmm_field_t shmm_fields[1]
    const size_t shmm_nfields, shmm_nstructs
    const shmm_struct_t shmm_structs[1]
    const char *const shmm_counter_names[1]
    const char *const shmm_op_names[1]


def layout_fields():
    """Every field of every shared structure as C sees it.

    Returns a list of (structure, field, offset, size, item size or 0, signed, nested structure or None), bytes."""
    out = []
    for i in range(shmm_nfields):
        f = &shmm_fields[i]
        nested = None if f.nested == NULL else (<bytes> f.nested).decode()
        out.append(((<bytes> f.structure).decode(), (<bytes> f.name).decode(), f.offset, f.size, f.item,
                    bool(f.is_signed), nested))
    return out


def struct_sizes():
    """The size in bytes of every shared structure, by name."""
    return {(<bytes> shmm_structs[i].name).decode(): shmm_structs[i].size for i in range(shmm_nstructs)}


def counter_names():
    """The counters' names, in the order of cpu_t.counter."""
    return tuple((<bytes> shmm_counter_names[i]).decode() for i in range(L.SHMM_NCOUNTER))


def op_names():
    """The operations' names, in the order of their codes (program.h)."""
    return tuple((<bytes> shmm_op_names[i]).decode() for i in range(L.SHMM_OP_EXIT + 1))


def constants():
    """The figures of layout.h and program.h that Python needs, without their prefix."""
    return {
        "MAGIC": L.SHMM_MAGIC, "VERSION": L.SHMM_VERSION, "PAGE_SIZE": L.SHMM_PAGE_SIZE,
        "TASK_SIZE": L.SHMM_TASK_SIZE, "MMAP_BASE": L.SHMM_MMAP_BASE, "BRK_BASE": L.SHMM_BRK_BASE,
        "MAX_CPU": L.SHMM_MAX_CPU, "MAX_MM": L.SHMM_MAX_MM, "MAX_NODE": L.SHMM_MAX_NODE, "MAX_HUGE": L.SHMM_MAX_HUGE,
        "PCP_HIGH": L.SHMM_PCP_HIGH,
        "HIST_BUCKETS": L.SHMM_HIST_BUCKETS, "VMA_POISON": L.SHMM_VMA_POISON,
        "SIGBUS": L.SHMM_SIGBUS, "STOPPED": L.SHMM_STOPPED,
        "IRQ_OFF": L.SHMM_IRQ_OFF, "KERNEL": L.SHMM_KERNEL, "ASLEEP": L.SHMM_ASLEEP,
        "VM_READ": L.SHMM_VM_READ, "VM_WRITE": L.SHMM_VM_WRITE, "VM_EXEC": L.SHMM_VM_EXEC,
        "VM_SHARED": L.SHMM_VM_SHARED, "VM_MAYSHARE": L.SHMM_VM_MAYSHARE, "VM_MAYREAD": L.SHMM_VM_MAYREAD,
        "VM_MAYWRITE": L.SHMM_VM_MAYWRITE, "VM_MAYEXEC": L.SHMM_VM_MAYEXEC, "VM_GROWSDOWN": L.SHMM_VM_GROWSDOWN,
        "VM_ACCOUNT": L.SHMM_VM_ACCOUNT, "VM_LOCKED": L.SHMM_VM_LOCKED, "VM_PFNMAP": L.SHMM_VM_PFNMAP,
        "VM_IO": L.SHMM_VM_IO, "VM_DONTEXPAND": L.SHMM_VM_DONTEXPAND, "VM_DONTDUMP": L.SHMM_VM_DONTDUMP,
        "VM_UFFD_MISSING": L.SHMM_VM_UFFD_MISSING, "VM_UFFD_WP": L.SHMM_VM_UFFD_WP,
        "OPF_EXPECT": L.SHMM_OPF_EXPECT, "OPF_MAY_FAIL": L.SHMM_OPF_MAY_FAIL, "OPF_WRITE": L.SHMM_OPF_WRITE,
        "UFFDIO_READ": L.SHMM_UFFDIO_READ, "UFFDIO_POLL": L.SHMM_UFFDIO_POLL, "UFFDIO_COPY": L.SHMM_UFFDIO_COPY,
        "UFFDIO_ZEROPAGE": L.SHMM_UFFDIO_ZEROPAGE, "UFFDIO_WRITEPROTECT": L.SHMM_UFFDIO_WRITEPROTECT,
        "UFFDIO_UNPROTECT": L.SHMM_UFFDIO_UNPROTECT, "UFFDIO_WAKE": L.SHMM_UFFDIO_WAKE,
        "OPF_COUNT": L.SHMM_OPF_COUNT, "REGS": L.SHMM_REGS,
    }
