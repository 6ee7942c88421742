"""Collapse: the pages of a table are copied into a huge page, which takes the table's place (MADV_COLLAPSE).

    1  look whether it can be done          mmap_lock for read
    2  take a huge page                     nothing held
    3  look again                           mmap_lock for write: mmap_seq is odd
    4  pmd := 0, flush                      page_table_lock; nobody finds the table any more, and whoever found it with
                                            interrupts off is out: the flush has waited
    5  look at the pages                    the table's ptl; a page that somebody has pinned: put the pmd back
    6  copy them, clear the ptes
    7  deposit the table, pmd := huge page  page_table_lock

What each of the others sees:

    classical faults, munmap ...   wait for mmap_lock
    a program                      has no translation after 4, and faults until 7
    a speculator                   SPF_ABORT_ODD, or SEQ1 or SEQ2 fails; the pmd entry (SPF_ABORT_PMD, PTE_MAP_LOCK_PMD)
                                   tells it as well, and is not needed
    fast_gup                       has the page before 5 looks, which then sees its reference; or finds the entry
                                   changed when it looks again, and drops the page

4 has two duties.  Its flush takes away translations: without, a program would write to a page that has been copied.
And it interrupts: the table may be freed by whoever zaps the huge page next (huge_memory.pxd), and a walk with
interrupts off that found it before 4 would still be reading it.

The policy collapse=read is no kernel's, for anonymous memory: the same under mmap_lock for *read*, as the kernel
retracts tables of files.  mmap_seq does not move, and the pmd entry alone tells a speculator.  page_table_lock is then
held from 4 to 7, and who zaps under the read lock takes it as well (zap.pxd); faults look at the entry again under the
ptl (walk.pxd), and a collapse whether another one was first.  It is there to see what step 3 of pte_map_lock is for.
MADV_FREE, MADV_PAGEOUT and NUMA hints, which work on ptes under the read lock too, do not know of it.

A read-only page may be shared with a child, whose ptes count as references too; that cannot be told from a pin here, so
only a page that is exclusive and yet has several references counts as pinned.  Of the other, whoever pinned it reads
what it was, which no store changes any more.

Sources: mm/khugepaged.c, collapse_huge_page, __collapse_huge_page_isolate; results as Linux 6.18 shows them."""

from libc.errno cimport EAGAIN, EINVAL, ENOMEM

from shmm.arch.arch cimport (
    a64, clear_page, copy_page, find_word, i64, ld32_relaxed, ld64_relaxed, mutant, st64_relaxed, u8, u32, u64, xchg64,
)
from shmm.arch.mutants cimport SHMM_M_COLLAPSE_NO_FLUSH, SHMM_M_COLLAPSE_TWICE
from shmm.layout cimport (
    SHMM_COLLAPSE_READ, SHMM_C_nr_anon_transparent_hugepages, SHMM_C_thp_collapse_alloc,
    SHMM_C_thp_collapse_alloc_failed, SHMM_HPAGE_SIZE, SHMM_PAGE_SIZE, SHMM_PTE_SPECIAL, SHMM_PTE_WRITE, SHMM_PTRS_PER,
    SHMM_VM_NOHUGEPAGE, SHMM_VM_SHARED, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.anon cimport vma_anon
from shmm.mm.find_vma cimport find_vma, vma_lookup
from shmm.mm.frame cimport add_batched, charge_huge, frame_bytes, free_frame, uncharge
from shmm.mm.huge_frame cimport HPAGE_PMD_NR, alloc_huge_frame, compound_head, frame_is_huge
from shmm.mm.huge_memory cimport hpage_start, huge_pmd, pgtable_trans_huge_deposit
from shmm.mm.lru cimport lru_add, lru_add_drain
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_finish_mmu, tlb_flush_mmu, tlb_full, tlb_gather_mmu, tlb_remove_page
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    find_pmd, get_entry, pmd_trans_huge, pte_lockptr, pte_pfn, pte_present, set_entry, table_entry,
)
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vmstat cimport count_vm_event

