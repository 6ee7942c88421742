"""Faults on file mappings: classical only (the series dropped its file support in v1).

    do_read_fault     maps the page and its cached neighbours, read-only (fault-around, 16 pages by default)
    do_cow_fault      a write to a private mapping: a copy, anonymous from now on
    do_shared_fault   a write to a shared mapping: the page itself, writable

mmap_lock held for read; each takes the ptl to write its ptes.  A page beyond the file's end is SIGBUS.
The page may be truncated before that lock is taken, so it is asked once more under it (mm/file.pxd)."""

from shmm.arch.arch cimport a64, copy_page, get32, ld64_acquire, ld64_relaxed, smp_mb, u32, u64
from shmm.layout cimport (
    SHMM_FRAME_ANON, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_WRITE, SHMM_PTRS_PER,
    SHMM_VM_SHARED, vcpu_t,
)
from shmm.mm.anon cimport anon_vma_prepare
from shmm.mm.anon_page cimport install_anon_page
from shmm.mm.file cimport find_or_create_page, find_page, page_still_cached, put_page_of_file, try_get_page
from shmm.mm.frame cimport add_batched, alloc_frame, charge, frame_bytes, free_frame, get_frame
from shmm.mm.i_mmap cimport forget_truncated_page
from shmm.mm.page_table cimport PTE, entry_index, set_entry
from shmm.mm.vma cimport linear_page_index, vm_get_page_prot
from shmm.mm.walk cimport FAULT_WRITE, VM_FAULT_OOM, VM_FAULT_SIGBUS, pte_map_lock, pte_unmap_unlock, vm_fault_t


cdef inline u64 file_pte(vcpu_t *c, vm_fault_t *vmf, u32 pfn) noexcept nogil:
    """A pte for reading.  A shared file page stays write-protected until the first write, so that the file system
    hears of it; shared anonymous memory has nobody to tell."""
    cdef u64 prot = vm_get_page_prot(vmf.vma.flags)
    if not get32(&c.files[vmf.vma.file].shmem):
        prot &= ~SHMM_PTE_WRITE
    return <u64> pfn << SHMM_PAGE_SHIFT | prot


cdef inline bint map_file_page(vcpu_t *c, vm_fault_t *vmf, a64 *pte, u32 pfn, u64 bits) noexcept nogil:
    """Under the ptl: fills an empty pte with a file page."""
    if ld64_relaxed(pte) != 0:
        return False
    get_frame(c, pfn)
    set_entry(pte, file_pte(c, vmf, pfn) | bits)
    add_batched(&c.me.rss_file, &vmf.mm.rss_file, 1)
    return True


