"""Answers to userfaultfd's messages: UFFDIO_COPY, ZEROPAGE, WRITEPROTECT and WAKE.

A page is put in place as a fault would, under mmap_lock for read and the ptl, if the pte is empty (-EEXIST otherwise:
two CPUs may have faulted on one page, and it is answered once); then whoever waits in the range is woken.  The page is
complete when it can be seen: hence an operation of its own, rather than a mapping that the program then fills.

Of several pages, what was done before a failure stays done, and the result is -EAGAIN; the failure, if nothing was.

Source: mm/userfaultfd.c (mfill_atomic, mwriteprotect_range)."""

from libc.errno cimport EAGAIN, EEXIST, EINVAL, ENOENT, ENOMEM

from shmm.arch.arch cimport a64, fill_page, i64, ld64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PTE_DIRTY, SHMM_PTE_SPECIAL, SHMM_PTE_UFFD_WP,
    SHMM_PTE_WRITE, SHMM_UFFDIO_COPY, SHMM_UFFDIO_UNPROTECT, SHMM_UFFDIO_WAKE, SHMM_UFFDIO_WRITEPROTECT,
    SHMM_UFFDIO_ZEROPAGE, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP, SHMM_VM_WRITE, mm_t, spinlock_t, vcpu_t,
)
from shmm.mm.anon cimport anon_vma_prepare
from shmm.mm.anon_page cimport drop_anon_page
from shmm.mm.find_vma cimport find_vma
from shmm.mm.frame cimport add_batched, alloc_frame, charge, frame_bytes
from shmm.mm.lru cimport lru_add
from shmm.mm.mmap_lock cimport mmap_read_lock, mmap_read_unlock
from shmm.mm.page_table cimport PTE, entry_below, get_entry, pmd_alloc, pte_lockptr, pte_pfn, set_entry
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.userfaultfd cimport uffd_wake_range
from shmm.mm.userfaultfd_register cimport uffd_wp_range, validate_range
from shmm.mm.vma cimport vm_get_page_prot, vma_end, vma_start
from shmm.mm.vma_tree cimport next_vma

cdef enum:
    FILL_DONTWAKE = 1           # UFFDIO_*_MODE_DONTWAKE
    FILL_WP = 2                 # UFFDIO_COPY_MODE_WP


cdef inline i64 mfill_install(vcpu_t *c, mm_t *mm, u64 addr, u64 pte) noexcept nogil:
    """Fills the empty pte.  Unless it returns 0 the page is still the caller's."""
    cdef a64 *entry = pmd_alloc(c, mm, addr)
    cdef spinlock_t *ptl
    cdef i64 ret = -EEXIST
    if entry == NULL:
        return -ENOMEM
    ptl = pte_lockptr(c, get_entry(entry))
    entry = entry_below(c, get_entry(entry), addr, PTE)
    spin_lock(c, ptl)
    if ld64_relaxed(entry) == 0:
        if not pte & SHMM_PTE_SPECIAL:
            add_batched(&c.me.rss_anon, &mm.rss_anon, 1)
            lru_add(c, pte_pfn(pte))
        set_entry(entry, pte)
        ret = 0
    spin_unlock(ptl)
    return ret


cdef inline i64 mfill_copy(vcpu_t *c, mm_t *mm, u32 vma, u64 addr, u64 byte, u64 mode) noexcept nogil:
    """A page of one byte, repeated."""
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    cdef u64 bits = vm_get_page_prot(flags) | SHMM_PTE_DIRTY
    cdef u32 pfn
    cdef i64 ret
    if not anon_vma_prepare(c, mm, vma):
        return -ENOMEM
    pfn = alloc_frame(c, SHMM_FRAME_ANON)
    if pfn == 0:
        return -ENOMEM
    fill_page(frame_bytes(c, pfn), <int> (byte & 255), SHMM_PAGE_SIZE)
    charge(c)
    if mode & FILL_WP:
        bits |= SHMM_PTE_UFFD_WP
    elif flags & SHMM_VM_WRITE:
        bits |= SHMM_PTE_WRITE
    ret = mfill_install(c, mm, addr, <u64> pfn << SHMM_PAGE_SHIFT | bits)
    if ret:
        drop_anon_page(c, pfn)
    return ret


