"""get_user_pages_fast: a page of the program, pinned by a reference without any lock.

It is the precedent that speculative faults lean on: a walk of the tables that is protected by nothing but interrupts
being off.

    interrupts off                      whoever frees a table has flushed before, and waits for us (G1); and so has a
                                        collapse that takes a table out of use, or a split (khugepaged, huge_memory)
    pgd -> pud -> pmd -> pte            each read once
    reference + 1, unless it is 0       0: the frame is being freed, or has been
    pmd, pte the same?                  else the frame may be another's by now: drop it
    interrupts on

Anything unusual is left to the slow path: mmap_lock for read, a fault if the page is not there, a reference under the
ptl.

    fast_gup                      munmap, where a flush waits for nobody
    pte: frame F
                                  pte := 0, flush, F is freed, and somebody else's
    F: reference + 1
    pte is not F any more    ---- P: after the reference; the pte was cleared before F's last reference went

Why P at all: on this machine every shootdown waits for CPUs with interrupts off, so that no frame is freed between
the look at its pte and the reference.  x86 had no such check as long as it had a fast_gup of its own.  It is for
machines that invalidate TLBs without interrupting anybody (arm64), and it stands here, too, as the pmd's check does
since Linux 6.1: it makes a collapse safe whose flush interrupts nobody, if its tables are freed by RCU.  The checker
finds it spare.

The pin is a plain reference (FOLL_GET): whoever holds it reads what the page holds as long as the program's own stores
go there.  A page with one is not written in place after fork has shared it (its references are not 1), so what the pin
sees does not change behind it; a collapse leaves an exclusive page alone that has one.

Sources: mm/gup.c (gup_fast and its comment, try_get_folio); arch/x86/mm/gup.c until Linux 4.13."""

from libc.errno cimport EFAULT, ENOMEM

