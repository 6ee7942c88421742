"""mremap: shrinks, grows in place, moves, or maps the same pages twice, as Linux 6.18 visibly does.

mmap_lock is held for write and mmap_seq is odd throughout; only a shrink in place, which is a munmap of the tail,
ends downgraded, as munmap does.

    old length > new    unmaps the tail, which may reach over VMAs and holes behind
    the same            nothing, if the first page is mapped at all
    old length < new    grows where it is, if the range ends with its VMA and the room behind is free, and merges with
                        what it meets; else, with MAYMOVE, moves
    0                   of a shared mapping: maps its pages a second time
    FIXED               moves to new_addr, which is unmapped first; shrinks before that, grows on arrival.  If the
                        lengths are the same, the range may hold several VMAs and holes between them (since 6.17): they
                        move one by one and keep their distances, and stay moved if a later one fails
    DONTUNMAP           the pages move, the old range stays mapped and empty; new_addr is a hint unless FIXED

A move makes a VMA at the new place, moves the translations (move_page_tables.pxd) and unmaps the old place.  The new
VMA keeps anon_vma and page offset; of a private anonymous VMA that has never been written to the offset becomes that of
its new place, so that it may merge there.  Other anonymous VMAs that have moved look the same in /proc/PID/maps and do
not merge.

When memory runs out half way, what has been moved is moved back and the new place is unmapped.

Sources: mm/mremap.c and mm/vma.c (copy_vma) of 6.18, and experiments on it for the order of errors."""

from libc.errno cimport EFAULT, EINVAL, ENOMEM

from shmm.arch.arch cimport get32, get64, i64, ld32_relaxed, ld64_relaxed, put64, st32_relaxed, st64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_TASK_SIZE, SHMM_VM_ACCOUNT, SHMM_VM_DONTEXPAND, SHMM_VM_LOCKED,
    SHMM_VM_MAYSHARE, SHMM_VM_PFNMAP, SHMM_VM_SHARED, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP, mm_t, vcpu_t, vma_t,
)
from shmm.mm.anon cimport get_anon_vma, put_anon_vma
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.find_vma cimport find_vma, find_vma_intersection, vma_lookup
from shmm.mm.i_mmap cimport vma_link_file
from shmm.mm.mmap cimport MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, get_unmapped_area, may_expand_vm, vm_enough_memory
from shmm.mm.mmap_lock cimport mmap_write_lock
from shmm.mm.move_page_tables cimport may_move_tables, move_page_tables
from shmm.mm.munmap cimport do_munmap, mmap_unlock_after, page_align
from shmm.mm.vma cimport vm_area_alloc, vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_expand, vma_merge_neighbours
from shmm.mm.vma_tree cimport next_vma, vma_link

cdef enum:
    MREMAP_MAYMOVE = 1
    MREMAP_FIXED = 2
    MREMAP_DONTUNMAP = 4

# One mremap in progress (vma_remap_struct).
cdef struct vrm_t:
    mm_t *mm
    u64 addr, old_len, new_len, new_addr        # lengths in whole pages
    u32 flags
    bint downgraded
    u32 file                    # what moves maps it, or 0
    u64 populate                # how many bytes at the end of the new range are to be faulted in: it grew, locked


cdef inline bint implies_new_addr(vrm_t *r) noexcept nogil:
    return r.flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0


cdef inline bint map_count_low(vcpu_t *c, mm_t *mm, u32 more) noexcept nogil:
    """A move splits one VMA into three and adds one: there must be room, whether it comes to that or not."""
    return get32(&mm.map_count) + more + 3 >= c.g.max_map_count


cdef inline i64 check_mremap_params(vcpu_t *c, vrm_t *r) noexcept nogil:
    """What is wrong whatever is mapped."""
    if r.flags & ~(<u32> MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) or r.addr & (SHMM_PAGE_SIZE - 1):
        return -EINVAL
    if r.new_len == 0 or r.new_len > SHMM_TASK_SIZE:
        return -EINVAL
    if not implies_new_addr(r):
        return 0
    if r.new_addr > SHMM_TASK_SIZE - r.new_len or r.new_addr & (SHMM_PAGE_SIZE - 1):
        return -EINVAL
    if not r.flags & MREMAP_MAYMOVE or (r.flags & MREMAP_DONTUNMAP and r.old_len != r.new_len):
        return -EINVAL
    if r.addr + r.old_len > r.new_addr and r.new_addr + r.new_len > r.addr:         # the two overlap
        return -EINVAL
    return -ENOMEM if map_count_low(c, r.mm, 2) else 0