cdef inline i64 mfill(vcpu_t *c, mm_t *mm, u32 op, u32 vma, u64 addr, u64 byte, u64 mode) noexcept nogil:
    """One page.  0 or a negative errno."""
    if op == SHMM_UFFDIO_COPY:
        return mfill_copy(c, mm, vma, addr, byte, mode)
    return mfill_install(c, mm, addr, vm_get_page_prot(ld64_relaxed(&c.vmas[vma].flags)) | SHMM_PTE_SPECIAL)


cdef inline i64 mfill_range(vcpu_t *c, mm_t *mm, u32 op, u64 start, u64 end, u64 byte, u64 mode) noexcept nogil:
    """mmap_lock held for read; the range must be part of one registered VMA.  Bytes done, or a negative errno."""
    cdef u32 vma = find_vma(c, mm, start)
    cdef u64 at = start
    cdef u64 flags
    cdef i64 err = 0
    if vma == 0 or vma_start(c, vma) > start or vma_end(c, vma) < end:
        return -ENOENT
    flags = ld64_relaxed(&c.vmas[vma].flags)
    if not flags & (SHMM_VM_UFFD_MISSING | SHMM_VM_UFFD_WP):
        return -ENOENT
    if mode & FILL_WP and not flags & SHMM_VM_UFFD_WP:
        return -EINVAL
    while at < end and err == 0:
        err = mfill(c, mm, op, vma, at, byte, mode)
        if err == 0:
            at += SHMM_PAGE_SIZE
    return <i64> (at - start) if at > start else err


cdef inline i64 mwriteprotect_range(vcpu_t *c, mm_t *mm, u64 start, u64 end, bint protect) noexcept nogil:
    """mmap_lock held for read.  0, or -ENOENT at the first mapping that is not registered for this, or without any."""
    cdef u32 vma = find_vma(c, mm, start)
    cdef i64 ret = -ENOENT
    while vma and vma_start(c, vma) < end:
        if not ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_UFFD_WP:
            return -ENOENT
        uffd_wp_range(c, mm, max(start, vma_start(c, vma)), min(end, vma_end(c, vma)),
                      ld64_relaxed(&c.vmas[vma].flags), protect)
        ret = 0
        vma = next_vma(c, vma)
    return ret


cdef inline i64 uffdio_fill(vcpu_t *c, mm_t *mm, u32 op, u64 start, u64 length, u64 byte, u64 mode) noexcept nogil:
    cdef i64 done
    mmap_read_lock(c, mm)
    done = mfill_range(c, mm, op, start, start + length, byte, mode)
    mmap_read_unlock(c, mm)
    if done > 0 and not mode & FILL_DONTWAKE:
        uffd_wake_range(c, mm, start, start + <u64> done)
    return done if done < 0 else 0 if <u64> done == length else -EAGAIN


cdef inline i64 uffdio_writeprotect(vcpu_t *c, mm_t *mm, u64 start, u64 length, bint protect, u64 mode) noexcept nogil:
    cdef i64 ret
    mmap_read_lock(c, mm)
    ret = mwriteprotect_range(c, mm, start, start + length, protect)
    mmap_read_unlock(c, mm)
    if ret == 0 and not protect and not mode & FILL_DONTWAKE:
        uffd_wake_range(c, mm, start, start + length)
    return ret


cdef inline i64 vm_uffdio(vcpu_t *c, mm_t *mm, u32 op, u64 start, u64 length, u64 byte, u64 mode) noexcept nogil:
    """One of SHMM_UFFDIO_* that answers.  0 or a negative errno."""
    cdef u64 modes = FILL_DONTWAKE | FILL_WP if op == SHMM_UFFDIO_COPY else FILL_DONTWAKE
    if validate_range(start, length) or mode & ~modes or (op == SHMM_UFFDIO_WRITEPROTECT and mode):
        return -EINVAL
    if op == SHMM_UFFDIO_COPY or op == SHMM_UFFDIO_ZEROPAGE:
        return uffdio_fill(c, mm, op, start, length, byte, mode)
    if op == SHMM_UFFDIO_WRITEPROTECT or op == SHMM_UFFDIO_UNPROTECT:
        return uffdio_writeprotect(c, mm, start, length, op == SHMM_UFFDIO_WRITEPROTECT, mode)
    if op != SHMM_UFFDIO_WAKE:
        return -EINVAL
    uffd_wake_range(c, mm, start, start + length)
    return 0
