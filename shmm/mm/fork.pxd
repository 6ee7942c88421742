"""fork: a second address space that shares the first one's private pages until one of them writes.

The parent's mmap_lock is held for write (mmap_seq odd: no speculative COW may overlap).  Only VMAs with an anon_vma
have their ptes copied; the others' pages can be faulted in again (vma_needs_copy).  A copied page loses write
permission in both and its `exclusive` mark; the parent's TLBs are flushed before its lock is dropped, or a stale
writable translation would write to a page the child now shares.

    parent CPU 0, forks           parent CPU 1, a thread of it       child
    write-protect the pte
                                  store through a stale entry
    flush                         (FORK_NO_FLUSH)                    reads what was stored after the fork

What the child gets: VM_DONTCOPY nothing, VM_WIPEONFORK an empty mapping, VM_LOCKED no lock; its VMAs that have an
anon_vma get one of their own each and are VM_FORKED, so that they merge with nothing but pieces of themselves.  The
heap's bounds, mmap_base and the stack are the parent's."""

from libc.errno cimport EINVAL, ENOMEM

from shmm.arch.arch cimport (
    a64, cmpxchg64, fetch_add64_relaxed, get32, get64, i64, ld32_relaxed, ld64_relaxed, mutant, put64, st32_relaxed,
    u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_FORK_NO_FLUSH, SHMM_M_FORK_READ_LOCK, SHMM_M_NOTIFIER_FORK
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PTE_SPECIAL, SHMM_PTE_UFFD_WP, SHMM_PTE_WRITE,
    SHMM_VM_DONTCOPY, SHMM_VM_FORKED, SHMM_VM_LOCKED, SHMM_VM_SHARED, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP,
    SHMM_VM_WIPEONFORK, mm_t, vcpu_t,
)
from shmm.mm.anon cimport anon_vma_alloc
from shmm.mm.frame cimport get_frame, sync_rss
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.huge_memory cimport copy_huge_pmd
from shmm.mm.i_mmap cimport vma_link_file
from shmm.mm.mm cimport current_mm, exit_mmap, mm_init
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from shmm.mm.notifier cimport mmu_notifier_invalidate_range_end, mmu_notifier_invalidate_range_start
from shmm.mm.page_table cimport (
    PMD, PTE, end_of_entry, entry_below, find_pmd, get_entry, pmd_alloc, pmd_trans_huge, pte_lockptr, pte_pfn,
    pte_present, set_entry,
)
from shmm.mm.shootdown cimport flush_tlb_mm
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.swap_entry cimport swp_offset
from shmm.mm.swapfile cimport swap_duplicate
from shmm.mm.vma cimport vm_area_alloc, vma_end, vma_start
from shmm.mm.vma_tree cimport next_vma, vma_link


cdef inline void copy_present_pte(vcpu_t *c, mm_t *new, a64 *src, a64 *dst, bint shared) noexcept nogil:
    """Under the parent's ptl; the child's table is not visible to anyone yet, truncations excepted (i_mmap.pxd)."""
    cdef u64 pte = ld64_relaxed(src)
    cdef u32 pfn
    if pte == 0:
        return
    if not pte_present(pte):
        swap_duplicate(c, swp_offset(pte))
        set_entry(dst, pte & ~SHMM_PTE_UFFD_WP)
        return
    if not shared:
        while cmpxchg64(src, pte, pte & ~SHMM_PTE_WRITE) != pte:        # the MMU may set a bit meanwhile
            pte = ld64_relaxed(src)
        pte &= ~SHMM_PTE_WRITE
    if not pte & SHMM_PTE_SPECIAL:
        pfn = compound_head(c, pte_pfn(pte))
        get_frame(c, pfn)
        if ld32_relaxed(&c.frames[pfn].kind) == SHMM_FRAME_ANON:
            st32_relaxed(&c.frames[pfn].exclusive, 0)
            fetch_add64_relaxed(&new.rss_anon, 1)
        else:
            fetch_add64_relaxed(&new.rss_file, 1)
    set_entry(dst, pte & ~SHMM_PTE_UFFD_WP)


