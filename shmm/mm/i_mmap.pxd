"""Who maps a file: its list of VMAs (address_space.i_mmap), for those who come from the file and not from an address.

A truncation walks page tables of address spaces whose mmap_lock it does not hold, nor could take inside i_mmap_lock.
So everybody else keeps, for VMAs that have a file:

    link       before a VMA is in the tree and has ptes; fork puts the child's behind its parent's
    range      start, end and offset change under i_mmap_lock, and between two VMAs both at once
    ptes       mremap moves them under i_mmap_lock; or a truncation could look at each place when they are at the other
    unlink     after the VMA's ptes are gone, before the page tables are: from then on nobody comes by

    munmap                                     truncate
    clear the ptes                             lock; each VMA: walk its tables, clear ptes
    unlink             ---- U ----             unlock
    free the tables

U: i_mmap_lock stands between a walk and the freeing.  The order of the list matters to fork alone, which copies ptes
under the parent's ptl: what a truncation finds gone in the parent was copied before, and is found in the child after.

Nothing is asked of a VMA where the machine has no room for any file's page.

Sources: mm/vma.c (vma_prepare, vma_complete, vma_link_file), mm/memory.c (free_pgtables, unmap_mapping_range),
mm/mremap.c (take_rmap_locks)."""

from shmm.arch.arch cimport get32, ld32_relaxed, ld64_relaxed, put32, u32, u64
from shmm.layout cimport SHMM_C_truncate_raced, vcpu_t
from shmm.mm.file cimport empty_slots, get_file
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event

cdef enum:
    FIRST_SLOT = 2              # of the page cache that a file can have


cdef inline u32 vma_file(vcpu_t *c, u32 vma) noexcept nogil:
    """The file that a VMA maps, or 0."""
    return ld32_relaxed(&c.vmas[vma].file) if c.g.ncache > FIRST_SLOT else 0


cdef inline void i_mmap_lock(vcpu_t *c, u32 file) noexcept nogil:
    """file 0: nothing to lock."""
    if file:
        spin_lock(c, &c.files[file].i_mmap_lock)


cdef inline void i_mmap_unlock(vcpu_t *c, u32 file) noexcept nogil:
    if file:
        spin_unlock(&c.files[file].i_mmap_lock)


cdef inline void i_mmap_insert(vcpu_t *c, u32 file, u32 vma, u32 prev) noexcept nogil:
    cdef u32 next = get32(&c.vmas[prev].i_mmap_next) if prev else get32(&c.files[file].i_mmap)
    put32(&c.vmas[vma].i_mmap_prev, prev)
    put32(&c.vmas[vma].i_mmap_next, next)
    if prev:
        put32(&c.vmas[prev].i_mmap_next, vma)
    else:
        put32(&c.files[file].i_mmap, vma)
    if next:
        put32(&c.vmas[next].i_mmap_prev, vma)
    put32(&c.vmas[vma].in_i_mmap, 1)


cdef inline void i_mmap_remove(vcpu_t *c, u32 file, u32 vma) noexcept nogil:
    """If it is in the list."""
    cdef u32 prev = get32(&c.vmas[vma].i_mmap_prev)
    cdef u32 next = get32(&c.vmas[vma].i_mmap_next)
    if not get32(&c.vmas[vma].in_i_mmap):
        return
    if prev:
        put32(&c.vmas[prev].i_mmap_next, next)
    else:
        put32(&c.files[file].i_mmap, next)
    if next:
        put32(&c.vmas[next].i_mmap_prev, prev)
    put32(&c.vmas[vma].in_i_mmap, 0)


cdef inline void vma_link_file(vcpu_t *c, u32 vma, u32 file, u32 prev) noexcept nogil:
    """A new VMA maps this file, and holds a reference on it; it comes behind prev, or first."""
    if file:
        get_file(c, file)
        i_mmap_lock(c, file)
        i_mmap_insert(c, file, vma, prev)
        i_mmap_unlock(c, file)


cdef inline void unlink_file_vma(vcpu_t *c, u32 vma) noexcept nogil:
    """No ptes of it are left, and none will come."""
    cdef u32 file = vma_file(c, vma)
    if file:
        i_mmap_lock(c, file)
        i_mmap_remove(c, file, vma)
        i_mmap_unlock(c, file)


cdef inline void unlink_file_vmas(vcpu_t *c, u32 vmas) noexcept nogil:
    """All of a detached list."""
    while vmas:
        unlink_file_vma(c, vmas)
        vmas = get32(&c.vmas[vmas].next) if c.g.ncache > FIRST_SLOT else 0


cdef inline bint forget_truncated_page(vcpu_t *c, u32 file, u64 pgoff) noexcept nogil:
    """A fault found a page, but could not map it any more, and may itself have put it into a slot that a truncation had
    emptied.  Whether it is beyond the end; if not, the fault should begin again."""
    cdef bint beyond
    i_mmap_lock(c, file)
    beyond = pgoff >= ld64_relaxed(&c.files[file].npages)
    if beyond:
        empty_slots(c, file, pgoff, pgoff + 1)
    i_mmap_unlock(c, file)
    count_vm_event(c, SHMM_C_truncate_raced)
    return beyond
