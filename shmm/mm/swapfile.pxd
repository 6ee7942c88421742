"""The swap area: slots of a page each, in shared memory behind the frames (a RAM disk, in a way: brd or zram).

A slot is free, in the list, or its count says how many swap entries name it, all under swap_pool.lock.  Contents are
written once, before the first entry can be seen, and read by whoever holds the ptl of an entry that names it: that
entry's reference keeps the slot (swap_fault.pxd says what happens otherwise).

There is no swap cache.  The kernel keeps the frame of a page that it reads or writes under the slot's number, to let
processes that share the page meet there again and to spare a clean page its second write.  Here each of them reads a
copy of its own, and every page that goes out is written.

Source: mm/swapfile.c."""

from shmm.arch.arch cimport get32, ld64_relaxed, poison_range, put32, st64_relaxed, u8, u32, unpoison_range
from shmm.layout cimport SHMM_PAGE_SIZE, vcpu_t
from shmm.mm.frame cimport frame_bytes
from shmm.mm.spinlock cimport spin_lock, spin_unlock


cdef inline u8 *swap_bytes(vcpu_t *c, u32 slot) noexcept nogil:
    return frame_bytes(c, c.g.frame_end + slot)


cdef inline u32 get_swap_page(vcpu_t *c) noexcept nogil:
    """A slot with a count of one, or 0: the area is full, or there is none."""
    cdef u32 slot
    spin_lock(c, &c.g.swap_pool.lock)
    slot = get32(&c.g.swap_pool.head)
    if slot:
        put32(&c.g.swap_pool.head, get32(&c.slots[slot].next))
        st64_relaxed(&c.g.swap_pool.free, ld64_relaxed(&c.g.swap_pool.free) - 1)
        put32(&c.slots[slot].count, 1)
        unpoison_range(swap_bytes(c, slot), SHMM_PAGE_SIZE)
    spin_unlock(&c.g.swap_pool.lock)
    return slot


cdef inline void swap_duplicate(vcpu_t *c, u32 slot) noexcept nogil:
    """One more entry names the slot; the caller holds the ptl of one that does."""
    spin_lock(c, &c.g.swap_pool.lock)
    put32(&c.slots[slot].count, get32(&c.slots[slot].count) + 1)
    spin_unlock(&c.g.swap_pool.lock)


cdef inline void swap_free(vcpu_t *c, u32 slot) noexcept nogil:
    """An entry is gone; with the last one, the slot is free."""
    spin_lock(c, &c.g.swap_pool.lock)
    put32(&c.slots[slot].count, get32(&c.slots[slot].count) - 1)
    if get32(&c.slots[slot].count) == 0:
        poison_range(swap_bytes(c, slot), SHMM_PAGE_SIZE)
        put32(&c.slots[slot].next, get32(&c.g.swap_pool.head))
        put32(&c.g.swap_pool.head, slot)
        st64_relaxed(&c.g.swap_pool.free, ld64_relaxed(&c.g.swap_pool.free) + 1)
    spin_unlock(&c.g.swap_pool.lock)
