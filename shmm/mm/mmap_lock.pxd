"""The mmap locking API (include/linux/mmap_lock.h): the rwsem and the sequence count, always together.

Every writer of the address space goes through here, so that no writer can forget to tell the speculators.  Odd from
mmap_write_lock to mmap_write_unlock *or* mmap_write_downgrade: after a downgrade the holder is a reader, and munmap
tears down page tables with the count even."""

from shmm.arch.arch cimport ld64_relaxed
from shmm.layout cimport SHMM_C_reader_beside_writer, SHMM_C_violations, mm_t, vcpu_t
from shmm.mm.rwsem cimport down_read, down_write, downgrade_write, up_read, up_write
from shmm.mm.seqcount cimport mmap_seq_downgrade, mmap_seq_write_begin, mmap_seq_write_end
from shmm.mm.vmstat cimport count_vm_event


cdef inline void mmap_write_lock(vcpu_t *c, mm_t *mm) noexcept nogil:
    down_write(c, &mm.mmap_lock)
    mmap_seq_write_begin(mm)


cdef inline void mmap_write_unlock(vcpu_t *c, mm_t *mm) noexcept nogil:
    mmap_seq_write_end(mm)
    up_write(c, &mm.mmap_lock)


cdef inline void mmap_write_downgrade(vcpu_t *c, mm_t *mm) noexcept nogil:
    mmap_seq_downgrade(mm)
    downgrade_write(c, &mm.mmap_lock)


cdef inline void mmap_read_lock(vcpu_t *c, mm_t *mm) noexcept nogil:
    down_read(c, &mm.mmap_lock)
    if c.g.paranoid and ld64_relaxed(&mm.mmap_seq) & 1:         # a writer holds it, too
        count_vm_event(c, SHMM_C_reader_beside_writer)
        count_vm_event(c, SHMM_C_violations)


cdef inline void mmap_read_unlock(vcpu_t *c, mm_t *mm) noexcept nogil:
    up_read(c, &mm.mmap_lock)
