"""Transparent huge pages: a pmd entry that maps 2 MiB itself (PSE) instead of pointing to a table.

    do_huge_pmd_anonymous_page   the first write to an aligned 2 MiB of a mapping that may have a huge page
    do_huge_pmd_fault            a fault on one that is there: reuse it, or split and let the single page be copied
    split_huge_pmd               the entry becomes a table that maps the same 512 frames
    zap_huge_pmd, copy_huge_pmd, change_huge_pmd      what munmap, fork and mprotect do to a whole one; to a part of
                                                      it they split first

The lock is mm.page_table_lock, the pmd lock of a kernel without split pmd locks.  It is over the deposit, too: with
each huge pmd comes a table that nobody uses yet, so that a split needs no memory and cannot fail.  Which one it is does
not matter: the last deposited is taken.  A deposited table may be freed without waiting for walks, for none has met it
since it was deposited (the collapse that took it out of use has waited, khugepaged.pxd), except for walks that are
RCU sections: where those exist, tables are freed by RCU, and deposited ones as well.  (The kernel of the series frees
deposited tables at once even there, zap_deposited_table; so a speculator under rcu_read_lock that a collapse and a zap
overtake reads a freed table.  The mutant DEPOSIT_FREE_NOW shows it.)

A split, in the kernel's order:

    CPU 0: split                              CPU 1: a program          CPU 2: zaps a single page
    pmd: not present any more, still huge     walk: faults, waits for
    flush                                     page_table_lock
    table := 512 ptes
    references + 511      ---- R ----                                   table -> pte := 0
    pmd := table                                                        references - 1

R: the references come before the table can be seen, or the first single page to go would take the others along.  In
between, the entry is huge and not present: the MMU finds nothing to set a bit in, a classical fault waits for the lock,
a speculator gives up.

Speculation never enters a huge pmd, nor makes one (SPF_ABORT_PMD, v2 16/35): with huge pages the first touch of 2 MiB
is classical and there is no second.  There are no huge puds, no huge zero page (a read maps single zero pages) and no
migration of pmds.  A huge page that fork has shared is copied as single pages, as do_huge_pmd_wp_page falls back to.

Sources: Documentation/mm/transhuge.rst, mm/huge_memory.c."""

from shmm.arch.arch cimport (
    a64, clear_page, fetch_add32_relaxed, fetch_add64_relaxed, fetch_and64, fill_words, get32, ld32_relaxed,
    ld64_relaxed, mutant, put32, st32_relaxed, u32, u64, xchg64,
)
from shmm.arch.mutants cimport SHMM_M_DEPOSIT_FREE_NOW, SHMM_M_HUGE_PMD_NONE, SHMM_M_SPLIT_REFS_LATE
from shmm.layout cimport (
    SHMM_C_nr_anon_transparent_hugepages, SHMM_C_pgreuse, SHMM_C_thp_fault_alloc, SHMM_C_thp_fault_fallback,
    SHMM_C_thp_split_pmd, SHMM_HPAGE_SIZE, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY,
    SHMM_PTE_PRESENT, SHMM_PTE_PSE, SHMM_PTE_USER, SHMM_PTE_WRITE, SHMM_TABLE_FREE_RCU, SHMM_THP_ALWAYS,
    SHMM_VM_HUGEPAGE, SHMM_VM_NOHUGEPAGE, SHMM_VM_SHARED, mm_t, vcpu_t,
)
from shmm.mm.anon cimport anon_vma_prepare
from shmm.mm.frame cimport add_batched, charge_huge, frame_bytes, free_frame, uncharge
from shmm.mm.huge_frame cimport HPAGE_PMD_NR, alloc_huge_frame
from shmm.mm.lru cimport lru_add
from shmm.mm.mmu_gather cimport mmu_gather_t, tlb_remove_page, tlb_remove_table, tlb_track
from shmm.mm.page_table cimport (
    PTE, alloc_table, find_pmd, free_table, get_entry, pmd_entry_alloc, pmd_trans_huge, pte_pfn, set_entry,
)
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vm_get_page_prot
from shmm.mm.vmstat cimport count_vm_event, count_vm_events
from shmm.mm.walk cimport FAULT_WRITE, VM_FAULT_OOM, vm_fault_t

