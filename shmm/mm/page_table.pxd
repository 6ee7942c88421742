"""Four-level page tables, in frames of their own.

A table is 512 64-bit entries.  Entries are a64: the emulated MMU and speculators read them without a lock.

  who writes                       under
  a pgd, pud or pmd entry, install   mm.page_table_lock (mmap_lock held for read at least)
  a pgd, pud or pmd entry, clear     free_pgtables: mmap_lock held, and no VMA left there
  a huge pmd, any change             mm.page_table_lock, the kernel's pmd lock where that is not split (huge_memory)
  a pte                              the ptl of its table (frame_t.ptl), the split page-table lock
  accessed and dirty bits            the MMU, by compare-and-swap, no lock

An install is a release store, so that a walker that follows the entry finds a zeroed table (G: pairs with the acquire
loads of every walk).  The ptl lives in frame_t, whose memory is never anything else: a speculator that locks the ptl
of a table freed under it locks a word that is still a lock, and its second sequence check fails."""

from shmm.arch.arch cimport (
    a64, fetch_add64_relaxed, get32, ld64_acquire, ld64_relaxed, mutant, put32, st32_relaxed, st64_relaxed,
    st64_release, u32, u64, unpoison_range,
)
from shmm.arch.mutants cimport SHMM_M_PUBLISH_TABLE
from shmm.layout cimport (
    SHMM_C_nr_page_table_pages, SHMM_FRAME_TABLE, SHMM_PAGE_SHIFT, SHMM_PTE_PFN, SHMM_PTE_PRESENT, SHMM_PTE_PROTNONE,
    SHMM_PTE_PSE, SHMM_PTE_USER, SHMM_PTE_WRITE, SHMM_PTRS_PER, mm_t, spinlock_t, vcpu_t,
)
from shmm.mm.frame cimport alloc_zeroed_frame, frame_bytes, free_frame
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event, count_vm_events

cdef enum:
    PGD = 4
    PUD = 3
    PMD = 2
    PTE = 1


cdef inline u32 entry_shift(u32 level) noexcept nogil:
    """log2 of the bytes that one entry of a table of this level maps."""
    return <u32> SHMM_PAGE_SHIFT + 9 * (level - 1)


cdef inline u32 entry_index(u64 addr, u32 level) noexcept nogil:
    return <u32> (addr >> entry_shift(level)) & (SHMM_PTRS_PER - 1)


cdef inline a64 *table_entry(vcpu_t *c, u32 table, u32 index) noexcept nogil:
    return (<a64 *> frame_bytes(c, table)) + index


cdef inline u64 get_entry(const a64 *entry) noexcept nogil:
    return ld64_acquire(entry)          # acquire: pairs with the release in set_entry


cdef inline void set_entry(a64 *entry, u64 value) noexcept nogil:
    if mutant(SHMM_M_PUBLISH_TABLE):
        st64_relaxed(entry, value)
    else:
        # release: pairs with the acquire in get_entry; a walker that sees the entry sees the table, or the page, filled
        st64_release(entry, value)


cdef inline u32 pte_pfn(u64 entry) noexcept nogil:
    return <u32> ((entry & SHMM_PTE_PFN) >> SHMM_PAGE_SHIFT)


cdef inline bint pte_present(u64 pte) noexcept nogil:
    """Maps a page, accessible to the program or not (PROT_NONE)."""
    return pte & (SHMM_PTE_PRESENT | SHMM_PTE_PROTNONE) != 0


cdef inline bint pte_protnone(u64 pte) noexcept nogil:
    """Maps a page, but the program may not access it: its VMA is PROT_NONE, or the pte is a hint for NUMA balancing."""
    return pte & (SHMM_PTE_PRESENT | SHMM_PTE_PROTNONE) == SHMM_PTE_PROTNONE


cdef inline spinlock_t *pte_lockptr(vcpu_t *c, u64 pmd) noexcept nogil:
    """The ptl of the table that a pmd entry points to."""
    return &c.frames[pte_pfn(pmd)].ptl


cdef inline u64 end_of_entry(u64 addr, u64 end, u32 level) noexcept nogil:
    """Where the range [addr, end) leaves the entry that maps addr (pmd_addr_end and kin)."""
    cdef u64 boundary = ((addr >> entry_shift(level)) + 1) << entry_shift(level)
    return min(boundary, end)


