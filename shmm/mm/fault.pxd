"""Page faults (mm/memory.c of the series): one set of handlers for the classical and the speculative fault.

    handle_mm_fault         the walk: classical allocates tables, speculative refuses to (2 MiB at a time: that is
                            where pft's one abort in 512 comes from) -> handle_pte_fault
    handle_pte_fault        dispatch on the pte: anonymous, file, swap, NUMA hint, write-protect, spurious
    do_anonymous_page       zero page for a read, a fresh frame for a write
    do_wp_page              reuse an exclusive page, else wp_page_copy
    do_read_fault, do_cow_fault, do_shared_fault     files, classical only

Locks: classical faults hold mmap_lock for read; all take the pte's ptl to write it (walk.pxd).  A handler returns 0 or
a VM_FAULT_* code, RETRY meaning that speculation gave up, with its reason counted, or that the classical fault has to
wait for userfaultfd and begin anew.  Every return that is not success
has undone what it took.

Sources: v2 16, 18, 19, 26 and 27/35; facts of the counters: 31/35."""

from shmm.arch.arch cimport copy_page, ld32_acquire, ld32_relaxed, ld64_relaxed, mutant, st32_relaxed, u32, u64
from shmm.arch.mutants cimport SHMM_M_COW_ABA, SHMM_M_NOTIFIER_NO_LOCK, SHMM_M_PTE_NONE, SHMM_M_PTE_SAME
from shmm.layout cimport (
    SHMM_C_SPF_ABORT_ANON_VMA, SHMM_C_SPF_ABORT_PMD, SHMM_C_SPF_ABORT_PUD, SHMM_C_SPF_ATTEMPT_ANON,
    SHMM_C_SPF_ATTEMPT_PTE, SHMM_C_SPF_ATTEMPT_WP, SHMM_C_notifier_trylock_failed, SHMM_C_pgcopy, SHMM_C_pgfault,
    SHMM_C_pgreuse, SHMM_FRAME_ANON, SHMM_PAGE_SIZE, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_SPECIAL,
    SHMM_PTE_WRITE, SHMM_THP_NEVER, SHMM_VM_SHARED, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP, vcpu_t,
)
from shmm.mm.anon cimport anon_vma_prepare
from shmm.mm.anon_page cimport anon_pte, drop_anon_page, install_anon_page
from shmm.mm.file_fault cimport do_fault
from shmm.mm.frame cimport add_batched, alloc_frame, alloc_zeroed_frame, charge, frame_bytes, get_frame
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.huge_memory cimport VM_FAULT_FALLBACK, create_huge_pmd, do_huge_pmd_fault, thp_vma_allowable
from shmm.mm.lru cimport lru_add, put_page
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.numa_fault cimport do_numa_page
from shmm.mm.page_table cimport (
    find_pmd, get_entry, pmd_alloc, pmd_trans_huge, pte_pfn, pte_present, pte_protnone, set_entry,
)
from shmm.mm.percpu_rwsem cimport percpu_down_read_trylock, percpu_up_read
from shmm.mm.rcu cimport rcu_note_quiescent
from shmm.mm.shootdown cimport flush_tlb_mm_range
from shmm.mm.swap_fault cimport do_swap_page
from shmm.mm.userfaultfd cimport handle_userfault, uffd_forget, userfaultfd_missing, userfaultfd_pte_wp
from shmm.mm.vma cimport vm_get_page_prot, vma_is_accessible
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport (
    FAULT_WRITE, VM_FAULT_OOM, VM_FAULT_RETRY, VM_FAULT_SIGBUS, pte_map_lock, pte_set_table, pte_unmap_unlock,
    speculative_page_walk_begin, speculative_page_walk_end, spf_abort, vm_fault_t,
)