cdef inline void do_fault_around(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """Under the ptl: maps cached pages around the fault, within VMA, table and file: from the start of the aligned
    window, or of the VMA if that comes later, as many pages as a window has."""
    cdef u64 n = c.g.fault_around
    cdef u64 here = entry_index(vmf.address, PTE)
    cdef u64 before = (vmf.address - vmf.vma.start) >> SHMM_PAGE_SHIFT
    cdef u64 first = max(here & ~(n - 1), here - min(here, before))
    cdef u64 last = min(min(first + n, <u64> SHMM_PTRS_PER),
                        here + ((vmf.vma.end - vmf.address) >> SHMM_PAGE_SHIFT))
    cdef u64 pgoff = linear_page_index(&vmf.vma, vmf.address) - here
    # acquire: pairs with the release when the file grows, as in page_still_cached
    cdef u64 npages = ld64_acquire(&c.files[vmf.vma.file].npages)
    cdef bint cached = not get32(&c.files[vmf.vma.file].shmem)
    cdef u64 i
    cdef u32 pfn
    for i in range(first, last):
        if i == here or pgoff + i >= npages or ld64_relaxed(vmf.pte + i - here) != 0:
            continue
        pfn = find_or_create_page(c, vmf.vma.file, pgoff + i) if cached else find_page(c, vmf.vma.file, pgoff + i)
        if pfn:
            map_file_page(c, vmf, vmf.pte + i - here, pfn, 0)


cdef inline u32 do_read_fault(vcpu_t *c, vm_fault_t *vmf, u32 pfn) noexcept nogil:
    cdef u32 ret = 0
    pte_map_lock(c, vmf)
    if page_still_cached(c, vmf.vma.file, linear_page_index(&vmf.vma, vmf.address), pfn):
        map_file_page(c, vmf, vmf.pte, pfn, SHMM_PTE_ACCESSED)
    else:
        ret = VM_FAULT_SIGBUS
    if c.g.fault_around > 1:
        do_fault_around(c, vmf)
    pte_unmap_unlock(vmf)
    return ret


cdef inline u32 do_shared_fault(vcpu_t *c, vm_fault_t *vmf, u32 pfn) noexcept nogil:
    cdef u32 ret = 0
    pte_map_lock(c, vmf)
    if page_still_cached(c, vmf.vma.file, linear_page_index(&vmf.vma, vmf.address), pfn):
        map_file_page(c, vmf, vmf.pte, pfn, SHMM_PTE_WRITE | SHMM_PTE_DIRTY | SHMM_PTE_ACCESSED)
    else:
        ret = VM_FAULT_SIGBUS
    pte_unmap_unlock(vmf)
    return ret


cdef inline u32 do_cow_fault(vcpu_t *c, vm_fault_t *vmf, u32 page) noexcept nogil:
    cdef u64 pgoff = linear_page_index(&vmf.vma, vmf.address)
    cdef u32 pfn
    if not anon_vma_prepare(c, vmf.mm, vmf.vma.vma):
        return VM_FAULT_OOM
    pfn = alloc_frame(c, SHMM_FRAME_ANON)
    if pfn == 0:
        return VM_FAULT_OOM
    if not try_get_page(c, vmf.vma.file, pgoff, page):      # or what is copied might be another's by now
        free_frame(c, pfn)
        return VM_FAULT_SIGBUS
    copy_page(frame_bytes(c, pfn), frame_bytes(c, page), SHMM_PAGE_SIZE)
    put_page_of_file(c, page)
    charge(c)
    vmf.page = page
    return install_anon_page(c, vmf, pfn)


cdef inline u32 fault_beyond_end(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    """There is no such page.  But before a fault asks for its page, a read maps the neighbours, which stay, and a write
    to a private mapping sees to the anon_vma, which decides what merges and what fork copies."""
    if vmf.flags & FAULT_WRITE:
        if not vmf.vma.flags & SHMM_VM_SHARED and not anon_vma_prepare(c, vmf.mm, vmf.vma.vma):
            return VM_FAULT_OOM
    elif c.g.fault_around > 1:
        pte_map_lock(c, vmf)
        smp_mb()                # T: pairs with the one in shrink
        do_fault_around(c, vmf)
        pte_unmap_unlock(vmf)
    return VM_FAULT_SIGBUS


cdef inline u32 map_page_of_kind(vcpu_t *c, vm_fault_t *vmf, u32 pfn) noexcept nogil:
    if not vmf.flags & FAULT_WRITE:
        return do_read_fault(c, vmf, pfn)
    if vmf.vma.flags & SHMM_VM_SHARED:
        return do_shared_fault(c, vmf, pfn)
    return do_cow_fault(c, vmf, pfn)


cdef inline u32 do_fault(vcpu_t *c, vm_fault_t *vmf) noexcept nogil:
    cdef u64 pgoff = linear_page_index(&vmf.vma, vmf.address)
    cdef u32 pfn, ret
    if pgoff >= ld64_relaxed(&c.files[vmf.vma.file].npages):
        return fault_beyond_end(c, vmf)
    pfn = find_or_create_page(c, vmf.vma.file, pgoff)
    if pfn == 0:
        return VM_FAULT_OOM
    ret = map_page_of_kind(c, vmf, pfn)
    if ret == VM_FAULT_SIGBUS and not forget_truncated_page(c, vmf.vma.file, pgoff):
        return 0                # the file has grown again: the access is repeated, and finds another page
    return ret