cdef enum:
    VM_FAULT_FALLBACK = 0x800   # no huge page: go on with single ones


cdef inline u64 hpage_start(u64 addr) noexcept nogil:
    return addr & ~(SHMM_HPAGE_SIZE - 1)


cdef inline u64 table_pmd(u32 table) noexcept nogil:
    """The entry that points to a table."""
    return <u64> table << SHMM_PAGE_SHIFT | SHMM_PTE_PRESENT | SHMM_PTE_WRITE | SHMM_PTE_USER


cdef inline u64 huge_pmd(u32 head, u64 vm_flags) noexcept nogil:
    """The entry that a write fault, or a collapse of a writable mapping, leaves behind."""
    cdef u64 prot = vm_get_page_prot(vm_flags) | SHMM_PTE_PSE | SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED
    return <u64> head << SHMM_PAGE_SHIFT | prot


# ---- the deposit: page_table_lock held ---------------------------------------------------------------------------

cdef inline void pgtable_trans_huge_deposit(vcpu_t *c, mm_t *mm, u32 table) noexcept nogil:
    put32(&c.frames[table].next, get32(&mm.pmd_huge_pte))
    put32(&mm.pmd_huge_pte, table)


cdef inline u32 pgtable_trans_huge_withdraw(vcpu_t *c, mm_t *mm) noexcept nogil:
    """There is one for every huge pmd."""
    cdef u32 table = get32(&mm.pmd_huge_pte)
    put32(&mm.pmd_huge_pte, get32(&c.frames[table].next))
    return table


cdef inline void drop_table(vcpu_t *c, mm_t *mm, u32 table) noexcept nogil:
    """A table that was never in use."""
    fetch_add64_relaxed(&mm.pgtables, <u64> -1)
    free_table(c, table)


cdef inline void zap_deposited_table(vcpu_t *c, mmu_gather_t *tlb, u32 table) noexcept nogil:
    """A table that is not needed any more; before it was deposited it may have been in use."""
    fetch_add64_relaxed(&tlb.mm.pgtables, <u64> -1)
    if c.g.table_free_policy == SHMM_TABLE_FREE_RCU and not mutant(SHMM_M_DEPOSIT_FREE_NOW):
        tlb_remove_table(c, tlb, table)
    else:
        free_table(c, table)


# ---- faults: mmap_lock held for read -----------------------------------------------------------------------------

