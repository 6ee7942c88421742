"""mmap_seq: the per-mm sequence count of v2 10/35.

Odd while a writer is at work.  Writers are serialised by mmap_lock, so they increment with plain arithmetic; readers
write nothing, which is the whole point: a speculative fault dirties no shared line.  A reader that finds it odd or
changed gives up, it never waits.

    writer                                  reader
    seq = odd                               s = seq            (mmap_seq_read_start)
    wmb            ----- A -----            rmb
    change VMAs                             look at VMAs
    wmb            ----- B -----            rmb
    seq = even                              seq == s ?         (mmap_seq_read_check)

A pairs with the reader's second rmb: who saw any of the changes sees at least the odd count.  B pairs with the first:
who starts from the new even count sees all of the changes.

mmap_write_downgrade also ends the write section: the count is even while munmap tears page tables down under the
downgraded lock, and a speculator that read it before the munmap fails because the count has moved by two.
Changes made under the read lock (faults, MADV_DONTNEED) are not visible here; for those there is the ptl."""

from shmm.arch.arch cimport ld64_relaxed, mutant, smp_rmb, smp_wmb, st64_relaxed, u64
from shmm.arch.mutants cimport (
    SHMM_M_DOWNGRADE_EVEN, SHMM_M_RMB_CHECK, SHMM_M_RMB_START, SHMM_M_SEQ_PARITY_ONLY, SHMM_M_SEQ_SILENT,
    SHMM_M_WMB_BEGIN, SHMM_M_WMB_END,
)
from shmm.layout cimport mm_t


cdef inline void mmap_seq_add(mm_t *mm, u64 n) noexcept nogil:
    if not mutant(SHMM_M_SEQ_SILENT):
        st64_relaxed(&mm.mmap_seq, ld64_relaxed(&mm.mmap_seq) + n)


cdef inline void mmap_seq_write_begin(mm_t *mm) noexcept nogil:
    mmap_seq_add(mm, 1)
    if not mutant(SHMM_M_WMB_BEGIN):
        smp_wmb()   # A: pairs with the rmb in mmap_seq_read_check


cdef inline void mmap_seq_close(mm_t *mm, u64 step) noexcept nogil:
    if not mutant(SHMM_M_WMB_END):
        smp_wmb()   # B: pairs with the rmb in mmap_seq_read_start
    mmap_seq_add(mm, step)


cdef inline void mmap_seq_write_end(mm_t *mm) noexcept nogil:
    mmap_seq_close(mm, 1)


cdef inline void mmap_seq_downgrade(mm_t *mm) noexcept nogil:
    """Forwards, never back to where it was: whoever began before this writer must still fail."""
    mmap_seq_close(mm, <u64> -1 if mutant(SHMM_M_DOWNGRADE_EVEN) else 1)


cdef inline u64 mmap_seq_read_start(mm_t *mm) noexcept nogil:
    """The count to compare with later; odd means that a writer is at work: do not start."""
    cdef u64 seq = ld64_relaxed(&mm.mmap_seq)
    if not mutant(SHMM_M_RMB_START):
        smp_rmb()   # pairs with B
    return seq


cdef inline bint mmap_seq_read_check(mm_t *mm, u64 seq) noexcept nogil:
    """Whether no mmap writer has run since mmap_seq_read_start returned seq."""
    cdef u64 now
    if not mutant(SHMM_M_RMB_CHECK):
        smp_rmb()   # pairs with A
    now = ld64_relaxed(&mm.mmap_seq)
    if mutant(SHMM_M_SEQ_PARITY_ONLY):
        return not now & 1
    return now == seq