from shmm.arch.arch cimport a64, cmpxchg32, i64, ld32_relaxed, ld64_relaxed, ld_user, mutant, u32, u64
from shmm.arch.mutants cimport SHMM_M_GUP_IRQ_ON, SHMM_M_GUP_NO_RECHECK
from shmm.layout cimport (
    SHMM_C_gup_fast, SHMM_C_gup_slow, SHMM_PAGE_SIZE, SHMM_PTE_PRESENT, SHMM_PTE_SPECIAL, SHMM_TASK_SIZE, SHMM_VM_EXEC,
    SHMM_VM_READ, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.fault cimport handle_kernel_fault, put_page
from shmm.mm.find_vma cimport vma_lookup
from shmm.mm.frame cimport frame_bytes
from shmm.mm.huge_frame cimport compound_head
from shmm.mm.irq cimport irq_disable, irq_enable
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock
from shmm.mm.page_table cimport PTE, entry_below, find_pmd, get_entry, huge_part, pmd_trans_huge, pte_pfn
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vma cimport vma_copy
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport VM_FAULT_OOM, pte_map_lock, pte_set_table, pte_unmap_unlock, vm_fault_t

# A page that has been got: the frame, which holds a reference unless it is the page of zeros.
cdef struct pinned_t:
    u32 pfn
    bint counted


cdef inline bint try_get_frame(vcpu_t *c, u32 pfn) noexcept nogil:
    """A reference, if there is one already."""
    cdef u32 head = compound_head(c, pfn)
    cdef u32 refs = ld32_relaxed(&c.frames[head].refs)
    cdef u32 seen
    while refs:
        seen = cmpxchg32(&c.frames[head].refs, refs, refs + 1)
        if seen == refs:
            return True
        refs = seen
    return False


cdef inline bint gup_get(vcpu_t *c, u64 pte, pinned_t *page) noexcept nogil:
    """Takes what a pte, or a part of a huge pmd, maps, without any lock.  False: not so."""
    page.pfn = pte_pfn(pte)
    page.counted = pte & SHMM_PTE_SPECIAL == 0
    return pte & SHMM_PTE_PRESENT != 0 and (not page.counted or try_get_frame(c, page.pfn))


cdef inline void gup_put(vcpu_t *c, pinned_t *page) noexcept nogil:
    if page.counted:
        put_page(c, page.pfn)


cdef inline bint gup_fast_walk(vcpu_t *c, mm_t *mm, u64 addr, pinned_t *page) noexcept nogil:
    """Interrupts are off.  Whether the page is got for good."""
    cdef a64 *pmdp = find_pmd(c, mm, addr)
    cdef a64 *ptep = pmdp
    cdef u64 pmd = get_entry(pmdp) if pmdp != NULL else 0
    cdef u64 pte = pmd
    if pmd == 0:
        return False
    if not pmd_trans_huge(pmd):
        ptep = entry_below(c, pmd, addr, PTE)
        pte = get_entry(ptep)
    if not gup_get(c, huge_part(pmd, addr) if pmd_trans_huge(pmd) else pte, page):
        return False
    if mutant(SHMM_M_GUP_NO_RECHECK):
        return True
    # P: after the reference, a full barrier; pairs with the one between clearing the entry and the frame's release
    if get_entry(pmdp) == pmd and get_entry(ptep) == pte:
        return True
    gup_put(c, page)
    return False


cdef inline bint gup_fast(vcpu_t *c, mm_t *mm, u64 addr, pinned_t *page) noexcept nogil:
    cdef bint got
    if not mutant(SHMM_M_GUP_IRQ_ON):
        irq_disable(c)
    got = gup_fast_walk(c, mm, addr, page)
    if not mutant(SHMM_M_GUP_IRQ_ON):
        irq_enable(c)
    return got


cdef inline bint follow_huge_pmd(vcpu_t *c, mm_t *mm, a64 *pmdp, u64 addr, pinned_t *page) noexcept nogil:
    cdef u64 pmd
    cdef bint got
    spin_lock(c, &mm.page_table_lock)
    pmd = ld64_relaxed(pmdp)
    got = pmd_trans_huge(pmd) and gup_get(c, huge_part(pmd, addr), page)
    spin_unlock(&mm.page_table_lock)
    return got


cdef inline bint follow_page(vcpu_t *c, vm_fault_t *vmf, pinned_t *page) noexcept nogil:
    """mmap_lock held for read: takes what is mapped, under the lock of its entry.  False: nothing is."""
    cdef a64 *pmdp = find_pmd(c, vmf.mm, vmf.address)
    cdef u64 pmd = get_entry(pmdp) if pmdp != NULL else 0
    cdef bint got
    if pmd == 0:
        return False
    if pmd_trans_huge(pmd):
        return follow_huge_pmd(c, vmf.mm, pmdp, vmf.address, page)
    vmf.pmd = pmdp
    pte_set_table(c, vmf, pmd)
    if not pte_map_lock(c, vmf):
        return False
    got = gup_get(c, get_entry(vmf.pte), page)
    pte_unmap_unlock(vmf)
    return got


cdef inline i64 gup_slow_locked(vcpu_t *c, mm_t *mm, u64 addr, pinned_t *page) noexcept nogil:
    """mmap_lock held for read."""
    cdef vm_fault_t vmf
    cdef u32 vma = vma_lookup(c, mm, addr)
    cdef u32 ret = 0
    if vma == 0:
        return -EFAULT
    vma_copy(&vmf.vma, c, vma)
    if not vmf.vma.flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC):
        return -EFAULT
    vmf.mm = mm
    vmf.address = addr & ~(SHMM_PAGE_SIZE - 1)
    vmf.flags = 0
    vmf.speculative = False
    while not follow_page(c, &vmf, page):
        ret = handle_kernel_fault(c, &vmf)
        if ret:
            return -ENOMEM if ret & VM_FAULT_OOM else -EFAULT
    return 0


cdef inline i64 get_user_page(vcpu_t *c, mm_t *mm, u64 addr, pinned_t *page) noexcept nogil:
    """0, and the page is got; -EFAULT or -ENOMEM."""
    cdef i64 err
    if addr >= SHMM_TASK_SIZE:
        return -EFAULT
    if gup_fast(c, mm, addr, page):
        count_vm_event(c, SHMM_C_gup_fast)
        return 0
    count_vm_event(c, SHMM_C_gup_slow)
    mmap_read_lock(c, mm)
    err = gup_slow_locked(c, mm, addr, page)
    mmap_read_unlock(c, mm)
    return err


cdef inline i64 get_user_byte(vcpu_t *c, mm_t *mm, u64 addr) noexcept nogil:
    """The byte at addr, through the pinned page, which is let go of again; or why not."""
    cdef pinned_t page
    cdef i64 ret = get_user_page(c, mm, addr, &page)
    if ret:
        return ret
    ret = ld_user(frame_bytes(c, page.pfn) + (addr & (SHMM_PAGE_SIZE - 1)))
    gup_put(c, &page)
    return ret