cdef enum:
    SCAN_PMD_MAPPED = 1         # there is a huge page already

# One collapse in progress (what collapse_huge_page has on its stack).
cdef struct collapse_t:
    mm_t *mm
    u64 start
    a64 *pmd
    u64 old                     # the entry of the table
    u32 table, head
    bint by_read                # mmap_lock is held for read only


cdef inline bint vma_can_collapse(vcpu_t *c, u32 vma) noexcept nogil:
    """The mapping's kind: also a hint against huge pages is heeded, a policy of never is not."""
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    cdef u64 not_for = SHMM_VM_SHARED | SHMM_VM_NOHUGEPAGE | SHMM_VM_UFFD_MISSING | SHMM_VM_UFFD_WP
    return (ld32_relaxed(&c.vmas[vma].file) == 0 and not flags & not_for
            and hpage_start(vma_end(c, vma)) >= hpage_start(vma_start(c, vma) + SHMM_HPAGE_SIZE - 1) + SHMM_HPAGE_SIZE)


cdef inline u64 pmd_at_rest(vcpu_t *c, collapse_t *job) noexcept nogil:
    """The entry, 0 if even upper tables are missing.  With the lock held for read it may be 0 in somebody's collapse,
    which page_table_lock waits for."""
    cdef u64 pmd = get_entry(job.pmd) if job.pmd != NULL else 0
    if pmd == 0 and job.pmd != NULL and c.g.collapse_policy == SHMM_COLLAPSE_READ:
        spin_lock(c, &job.mm.page_table_lock)
        pmd = ld64_relaxed(job.pmd)
        spin_unlock(&job.mm.page_table_lock)
    return pmd


cdef inline i64 scan_pmd(vcpu_t *c, collapse_t *job, u64 *vm_flags) noexcept nogil:
    """mmap_lock held.  0, SCAN_PMD_MAPPED, or why not."""
    cdef u32 vma = vma_lookup(c, job.mm, job.start)
    if vma == 0 or job.start + SHMM_HPAGE_SIZE > vma_end(c, vma) or not vma_can_collapse(c, vma):
        return -EINVAL
    if vma_anon(c, vma) == 0:
        return -EINVAL
    vm_flags[0] = ld64_relaxed(&c.vmas[vma].flags)
    job.pmd = find_pmd(c, job.mm, job.start)
    job.old = pmd_at_rest(c, job)
    if job.old == 0:
        return -EINVAL
    return SCAN_PMD_MAPPED if pmd_trans_huge(job.old) else 0


cdef inline i64 pte_can_collapse(vcpu_t *c, u64 pte) noexcept nogil:
    """0: its page may be copied and dropped."""
    cdef u32 pfn = pte_pfn(pte)
    if not pte_present(pte):
        return -EINVAL
    if pte & SHMM_PTE_SPECIAL or frame_is_huge(c, pfn):
        return 0
    if ld32_relaxed(&c.frames[pfn].exclusive) and ld32_relaxed(&c.frames[pfn].refs) != 1:
        return -EAGAIN          # pinned: whoever holds it shall go on seeing what we write
    return 0


cdef inline i64 collapse_isolate(vcpu_t *c, collapse_t *job) noexcept nogil:
    """Step 5."""
    cdef u8 *page = frame_bytes(c, job.table)
    cdef i64 err = 0
    cdef u32 i
    spin_lock(c, pte_lockptr(c, job.old))
    i = find_word(page, 0)
    while i < SHMM_PTRS_PER and err == 0:
        err = pte_can_collapse(c, ld64_relaxed(table_entry(c, job.table, i)))
        i = find_word(page, i + 1)
    spin_unlock(pte_lockptr(c, job.old))
    return err