cdef inline bint thp_vma_allowable(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Whether the policy, the mapping's kind and hints, and its range allow a huge page around the fault.  The policy
    is not never."""
    cdef u64 flags = vmf.vma.flags
    cdef u64 start = hpage_start(vmf.address)
    if vmf.vma.file != 0 or flags & (SHMM_VM_SHARED | SHMM_VM_NOHUGEPAGE):
        return False
    if c.g.thp != SHMM_THP_ALWAYS and not flags & SHMM_VM_HUGEPAGE:
        return False
    return start >= vmf.vma.start and start + SHMM_HPAGE_SIZE <= vmf.vma.end


cdef inline void clear_huge_page(vcpu_t *c, u32 head) noexcept nogil:
    cdef u32 i
    for i in range(<u32> HPAGE_PMD_NR):
        clear_page(frame_bytes(c, head + i), SHMM_PAGE_SIZE)


cdef inline bint set_huge_pmd(vcpu_t *c, vm_fault_t *vmf, u32 head, u32 table) noexcept nogil:
    """Puts a fresh huge page in place.  False: somebody else was first, with whatever."""
    spin_lock(c, &vmf.mm.page_table_lock)
    if ld64_relaxed(vmf.pmd) != 0 and not mutant(SHMM_M_HUGE_PMD_NONE):
        spin_unlock(&vmf.mm.page_table_lock)
        return False
    add_batched(&c.me.rss_anon, &vmf.mm.rss_anon, HPAGE_PMD_NR)
    lru_add(c, head)
    pgtable_trans_huge_deposit(c, vmf.mm, table)
    set_entry(vmf.pmd, huge_pmd(head, vmf.vma.flags) | SHMM_PTE_WRITE)
    spin_unlock(&vmf.mm.page_table_lock)
    count_vm_event(c, SHMM_C_nr_anon_transparent_hugepages)
    return True


cdef inline u32 do_huge_pmd_anonymous_page(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """0, VM_FAULT_OOM or VM_FAULT_FALLBACK."""
    cdef u32 head, table
    if not anon_vma_prepare(c, vmf.mm, vmf.vma.vma):
        return VM_FAULT_OOM
    head = alloc_huge_frame(c)
    if head == 0:
        count_vm_event(c, SHMM_C_thp_fault_fallback)
        return VM_FAULT_FALLBACK
    table = alloc_table(c, vmf.mm, PTE)
    if table == 0:
        free_frame(c, head)
        return VM_FAULT_OOM
    if c.g.zeroing:
        clear_huge_page(c, head)
    charge_huge(c)
    if set_huge_pmd(c, vmf, head, table):
        count_vm_event(c, SHMM_C_thp_fault_alloc)
        return 0
    drop_table(c, vmf.mm, table)
    uncharge(c, HPAGE_PMD_NR)
    free_frame(c, head)
    return 0


cdef inline u32 create_huge_pmd(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """A fault where a huge page would be allowed.  0: there is one now; VM_FAULT_OOM or VM_FAULT_FALLBACK."""
    if not vmf.flags & FAULT_WRITE:
        return VM_FAULT_FALLBACK
    vmf.pmd = pmd_entry_alloc(c, vmf.mm, vmf.address)
    if vmf.pmd == NULL:
        return VM_FAULT_OOM
    return VM_FAULT_FALLBACK if get_entry(vmf.pmd) != 0 else do_huge_pmd_anonymous_page(c, vmf)


cdef inline bint huge_page_is_ours(vcpu_t *c, u32 head) noexcept nogil:
    """Whether it may be written in place: no other mm maps any of it."""
    if not ld32_relaxed(&c.frames[head].exclusive) and ld32_relaxed(&c.frames[head].refs) == 1:
        st32_relaxed(&c.frames[head].exclusive, 1)      # the other sharers are gone
    return ld32_relaxed(&c.frames[head].exclusive) != 0


cdef inline u32 do_huge_pmd_wp_page(vcpu_t *c, vm_fault_t *vmf, u64 pmd) noexcept nogil:
    """A write to a read-only huge pmd; page_table_lock held."""
    if not huge_page_is_ours(c, pte_pfn(pmd)):
        split_huge_pmd_locked(c, vmf.mm, vmf.pmd, hpage_start(vmf.address))
        return VM_FAULT_FALLBACK
    set_entry(vmf.pmd, pmd | SHMM_PTE_WRITE | SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED)
    count_vm_event(c, SHMM_C_pgreuse)
    return 0


cdef inline u32 do_huge_pmd_fault(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """vmf.orig_pmd is huge.  0: try the instruction again; VM_FAULT_FALLBACK: it is a table now."""
    cdef u32 ret = 0
    cdef u64 pmd
    spin_lock(c, &vmf.mm.page_table_lock)
    pmd = ld64_relaxed(vmf.pmd)
    # else changed under us, perhaps split; or another CPU has made it what we need: the instruction looks again
    if not (pmd ^ vmf.orig_pmd) & ~(SHMM_PTE_ACCESSED | SHMM_PTE_DIRTY):
        if vmf.flags & FAULT_WRITE and not pmd & SHMM_PTE_WRITE:
            ret = do_huge_pmd_wp_page(c, vmf, pmd)
    spin_unlock(&vmf.mm.page_table_lock)
    return ret


# ---- splits --------------------------------------------------------------------------------------------------------

cdef inline void split_huge_pmd_locked(vcpu_t *c, mm_t *mm, a64 *pmd, u64 start) noexcept nogil:
    """page_table_lock held, the entry is huge and maps start."""
    cdef u64 old = fetch_and64(pmd, ~SHMM_PTE_PRESENT)
    cdef u32 head = pte_pfn(old)
    cdef u32 table = pgtable_trans_huge_withdraw(c, mm)
    flush_tlb_mm_range(c, mm, start, start + SHMM_HPAGE_SIZE)
    fill_words(frame_bytes(c, table), old & ~SHMM_PTE_PSE, SHMM_PAGE_SIZE)
    if not mutant(SHMM_M_SPLIT_REFS_LATE):
        fetch_add32_relaxed(&c.frames[head].refs, HPAGE_PMD_NR - 1)     # R: before the release in set_entry
    set_entry(pmd, table_pmd(table))
    if mutant(SHMM_M_SPLIT_REFS_LATE):
        fetch_add32_relaxed(&c.frames[head].refs, HPAGE_PMD_NR - 1)
    count_vm_event(c, SHMM_C_thp_split_pmd)
    count_vm_events(c, SHMM_C_nr_anon_transparent_hugepages, <u64> -1)


cdef inline void split_huge_pmd(vcpu_t *c, mm_t *mm, a64 *pmd, u64 addr) noexcept nogil:
    """If the entry is huge it becomes a table.  mmap_lock held."""
    spin_lock(c, &mm.page_table_lock)
    if pmd_trans_huge(ld64_relaxed(pmd)):
        split_huge_pmd_locked(c, mm, pmd, hpage_start(addr))
    spin_unlock(&mm.page_table_lock)


cdef inline void split_huge_pmd_address(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """A border of VMAs comes to addr: no huge pmd may reach across.  mmap_lock held for write."""
    cdef a64 *pmd
    if c.g.nhuge == 0 or addr == hpage_start(addr):
        return
    pmd = find_pmd(c, mm, addr)
    if pmd != NULL and pmd_trans_huge(get_entry(pmd)):
        split_huge_pmd(c, mm, pmd, addr)


# ---- whole ones ----------------------------------------------------------------------------------------------------

cdef inline void zap_whole_huge_pmd(vcpu_t *c, mmu_gather_t *tlb, a64 *pmd, u64 start) noexcept nogil:
    """page_table_lock held, the entry is huge and maps start."""
    cdef u64 old = xchg64(pmd, 0)               # atomic: the MMU may be setting the dirty bit
    tlb_track(tlb, start, start + SHMM_HPAGE_SIZE)
    add_batched(&c.me.rss_anon, &tlb.mm.rss_anon, -HPAGE_PMD_NR)
    tlb_remove_page(c, tlb, pte_pfn(old))
    zap_deposited_table(c, tlb, pgtable_trans_huge_withdraw(c, tlb.mm))
    count_vm_events(c, SHMM_C_nr_anon_transparent_hugepages, <u64> -1)


cdef inline u64 zap_huge_pmd(vcpu_t *c, mmu_gather_t *tlb, a64 *pmd, u64 addr, u64 end) noexcept nogil:
    """page_table_lock held; the gather is not full.  What is left to be zapped by pages: a table's entry, or 0."""
    if not pmd_trans_huge(ld64_relaxed(pmd)):
        return ld64_relaxed(pmd)
    if end - addr == SHMM_HPAGE_SIZE:
        zap_whole_huge_pmd(c, tlb, pmd, addr)
    else:
        split_huge_pmd_locked(c, tlb.mm, pmd, hpage_start(addr))
    return ld64_relaxed(pmd)


cdef inline bint copy_huge_pmd(vcpu_t *c, mm_t *old, mm_t *new, a64 *src, u64 addr) noexcept nogil:
    """fork: the child shares the page, and nobody writes to it for now.  The child's tables are not visible to anyone
    yet.  False: out of memory."""
    cdef a64 *dst = pmd_entry_alloc(c, new, addr)
    cdef u32 table = alloc_table(c, new, PTE) if dst != NULL else 0
    cdef u64 pmd
    if table == 0:
        return False
    spin_lock(c, &old.page_table_lock)
    pmd = fetch_and64(src, ~SHMM_PTE_WRITE) & ~SHMM_PTE_WRITE           # atomic: the MMU may set a bit meanwhile
    fetch_add32_relaxed(&c.frames[pte_pfn(pmd)].refs, 1)
    st32_relaxed(&c.frames[pte_pfn(pmd)].exclusive, 0)
    pgtable_trans_huge_deposit(c, new, table)
    set_entry(dst, pmd)
    spin_unlock(&old.page_table_lock)
    fetch_add64_relaxed(&new.rss_anon, HPAGE_PMD_NR)
    count_vm_event(c, SHMM_C_nr_anon_transparent_hugepages)
    return True
