"""I6: no operation runs, so no lock is held, nobody is in line, mmap_seq is even and interrupts are on; and while they
ran nobody had mmap_lock for reading beside a writer (mm/mmap_lock.pxd looks, under --paranoid)."""

from shmm.arch.arch cimport get32, ld64_relaxed, u32, u64
from shmm.layout cimport SHMM_C_reader_beside_writer, SHMM_IRQ_OFF, vcpu_t
from shmm.mm.breach cimport breach, breach_t, check_free, sum_counter


cdef inline u64 check_I6(vcpu_t *c, breach_t *found) noexcept nogil:
    cdef u64 bad = 0
    cdef u32 i
    cdef u64 beside = sum_counter(c, SHMM_C_reader_beside_writer)
    if beside:
        bad += breach(found, 6, 0, b"reader of mmap_lock beside a writer", 0, beside, 0)
    for i in range(1, c.g.nmm):
        if ld64_relaxed(&c.mms[i].mmap_seq) & 1:
            bad += breach(found, 6, i, b"mmap_seq is odd", 0, ld64_relaxed(&c.mms[i].mmap_seq), 0)
        if ld64_relaxed(&c.mms[i].mmap_lock.count):
            bad += breach(found, 6, i, b"mmap_lock held", 0, ld64_relaxed(&c.mms[i].mmap_lock.count), 0)
        bad += check_free(&c.mms[i].mmap_lock.wait_lock, i, b"wait_lock held", found)
        bad += check_free(&c.mms[i].page_table_lock, i, b"page_table_lock held", found)
        bad += check_free(&c.mms[i].uffd_lock, i, b"uffd_lock held", found)
    for i in range(c.g.ncpu):
        if ld64_relaxed(&c.cpus[i].state) & SHMM_IRQ_OFF or get32(&c.cpus[i].irq_depth):
            bad += breach(found, 6, 0, b"interrupts off on cpu", i, ld64_relaxed(&c.cpus[i].state), 0)
        if get32(&c.cpus[i].rcu_depth):
            bad += breach(found, 6, 0, b"RCU section left open on cpu", i, get32(&c.cpus[i].rcu_depth), 0)
    for i in range(c.g.nnode):
        bad += check_free(&c.g.node[i].zone.lock, 0, b"zone.lock", found)
        bad += check_free(&c.g.node[i].lru_lock, 0, b"lru_lock", found)
    return (bad + check_free(&c.g.vma_pool.lock, 0, b"vma_pool.lock", found)
            + check_free(&c.g.huge_pool.lock, 0, b"huge_pool.lock", found)
            + check_free(&c.g.anon_pool.lock, 0, b"anon_pool.lock", found)
            + check_free(&c.g.swap_pool.lock, 0, b"swap_pool.lock", found)
            + check_free(&c.g.cache_lock, 0, b"cache_lock", found)
            + check_free(&c.g.rcu_lock, 0, b"rcu_lock", found))