cdef inline void clear_parts(vcpu_t *c, u32 head, u32 first, u32 end) noexcept nogil:
    """Parts for which there is no page, or the page of zeros."""
    cdef u32 i
    for i in range(first, end):
        if c.g.zeroing:
            clear_page(frame_bytes(c, head + i), SHMM_PAGE_SIZE)


cdef inline bint collapse_copy_one(vcpu_t *c, collapse_t *job, mmu_gather_t *tlb, u32 i) noexcept nogil:
    """Copies what a pte maps, and takes it away.  False: it was the page of zeros, or nothing."""
    cdef a64 *entry = table_entry(c, job.table, i)
    cdef u64 pte = ld64_relaxed(entry)
    spin_lock(c, pte_lockptr(c, job.old))
    st64_relaxed(entry, 0)                      # nobody reads it: not even the MMU finds this table
    spin_unlock(pte_lockptr(c, job.old))
    if pte & SHMM_PTE_SPECIAL:
        clear_parts(c, job.head, i, i + 1)
        return False
    copy_page(frame_bytes(c, job.head + i), frame_bytes(c, pte_pfn(pte)), SHMM_PAGE_SIZE)
    if tlb_full(c, tlb):
        tlb_flush_mmu(c, tlb)
    tlb_remove_page(c, tlb, compound_head(c, pte_pfn(pte)))
    return True


cdef inline i64 collapse_copy(vcpu_t *c, collapse_t *job, mmu_gather_t *tlb) noexcept nogil:
    """Step 6: by how many pages the mm has grown."""
    cdef u8 *page = frame_bytes(c, job.table)
    cdef i64 copied = 0
    cdef u32 i = find_word(page, 0)
    cdef u32 done = 0
    while i < SHMM_PTRS_PER:
        clear_parts(c, job.head, done, i)
        copied += collapse_copy_one(c, job, tlb, i)
        done = i + 1
        i = find_word(page, done)
    clear_parts(c, job.head, done, HPAGE_PMD_NR)
    return HPAGE_PMD_NR - copied


cdef inline bint still_a_table(collapse_t *job) noexcept nogil:
    """Under page_table_lock: nobody else has collapsed it, as another reader of mmap_lock may have."""
    return ld64_relaxed(job.pmd) == job.old or mutant(SHMM_M_COLLAPSE_TWICE)


cdef inline void pmdp_collapse_flush(vcpu_t *c, collapse_t *job) noexcept nogil:
    """Step 4.  page_table_lock held."""
    job.old = xchg64(job.pmd, 0)
    job.table = pte_pfn(job.old)
    if not mutant(SHMM_M_COLLAPSE_NO_FLUSH):
        flush_tlb_mm_range(c, job.mm, job.start, job.start + SHMM_HPAGE_SIZE)


cdef inline i64 collapse_huge_page(vcpu_t *c, collapse_t *job, u64 vm_flags) noexcept nogil:
    """Steps 4 to 7, mmap_lock held.  0, or why not: then everything is as before."""
    cdef mmu_gather_t tlb
    cdef u64 pmd = huge_pmd(job.head, vm_flags) | (SHMM_PTE_WRITE if vm_flags & SHMM_VM_WRITE else 0)
    cdef i64 grown = 0
    cdef i64 err
    mmu_notifier_invalidate_range_start(c, job.mm, job.start, job.start + SHMM_HPAGE_SIZE)
    spin_lock(c, &job.mm.page_table_lock)
    if not still_a_table(job):
        spin_unlock(&job.mm.page_table_lock)
        mmu_notifier_invalidate_range_end(c, job.mm)
        return -EAGAIN
    pmdp_collapse_flush(c, job)
    if not job.by_read:
        spin_unlock(&job.mm.page_table_lock)
    err = collapse_isolate(c, job)
    if err == 0:
        tlb_gather_mmu(&tlb, job.mm)
        grown = collapse_copy(c, job, &tlb)
        tlb_finish_mmu(c, &tlb)                 # their translations are gone since step 4
    if not job.by_read:
        spin_lock(c, &job.mm.page_table_lock)
    if err == 0:
        add_batched(&c.me.rss_anon, &job.mm.rss_anon, grown)
        lru_add(c, job.head)
        pgtable_trans_huge_deposit(c, job.mm, job.table)
        count_vm_event(c, SHMM_C_nr_anon_transparent_hugepages)
    set_entry(job.pmd, job.old if err else pmd)
    spin_unlock(&job.mm.page_table_lock)
    mmu_notifier_invalidate_range_end(c, job.mm)
    return err