cdef inline i64 copy_page_range(vcpu_t *c, mm_t *old, mm_t *new, u64 addr, u64 end, bint shared) noexcept nogil:
    cdef a64 *src
    cdef a64 *dst
    cdef u64 stop, pmd
    while addr < end:
        stop = end_of_entry(addr, end, PMD)
        src = find_pmd(c, old, addr)
        if src == NULL:
            addr = end_of_entry(addr, end, PMD + 1)
            continue
        pmd = get_entry(src)
        if pmd == 0:
            addr = stop
            continue
        if pmd_trans_huge(pmd):             # a whole one: no VMA ends inside
            if not copy_huge_pmd(c, old, new, src, addr):
                return -ENOMEM
            addr = stop
            continue
        dst = pmd_alloc(c, new, addr)
        if dst == NULL:
            return -ENOMEM
        src = entry_below(c, pmd, addr, PTE)
        dst = entry_below(c, get_entry(dst), addr, PTE)
        spin_lock(c, pte_lockptr(c, pmd))
        while addr < stop:
            copy_present_pte(c, new, src, dst, shared)
            src += 1
            dst += 1
            addr += SHMM_PAGE_SIZE
        spin_unlock(pte_lockptr(c, pmd))
    return 0


cdef inline i64 copy_and_notify(vcpu_t *c, mm_t *old, mm_t *new, u32 vma, bint shared) noexcept nogil:
    """copy_page_range, announced where it takes write permission away."""
    cdef bint narrows = not shared and not mutant(SHMM_M_NOTIFIER_FORK)
    cdef i64 err
    if narrows:
        mmu_notifier_invalidate_range_start(c, old, vma_start(c, vma), vma_end(c, vma))
    err = copy_page_range(c, old, new, vma_start(c, vma), vma_end(c, vma), shared)
    if narrows:
        mmu_notifier_invalidate_range_end(c, old)
    return err


cdef inline i64 dup_vma(vcpu_t *c, mm_t *old, mm_t *new, u32 vma) noexcept nogil:
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    cdef bint has_pages = ld32_relaxed(&c.vmas[vma].anon_vma) != 0 and not flags & SHMM_VM_WIPEONFORK
    cdef u32 file = ld32_relaxed(&c.vmas[vma].file)
    cdef u32 anon
    # a child is not registered with its parent's userfaultfd (there is no UFFD_FEATURE_EVENT_FORK)
    cdef u64 inherited = flags & ~(SHMM_VM_LOCKED | SHMM_VM_FORKED | SHMM_VM_UFFD_MISSING | SHMM_VM_UFFD_WP)
    cdef u32 copy = vm_area_alloc(c, <u32> (new - c.mms), vma_start(c, vma), vma_end(c, vma),
                                  inherited | (SHMM_VM_FORKED if has_pages else 0),
                                  ld64_relaxed(&c.vmas[vma].pgoff), file)
    if copy == 0:
        return -ENOMEM
    vma_link_file(c, copy, file, vma)           # behind the parent's, and before ptes are copied
    vma_link(c, new, copy)
    put64(&new.total_vm, get64(&new.total_vm) + ((vma_end(c, vma) - vma_start(c, vma)) >> SHMM_PAGE_SHIFT))
    if not has_pages:
        return 0
    anon = anon_vma_alloc(c)
    if anon == 0:
        return -ENOMEM
    st32_relaxed(&c.vmas[copy].anon_vma, anon)
    return copy_and_notify(c, old, new, vma, flags & SHMM_VM_SHARED != 0)


cdef inline i64 dup_mmap(vcpu_t *c, mm_t *old, mm_t *new) noexcept nogil:
    cdef u32 vma
    cdef i64 err = 0
    if mutant(SHMM_M_FORK_READ_LOCK):
        mmap_read_lock(c, old)
    else:
        mmap_write_lock(c, old)
    put64(&new.brk, get64(&old.brk))
    put64(&new.start_stack, get64(&old.start_stack))
    vma = get32(&old.vma_first)
    while vma and err == 0:
        if not ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_DONTCOPY:
            err = dup_vma(c, old, new, vma)
        vma = next_vma(c, vma)
    if not mutant(SHMM_M_FORK_NO_FLUSH):
        flush_tlb_mm(c, old)
    if mutant(SHMM_M_FORK_READ_LOCK):
        mmap_read_unlock(c, old)
    else:
        mmap_write_unlock(c, old)
    return err


cdef inline i64 mm_fork(vcpu_t *c, u32 slot) noexcept nogil:
    """Makes slot a copy of the address space this CPU runs; nobody runs the copy yet.  0 or negative errno."""
    cdef mm_t *old = current_mm(c)
    cdef i64 err
    if slot == 0 or slot >= c.g.nmm or ld32_relaxed(&c.me.mm) == 0:
        return -EINVAL
    err = mm_init(c, &c.mms[slot], get64(&old.mmap_base), get64(&old.start_brk))
    if err == 0:
        err = dup_mmap(c, old, &c.mms[slot])
        if err:
            sync_rss(c, old)
            exit_mmap(c, &c.mms[slot])
    return err