cdef inline u32 alloc_table(vcpu_t *c, mm_t *mm, u32 level) noexcept nogil:
    cdef u32 table = alloc_zeroed_frame(c, SHMM_FRAME_TABLE)
    if table:
        unpoison_range(&c.frames[table].ptl, sizeof(spinlock_t))        # only a mutant poisons it (mmu_gather.pxd)
        st32_relaxed(&c.frames[table].ptl.owner, 0)
        put32(&c.frames[table].level, level)
        fetch_add64_relaxed(&mm.pgtables, 1)
        count_vm_event(c, SHMM_C_nr_page_table_pages)
    return table


cdef inline void free_table(vcpu_t *c, u32 table) noexcept nogil:
    """The table is unreachable: flushed, and past a grace period if walks rely on one."""
    count_vm_events(c, SHMM_C_nr_page_table_pages, <u64> -1)
    free_frame(c, table)


cdef inline a64 *entry_below(vcpu_t *c, u64 entry, u64 addr, u32 level) noexcept nogil:
    """The entry for addr in the table of the given level that a present upper entry points to."""
    return (<a64 *> (c.memory + (entry & SHMM_PTE_PFN))) + entry_index(addr, level)


cdef inline a64 *find_pmd(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The pmd entry for addr, or NULL when an upper level is missing.  The tables must be held in place by
    mmap_lock, interrupts off or RCU.  Level by level rather than a loop: every fault comes here thrice."""
    cdef u64 entry = get_entry(table_entry(c, get32(&mm.pgd), entry_index(addr, PGD)))
    if entry == 0:
        return NULL
    entry = get_entry(entry_below(c, entry, addr, PUD))
    if entry == 0:
        return NULL
    return entry_below(c, entry, addr, PMD)


cdef inline bint pmd_trans_huge(u64 pmd) noexcept nogil:
    """Maps 2 MiB itself.  In the midst of a split it is so, and not present."""
    return pmd & SHMM_PTE_PSE != 0


cdef inline u64 huge_part(u64 pmd, u64 addr) noexcept nogil:
    """What of a huge pmd maps one page, as the pte that a table would have: the TLB caches single pages."""
    cdef u64 index = addr >> SHMM_PAGE_SHIFT & (SHMM_PTRS_PER - 1)
    return (pmd & ~SHMM_PTE_PSE) + (index << SHMM_PAGE_SHIFT)


cdef inline u64 pte_at(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The pte for addr, 0 also where tables are missing.  The tables must be held in place, as for find_pmd."""
    cdef a64 *pmd = find_pmd(c, mm, addr)
    cdef u64 entry = get_entry(pmd) if pmd != NULL else 0
    if pmd_trans_huge(entry):
        return huge_part(entry, addr)
    return get_entry(entry_below(c, entry, addr, PTE)) if entry else 0


cdef inline bint install_table(vcpu_t *c, mm_t *mm, a64 *entry, u32 level) noexcept nogil:
    """Makes sure that the entry points to a table of the given level.  False: out of memory."""
    cdef u32 table = alloc_table(c, mm, level)
    if table == 0:
        return False
    spin_lock(c, &mm.page_table_lock)
    if ld64_relaxed(entry) == 0:
        set_entry(entry, <u64> table << SHMM_PAGE_SHIFT | SHMM_PTE_PRESENT | SHMM_PTE_WRITE | SHMM_PTE_USER)
        table = 0
    spin_unlock(&mm.page_table_lock)
    if table:                       # somebody else was first
        fetch_add64_relaxed(&mm.pgtables, <u64> -1)
        free_table(c, table)
    return True


cdef inline a64 *pmd_entry_alloc(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The pmd entry for addr, whatever is in it; NULL: out of memory.  mmap_lock held for read."""
    cdef u32 table = get32(&mm.pgd)
    cdef a64 *entry
    cdef u32 level = PGD
    while level > PMD:
        entry = table_entry(c, table, entry_index(addr, level))
        if get_entry(entry) == 0 and not install_table(c, mm, entry, level - 1):
            return NULL
        table = pte_pfn(get_entry(entry))
        level -= 1
    return table_entry(c, table, entry_index(addr, PMD))


cdef inline a64 *pmd_alloc(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The pmd entry for addr with a pte table behind it, unless it is huge; NULL: out of memory.  mmap_lock held for
    read."""
    cdef u32 table = get32(&mm.pgd)
    cdef a64 *entry = NULL
    cdef u32 level = PGD
    while level > PTE:
        entry = table_entry(c, table, entry_index(addr, level))
        if get_entry(entry) == 0 and not install_table(c, mm, entry, level - 1):
            return NULL
        table = pte_pfn(get_entry(entry))
        level -= 1
    return entry