cdef inline void collapse_lock(vcpu_t *c, collapse_t *job) noexcept nogil:
    if job.by_read:
        mmap_read_lock(c, job.mm)
    else:
        mmap_write_lock(c, job.mm)


cdef inline void collapse_unlock(vcpu_t *c, collapse_t *job) noexcept nogil:
    if job.by_read:
        mmap_read_unlock(c, job.mm)
    else:
        mmap_write_unlock(c, job.mm)


cdef inline i64 collapse_pmd(vcpu_t *c, mm_t *mm, u64 start) noexcept nogil:
    """One aligned 2 MiB; no lock held.  0: a huge page maps it now, or did before; -EINVAL, -EAGAIN or -ENOMEM."""
    cdef collapse_t job
    cdef u64 vm_flags = 0
    cdef i64 err
    job.mm = mm
    job.start = start
    job.by_read = c.g.collapse_policy == SHMM_COLLAPSE_READ
    mmap_read_lock(c, mm)
    err = scan_pmd(c, &job, &vm_flags)
    mmap_read_unlock(c, mm)
    if err:
        return min(err, 0)
    job.head = alloc_huge_frame(c)
    if job.head == 0:
        count_vm_event(c, SHMM_C_thp_collapse_alloc_failed)
        return -ENOMEM
    count_vm_event(c, SHMM_C_thp_collapse_alloc)
    charge_huge(c)
    collapse_lock(c, &job)
    err = scan_pmd(c, &job, &vm_flags)
    if err == 0:
        lru_add_drain(c)
        mmu_notifier_invalidate_range_start(c, mm, start, start + SHMM_HPAGE_SIZE)
        err = collapse_huge_page(c, &job, vm_flags)
        mmu_notifier_invalidate_range_end(c, mm)
        if err == 0:
            job.head = 0
    collapse_unlock(c, &job)
    if job.head:
        uncharge(c, HPAGE_PMD_NR)
        free_frame(c, job.head)
    return min(err, 0)


cdef inline i64 collapse_vma_range(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """All aligned 2 MiB in the range, none of which may be a hole; goes on after a page that was pinned."""
    cdef u64 at = hpage_start(start + SHMM_HPAGE_SIZE - 1)
    cdef i64 err = 0
    cdef i64 last = 0
    while at < hpage_start(end) and (err == 0 or err == -EAGAIN):
        err = collapse_pmd(c, mm, at)
        last = err if err else last
        at += SHMM_HPAGE_SIZE
    return last


cdef inline i64 madvise_collapse(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """MADV_COLLAPSE; no lock held.  A range in which no 2 MiB are whole has nothing to do, and says 0."""
    cdef u64 at = start
    cdef u64 vma_stop = 0
    cdef i64 err = 0
    cdef i64 ret = 0
    cdef u32 vma
    while at < end and err == 0:
        mmap_read_lock(c, mm)
        vma = find_vma(c, mm, at)
        if vma and vma_start(c, vma) < end:
            if vma_start(c, vma) > at:
                ret = -ENOMEM
                at = vma_start(c, vma)
            vma_stop = min(vma_end(c, vma), end)
            err = 0 if vma_can_collapse(c, vma) else -EINVAL
        else:
            err = -ENOMEM
        mmap_read_unlock(c, mm)
        if err == 0:
            err = collapse_vma_range(c, mm, at, vma_stop)
            at = vma_stop
    return err if err else ret