cdef inline u32 map_zero_page(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """A read fault on an untouched page: the shared page of zeros, read-only, no reference, no anon_vma needed."""
    if not pte_map_lock(c, vmf):
        return VM_FAULT_RETRY
    # else somebody filled it meanwhile: done all the same
    if ld64_relaxed(vmf.pte) == 0 or mutant(SHMM_M_PTE_NONE):
        if userfaultfd_missing(vmf):
            pte_unmap_unlock(vmf)
            return handle_userfault(c, vmf, SHMM_VM_UFFD_MISSING)
        set_entry(vmf.pte, vm_get_page_prot(vmf.vma.flags) | SHMM_PTE_SPECIAL | SHMM_PTE_ACCESSED)
    pte_unmap_unlock(vmf)
    return 0


cdef inline u32 do_anonymous_page(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    cdef u32 pfn
    if vmf.speculative:
        count_vm_event(c, SHMM_C_SPF_ATTEMPT_ANON)
    if vmf.vma.flags & SHMM_VM_SHARED:      # shared, yet no file behind it
        return VM_FAULT_SIGBUS
    if not vmf.flags & FAULT_WRITE:
        return map_zero_page(c, vmf)
    if vmf.speculative:
        if vmf.vma.anon_vma == 0:           # making one needs mmap_lock
            return spf_abort(c, SHMM_C_SPF_ABORT_ANON_VMA)
    elif not anon_vma_prepare(c, vmf.mm, vmf.vma.vma):
        return VM_FAULT_OOM
    pfn = alloc_zeroed_frame(c, SHMM_FRAME_ANON) if c.g.zeroing else alloc_frame(c, SHMM_FRAME_ANON)
    if pfn == 0:
        return VM_FAULT_OOM
    charge(c)
    return install_anon_page(c, vmf, pfn)


cdef inline u32 wp_page_commit(vcpu_t *c, vm_fault_t *vmf, u32 old, u32 new) noexcept nogil:
    """Puts the copy in place, if the pte is still what was copied from.  Consumes new, unless it fails."""
    if not pte_map_lock(c, vmf):
        return VM_FAULT_RETRY
    if ld64_relaxed(vmf.pte) != vmf.orig_pte and not mutant(SHMM_M_PTE_SAME):
        pte_unmap_unlock(vmf)
        drop_anon_page(c, new)
        return 0
    # clear, flush, set: no CPU may read the old page while another writes the new one
    set_entry(vmf.pte, 0)
    flush_tlb_mm_range(c, vmf.mm, vmf.address, vmf.address + SHMM_PAGE_SIZE)
    set_entry(vmf.pte, anon_pte(vmf, new))
    lru_add(c, new)
    if not old or ld32_relaxed(&c.frames[compound_head(c, old)].kind) != SHMM_FRAME_ANON:
        add_batched(&c.me.rss_anon, &vmf.mm.rss_anon, 1)
        if old:
            add_batched(&c.me.rss_file, &vmf.mm.rss_file, -1)
    pte_unmap_unlock(vmf)
    count_vm_event(c, SHMM_C_pgcopy)
    if old:
        put_page(c, old)                    # the pte's reference
    return 0


cdef inline bint mmu_notifier_trylock(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """R of mm/notifier.pxd: no client appears before mmu_notifier_unlock.  Who holds mmap_lock is sure of that."""
    if not vmf.speculative or mutant(SHMM_M_NOTIFIER_NO_LOCK):
        return True
    if percpu_down_read_trylock(c, &vmf.mm.notifier_lock):
        return True
    count_vm_event(c, SHMM_C_notifier_trylock_failed)
    return False


cdef inline void mmu_notifier_unlock(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    if vmf.speculative and not mutant(SHMM_M_NOTIFIER_NO_LOCK):
        percpu_up_read(c, &vmf.mm.notifier_lock)


cdef inline u32 wp_page_copy(vcpu_t *c, vm_fault_t *vmf, u32 old) noexcept nogil:
    """Breaks a copy-on-write share.  No lock is held; old (0: the zero page) is held by a reference of ours.
    Speculation must also keep MMU notifiers from registering between the copy and the commit (v2 23-26/35)."""
    cdef u32 new, ret
    if vmf.speculative:
        if vmf.vma.anon_vma == 0:
            return spf_abort(c, SHMM_C_SPF_ABORT_ANON_VMA)
    elif not anon_vma_prepare(c, vmf.mm, vmf.vma.vma):
        return VM_FAULT_OOM
    new = alloc_frame(c, SHMM_FRAME_ANON)
    if new == 0:
        return VM_FAULT_OOM
    copy_page(frame_bytes(c, new), frame_bytes(c, old), SHMM_PAGE_SIZE)
    charge(c)
    ret = VM_FAULT_RETRY
    if mmu_notifier_trylock(c, vmf):
        mmu_notifier_invalidate_range_start(c, vmf.mm, vmf.address, vmf.address + SHMM_PAGE_SIZE)
        ret = wp_page_commit(c, vmf, old, new)
        if mutant(SHMM_M_NOTIFIER_NO_LOCK):     # a CPU in the kernel is an RCU reader here; a task that may be
            rcu_note_quiescent(c)               # preempted is none once it has dropped the ptl
        mmu_notifier_invalidate_range_end(c, vmf.mm)
        mmu_notifier_unlock(c, vmf)
    if ret:
        drop_anon_page(c, new)
    return ret


cdef inline bint wp_can_reuse(vcpu_t *c, u32 pfn) noexcept nogil:
    """An anonymous page that nobody else can see may be written in place."""
    if ld32_relaxed(&c.frames[pfn].kind) != SHMM_FRAME_ANON:
        return False
    if not ld32_relaxed(&c.frames[pfn].exclusive) and ld32_relaxed(&c.frames[pfn].refs) == 1:
        st32_relaxed(&c.frames[pfn].exclusive, 1)       # the other sharers are gone
    return ld32_relaxed(&c.frames[pfn].exclusive)


cdef inline u32 do_wp_page(vcpu_t *c, vm_fault_t *vmf, u64 pte) noexcept nogil:
    """A write to a read-only pte.  The ptl is held, and dropped here."""
    cdef u32 old = 0 if pte & SHMM_PTE_SPECIAL else pte_pfn(pte)
    cdef u32 ret
    if vmf.speculative:
        count_vm_event(c, SHMM_C_SPF_ATTEMPT_WP)
    if userfaultfd_pte_wp(vmf, pte):
        pte_unmap_unlock(vmf)
        return handle_userfault(c, vmf, SHMM_VM_UFFD_WP)
    if vmf.vma.flags & SHMM_VM_SHARED or (old and wp_can_reuse(c, compound_head(c, old))):
        set_entry(vmf.pte, pte | SHMM_PTE_WRITE | SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED)
        pte_unmap_unlock(vmf)
        count_vm_event(c, SHMM_C_pgreuse)
        return 0
    if old and not mutant(SHMM_M_COW_ABA):
        get_frame(c, old)                       # it stays as it is: while we hold it nobody may write it in place
    pte_unmap_unlock(vmf)
    vmf.orig_pte = pte
    ret = wp_page_copy(c, vmf, old)
    if old and not mutant(SHMM_M_COW_ABA):
        put_page(c, old)
    return ret


cdef inline u32 handle_pte_fault(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    cdef u64 pte
    if vmf.orig_pte == 0:
        return do_anonymous_page(c, vmf) if vmf.vma.file == 0 else do_fault(c, vmf)
    if not pte_present(vmf.orig_pte):
        return do_swap_page(c, vmf)
    if pte_protnone(vmf.orig_pte) and vma_is_accessible(vmf.vma.flags):
        return do_numa_page(c, vmf)
    if vmf.speculative:
        count_vm_event(c, SHMM_C_SPF_ATTEMPT_PTE)
    if not pte_map_lock(c, vmf):
        return VM_FAULT_RETRY
    pte = ld64_relaxed(vmf.pte)
    if (pte ^ vmf.orig_pte) & ~(SHMM_PTE_ACCESSED | SHMM_PTE_DIRTY):
        pte_unmap_unlock(vmf)               # changed under us: the instruction will look again
        return 0
    if vmf.flags & FAULT_WRITE and not pte & SHMM_PTE_WRITE:
        return do_wp_page(c, vmf, pte)
    # spurious: another CPU has already made it what we need; the MMU drops its stale entry when it walks again
    pte_unmap_unlock(vmf)
    return 0


cdef inline u32 walk_speculatively(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Reads the chain of tables; nothing is checked here, the section only keeps the memory from going away."""
    cdef u64 entry
    vmf.pmd = find_pmd(c, vmf.mm, vmf.address)
    if vmf.pmd == NULL:
        return spf_abort(c, SHMM_C_SPF_ABORT_PUD)
    entry = get_entry(vmf.pmd)
    # none: perhaps a collapse; and a table installed after free_pgtables would be lost.  Huge: no table to go on with
    if entry == 0 or pmd_trans_huge(entry):
        return spf_abort(c, SHMM_C_SPF_ABORT_PMD)
    pte_set_table(c, vmf, entry)
    vmf.orig_pte = get_entry(vmf.pte)
    return 0


cdef inline u32 walk_and_allocate(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Makes the tables that are missing, or a huge page.  VM_FAULT_FALLBACK: go on with the pte."""
    cdef u32 ret
    cdef u64 entry
    if c.g.thp != SHMM_THP_NEVER and thp_vma_allowable(c, vmf):
        ret = create_huge_pmd(c, vmf)
        if ret != VM_FAULT_FALLBACK:
            return ret
    vmf.pmd = pmd_alloc(c, vmf.mm, vmf.address)
    if vmf.pmd == NULL:
        return VM_FAULT_OOM
    entry = get_entry(vmf.pmd)
    if pmd_trans_huge(entry):
        vmf.orig_pmd = entry
        ret = do_huge_pmd_fault(c, vmf)
        if ret != VM_FAULT_FALLBACK:
            return ret
        entry = get_entry(vmf.pmd)
    if entry == 0 or pmd_trans_huge(entry):     # a collapse under the read lock: the instruction looks again
        return 0
    pte_set_table(c, vmf, entry)
    vmf.orig_pte = get_entry(vmf.pte)
    return VM_FAULT_FALLBACK


cdef inline u32 handle_mm_fault(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """do_handle_mm_fault of v2 09/35: 0 or VM_FAULT_*.  vmf: mm, vma, address, flags, speculative and seq are set."""
    cdef u32 ret
    count_vm_event(c, SHMM_C_pgfault)
    if vmf.speculative:
        speculative_page_walk_begin(c)
        ret = walk_speculatively(c, vmf)
        speculative_page_walk_end(c)
        return ret if ret else handle_pte_fault(c, vmf)
    ret = walk_and_allocate(c, vmf)
    if ret == VM_FAULT_FALLBACK:
        ret = handle_pte_fault(c, vmf)          # RETRY: collapsed under us, or userfaultfd is to answer
    return ret


cdef inline u32 handle_kernel_fault(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """The same for a page that the kernel itself wants, under the lock that its caller keeps: what userfaultfd would
    have to answer is a VM_FAULT_SIGBUS."""
    cdef u32 ret = handle_mm_fault(c, vmf)
    while ret & VM_FAULT_RETRY:
        if ld32_acquire(&c.me.uffd_wait):       # pairs with the release in uffd_unlink
            uffd_forget(c, vmf.mm)
            return VM_FAULT_SIGBUS
        ret = handle_mm_fault(c, vmf)
    return ret