cdef inline i64 check_vma(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    """What is wrong with the VMA at the old address for what is wanted (check_prep_vma)."""
    cdef u64 flags, pgoff
    cdef u64 inside = min(r.old_len, r.new_len)
    if vma == 0:
        return -EFAULT
    if r.old_len >= r.new_len and not implies_new_addr(r):
        return 0                        # whatever else lies in the range
    flags = ld64_relaxed(&c.vmas[vma].flags)
    if r.old_len == 0 and not flags & (SHMM_VM_SHARED | SHMM_VM_MAYSHARE):
        return -EINVAL
    if r.flags & MREMAP_DONTUNMAP and flags & (SHMM_VM_DONTEXPAND | SHMM_VM_PFNMAP):
        return -EINVAL
    if inside > vma_end(c, vma) - r.addr:
        return -EFAULT
    if inside == r.new_len:
        return 0
    pgoff = ld64_relaxed(&c.vmas[vma].pgoff) + ((r.addr - vma_start(c, vma)) >> SHMM_PAGE_SHIFT)
    if pgoff + (r.new_len >> SHMM_PAGE_SHIFT) < pgoff:
        return -EINVAL
    if flags & (SHMM_VM_DONTEXPAND | SHMM_VM_PFNMAP):
        return -EFAULT
    return 0 if may_expand_vm(c, r.mm, (r.new_len - r.old_len) >> SHMM_PAGE_SHIFT) else -ENOMEM


cdef inline bint may_account(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    """Whether there may ever be the memory by which the mappings grow."""
    cdef u64 more = r.new_len if r.flags & MREMAP_DONTUNMAP else r.new_len - r.old_len
    return not ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_ACCOUNT or vm_enough_memory(c, more)


cdef inline void account(vcpu_t *c, vrm_t *r, u32 vma, u64 length) noexcept nogil:
    """So much more is mapped as the VMA is."""
    cdef u64 pages = length >> SHMM_PAGE_SHIFT
    put64(&r.mm.total_vm, get64(&r.mm.total_vm) + pages)
    if ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_LOCKED:
        put64(&r.mm.locked_vm, get64(&r.mm.locked_vm) + pages)


cdef inline void want_populated(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    cdef u64 flags = ld64_relaxed(&c.vmas[vma].flags)
    if r.new_len > r.old_len and flags & SHMM_VM_LOCKED:
        r.populate = r.new_len - r.old_len


cdef inline u32 copy_vma(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    """A VMA at the new address like the one at the old, merged with its neighbours there, of which the old one may be
    one: look the old one up again.  0: no slots left."""
    cdef vma_t *v = &c.vmas[vma]
    cdef u32 anon = ld32_relaxed(&v.anon_vma)
    cdef u32 file = ld32_relaxed(&v.file)
    cdef u64 pgoff = ld64_relaxed(&v.pgoff) + ((r.addr - vma_start(c, vma)) >> SHMM_PAGE_SHIFT)
    cdef u32 copy
    if file == 0 and anon == 0:
        pgoff = r.new_addr >> SHMM_PAGE_SHIFT
    copy = vm_area_alloc(c, <u32> (r.mm - c.mms), r.new_addr, r.new_addr + r.new_len,
                         ld64_relaxed(&v.flags) & ~(SHMM_VM_UFFD_MISSING | SHMM_VM_UFFD_WP), pgoff, file)
    if copy == 0:           # and userfaultfd does not follow (there is no UFFD_FEATURE_EVENT_REMAP)
        return 0
    vma_link_file(c, copy, file, 0)
    r.file = file
    get_anon_vma(c, anon)
    st32_relaxed(&c.vmas[copy].anon_vma, anon)
    vma_link(c, r.mm, copy)
    return vma_merge_neighbours(c, r.mm, copy)


cdef inline void dontunmap_complete(vcpu_t *c, vrm_t *r, u32 vma, u32 copy) noexcept nogil:
    """The old VMA stays, unlocked as a whole and, if all its pages have gone, without an anon_vma.  That it is still
    counted as locked is the kernel's way."""
    cdef u32 anon = ld32_relaxed(&c.vmas[vma].anon_vma)
    st64_relaxed(&c.vmas[vma].flags, ld64_relaxed(&c.vmas[vma].flags) & ~SHMM_VM_LOCKED)
    if copy != vma and vma_start(c, vma) == r.addr and vma_end(c, vma) == r.addr + r.old_len:
        st32_relaxed(&c.vmas[vma].anon_vma, 0)
        put_anon_vma(c, anon)


cdef inline i64 move_vma(vcpu_t *c, vrm_t *r) noexcept nogil:
    """The range, part of one VMA, goes to new_addr, where nothing is mapped.  new_addr or -ENOMEM."""
    cdef u32 vma = vma_lookup(c, r.mm, r.addr)
    cdef bint tables = may_move_tables(c, r.mm)
    cdef u64 moved
    cdef u32 copy
    if map_count_low(c, r.mm, 0) or not may_account(c, r, vma):
        return -ENOMEM
    want_populated(c, r, vma)
    copy = copy_vma(c, r, vma)
    if copy == 0:
        return -ENOMEM
    account(c, r, copy, r.new_len)
    moved = move_page_tables(c, r.mm, r.addr, r.new_addr, r.old_len, r.file, tables)
    if moved < r.old_len:
        # cannot fail: those tables are still there
        move_page_tables(c, r.mm, r.new_addr, r.addr, moved, r.file, tables)
        do_munmap(c, r.mm, r.new_addr, r.new_addr + r.new_len, False)
        return -ENOMEM
    if r.flags & MREMAP_DONTUNMAP:
        dontunmap_complete(c, r, vma_lookup(c, r.mm, r.addr), copy)
    elif r.old_len:
        # if there is no slot to split with, both mappings stay and only one has pages, as in Linux
        do_munmap(c, r.mm, r.addr, r.addr + r.old_len, False)
    return <i64> r.new_addr


cdef inline i64 place(vcpu_t *c, vrm_t *r) noexcept nogil:
    """Sets new_addr: the address asked for, or a free one.  0 or negative errno."""
    cdef u32 vma = vma_lookup(c, r.mm, r.addr)
    cdef u32 file = ld32_relaxed(&c.vmas[vma].file)
    cdef u32 flags = MAP_FIXED if r.flags & MREMAP_FIXED else 0
    cdef u64 offset = 0
    cdef i64 at
    if file:
        offset = (ld64_relaxed(&c.vmas[vma].pgoff) << SHMM_PAGE_SHIFT) + (r.addr - vma_start(c, vma))
    else:
        flags |= MAP_PRIVATE | MAP_ANONYMOUS
    at = get_unmapped_area(c, r.mm, r.new_addr if implies_new_addr(r) else 0, r.new_len, flags, file, offset)
    if at >= 0:
        r.new_addr = <u64> at
    return min(at, 0)


cdef inline i64 unmap_tail(vcpu_t *c, vrm_t *r, bint downgrade) noexcept nogil:
    """What the range is too long by.  As do_munmap, or -EINVAL."""
    if r.old_len > SHMM_TASK_SIZE - r.addr:
        return -EINVAL
    return do_munmap(c, r.mm, r.addr + r.new_len, r.addr + r.old_len, downgrade)


cdef inline i64 mremap_to(vcpu_t *c, vrm_t *r) noexcept nogil:
    """FIXED or DONTUNMAP."""
    cdef i64 err = 0
    if r.flags & MREMAP_FIXED:
        err = do_munmap(c, r.mm, r.new_addr, r.new_addr + r.new_len, False)
    if err == 0 and r.old_len > r.new_len:
        err = unmap_tail(c, r, False)
        r.old_len = r.new_len
    if err == 0 and r.flags & MREMAP_DONTUNMAP and not may_expand_vm(c, r.mm, r.old_len >> SHMM_PAGE_SHIFT):
        err = -ENOMEM
    if err == 0:
        err = place(c, r)
    return err if err else move_vma(c, r)


cdef inline i64 expand_in_place(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    """The range ends with its VMA and there is room behind."""
    cdef vma_t *v = &c.vmas[vma]
    cdef u64 end = vma_end(c, vma)
    cdef u64 more = r.new_len - r.old_len
    if not may_account(c, r, vma):
        return -ENOMEM
    want_populated(c, r, vma)
    vma_expand(c, r.mm, vma, next_vma(c, vma), end, end + more, ld64_relaxed(&v.flags),
               ld64_relaxed(&v.pgoff) + ((end - vma_start(c, vma)) >> SHMM_PAGE_SHIFT), ld32_relaxed(&v.file))
    account(c, r, vma, more)
    return <i64> r.addr


cdef inline i64 expand_vma(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    cdef u64 end = vma_end(c, vma)
    cdef u64 new_end = end + (r.new_len - r.old_len)
    cdef i64 err
    if (r.addr + r.old_len == end and new_end > end and new_end <= SHMM_TASK_SIZE
            and not find_vma_intersection(c, r.mm, end, new_end)):
        return expand_in_place(c, r, vma)
    if not r.flags & MREMAP_MAYMOVE:
        return -ENOMEM
    err = place(c, r)
    return err if err else move_vma(c, r)


cdef inline i64 mremap_at(vcpu_t *c, vrm_t *r, u32 vma) noexcept nogil:
    """Neither FIXED nor DONTUNMAP."""
    cdef i64 ret
    if r.new_len > r.old_len:
        return expand_vma(c, r, vma)
    r.new_addr = r.addr
    if r.new_len < r.old_len:
        ret = unmap_tail(c, r, True)
        r.downgraded = ret == 1
        if ret < 0:
            return ret
    return <i64> r.addr


cdef inline i64 remap_move(vcpu_t *c, vrm_t *r) noexcept nogil:
    """FIXED and the same length: VMA by VMA.  Where the first went, or the error of the first that failed."""
    cdef u64 start = r.addr
    cdef u64 end = r.addr + r.old_len
    cdef u64 to = r.new_addr
    cdef u64 at = start
    cdef u32 vma = find_vma(c, r.mm, start)
    cdef i64 ret
    if vma == 0 or vma_start(c, vma) > start:
        return -EFAULT
    while vma and vma_start(c, vma) < end:
        r.addr = max(vma_start(c, vma), start)
        at = min(vma_end(c, vma), end)
        r.old_len = at - r.addr
        r.new_len = r.old_len
        r.new_addr = to + (r.addr - start)
        ret = check_vma(c, r, vma)
        if ret == 0:
            ret = mremap_to(c, r)
        if ret < 0:
            return ret
        vma = find_vma(c, r.mm, at) if at < end else 0
    return <i64> to


cdef inline i64 do_mremap(vcpu_t *c, vrm_t *r) noexcept nogil:
    """mmap_lock held for write."""
    cdef u32 vma
    cdef i64 err
    if r.flags & MREMAP_FIXED and r.old_len == r.new_len:
        return remap_move(c, r)
    vma = vma_lookup(c, r.mm, r.addr)
    err = check_vma(c, r, vma)
    if err:
        return err
    return mremap_to(c, r) if implies_new_addr(r) else mremap_at(c, r, vma)


cdef inline i64 vm_mremap(vcpu_t *c, vrm_t *r) noexcept nogil:
    """mremap(2); mm, addr, flags, new_addr and the lengths in bytes are set.  The new address or a negative errno.
    What a locked mapping has grown by is the caller's to fault in: from new_addr + new_len - populate on."""
    cdef i64 ret
    r.old_len = page_align(r.old_len)
    r.new_len = page_align(r.new_len)
    r.downgraded = False
    r.populate = 0
    ret = check_mremap_params(c, r)
    if ret:
        return ret
    mmap_write_lock(c, r.mm)
    ret = do_mremap(c, r)
    mmap_unlock_after(c, r.mm, r.downgraded)
    rcu_relieve(c)
    return ret
