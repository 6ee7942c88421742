"""mmap: flags and errors as Linux, placement top-down, merging with neighbours.

mmap_lock held for write throughout, mmap_seq odd.  MAP_FIXED unmaps what is in the way without a downgrade.
Flag and protection values are Linux's (x86-64).

What is asked for first is refused first, and the order is the kernel's (6.18; do_mmap and mmap_region):

    EINVAL  offset not of whole pages            ENOMEM  beyond the address space, or no hole
    EBADF   no such file                         EINVAL  MAP_FIXED at no page boundary
    EINVAL  length 0                             EPERM   MAP_FIXED below vm.mmap_min_addr
    ENOMEM  length rounds up to 0                EEXIST  MAP_FIXED_NOREPLACE, and something is there
    EOVERFLOW  offset + length wraps             EINVAL, EOPNOTSUPP  the kind of mapping and what it excludes
    ENOMEM  vm.max_map_count                     ENOMEM  RLIMIT_AS, overcommit, no VMA left

A private mapping that may be written and is not MAP_NORESERVE is accounted (VM_ACCOUNT), which keeps it from merging
with one that is not.  MAP_STACK asks for no huge pages, which keeps a thread's stack from merging, too."""

from libc.errno cimport EBADF, EEXIST, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM

from shmm.arch.arch cimport get32, get64, i64, ld64_relaxed, put64, u32, u64
from shmm.layout cimport (
    SHMM_32BIT_BASE, SHMM_32BIT_END, SHMM_MMAP_MIN, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_PMD_SHIFT, SHMM_TASK_SIZE,
    SHMM_VM_ACCOUNT, SHMM_VM_GROWSDOWN, SHMM_VM_LOCKED, SHMM_VM_MAYEXEC, SHMM_VM_MAYREAD, SHMM_VM_MAYSHARE,
    SHMM_VM_MAYWRITE, SHMM_VM_NOHUGEPAGE, SHMM_VM_NORESERVE, SHMM_VM_SHARED, SHMM_VM_WRITE, mm_t, vcpu_t,
)
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.file cimport file_new, put_file
from shmm.mm.find_vma cimport (
    find_hole, find_hole_aligned, find_vma, find_vma_intersection, unmapped_area, vm_start_gap,
)
from shmm.mm.i_mmap cimport vma_link_file
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.munmap cimport do_munmap, page_align
from shmm.mm.vma cimport vm_area_alloc, vma_end, vma_start
from shmm.mm.vma_adjust cimport vma_expand
from shmm.mm.vma_tree cimport next_vma, prev_vma, vma_link

cdef enum:
    PROT_READ = 1
    PROT_WRITE = 2
    PROT_EXEC = 4
    MAP_SHARED = 0x01
    MAP_PRIVATE = 0x02
    MAP_SHARED_VALIDATE = 0x03
    MAP_TYPE = 0x0f
    MAP_FIXED = 0x10
    MAP_ANONYMOUS = 0x20
    MAP_32BIT = 0x40
    MAP_GROWSDOWN = 0x0100
    MAP_LOCKED = 0x2000
    MAP_NORESERVE = 0x4000
    MAP_POPULATE = 0x8000
    MAP_NONBLOCK = 0x10000
    MAP_STACK = 0x20000
    MAP_FIXED_NOREPLACE = 0x100000
    FILE_MAX = 0x7fffffffffffffff   # MAX_LFS_FILESIZE
    MAP_VALID = 0x7c07f9f3          # LEGACY_MAP_MASK: what MAP_SHARED_VALIDATE accepts


cdef inline u64 calc_vm_prot_bits(u32 prot) noexcept nogil:
    return prot & (PROT_READ | PROT_WRITE | PROT_EXEC)      # VM_READ, VM_WRITE and VM_EXEC are the same bits


cdef inline u64 calc_vm_flags(u32 prot, u32 flags) noexcept nogil:
    cdef u64 vm = calc_vm_prot_bits(prot) | SHMM_VM_MAYREAD | SHMM_VM_MAYWRITE | SHMM_VM_MAYEXEC
    if flags & MAP_TYPE != MAP_PRIVATE:
        vm |= SHMM_VM_SHARED | SHMM_VM_MAYSHARE
    if flags & MAP_GROWSDOWN:
        vm |= SHMM_VM_GROWSDOWN
    if flags & MAP_LOCKED:
        vm |= SHMM_VM_LOCKED
    if flags & MAP_NORESERVE:
        vm |= SHMM_VM_NORESERVE
    if flags & MAP_STACK:
        vm |= SHMM_VM_NOHUGEPAGE
    return vm


cdef inline i64 check_kind(u32 flags) noexcept nogil:
    """What may be mapped how: 0, -EINVAL or -EOPNOTSUPP."""
    cdef u32 type = flags & MAP_TYPE
    if flags & MAP_ANONYMOUS:
        if type != MAP_PRIVATE and (type != MAP_SHARED or flags & MAP_GROWSDOWN):
            return -EINVAL
        return 0
    if type == MAP_SHARED_VALIDATE and flags & ~(<u32> MAP_VALID):
        return -EOPNOTSUPP
    if type == 0 or type > MAP_SHARED_VALIDATE or flags & MAP_GROWSDOWN:    # a file has no end to grow beyond
        return -EINVAL
    return 0


cdef inline i64 fixed_area(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u32 flags) noexcept nogil:
    if addr > <u64> -4096:
        return <i64> addr               # IS_ERR_VALUE: an address that looks like an error is returned as one
    if addr > SHMM_TASK_SIZE - length:
        return -ENOMEM
    if addr & (SHMM_PAGE_SIZE - 1):
        return -EINVAL
    if addr < SHMM_MMAP_MIN:
        return -EPERM
    if flags & MAP_FIXED_NOREPLACE and find_vma_intersection(c, mm, addr, addr + length):
        return -EEXIST
    return <i64> addr


cdef inline bint fits_huge_pages(vcpu_t *c, u64 length, u32 flags, bint hinted, u32 file, u64 offset) noexcept nogil:
    """Whether a place for huge pages is looked for: of private anonymous memory for whole ones only (since 6.12), and
    if nobody said where; of a file (ext4 and its kind) wherever one fits; of shared memory not at all."""
    cdef u64 size = <u64> 1 << SHMM_PMD_SHIFT
    if flags & MAP_ANONYMOUS:
        if flags & MAP_TYPE != MAP_PRIVATE or hinted or length & (size - 1):
            return False
    elif get32(&c.files[file].shmem):
        return False
    return offset + length >= ((offset + size - 1) & ~(size - 1)) + size


cdef inline bint hint_is_free(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u64 limit) noexcept nogil:
    cdef u32 vma
    if length > limit or addr > limit - length:
        return False
    vma = find_vma(c, mm, addr)
    return vma == 0 or vm_start_gap(c, vma) >= addr + length


cdef inline i64 get_unmapped_area(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u32 flags, u32 file,
                                  u64 offset) noexcept nogil:
    """Where a mapping of length bytes goes: the fixed address, the hint if it is free, or the highest hole."""
    cdef u64 limit = SHMM_32BIT_END if flags & MAP_32BIT else SHMM_TASK_SIZE
    cdef bint hinted
    if length > SHMM_TASK_SIZE:
        return -ENOMEM
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        return fixed_area(c, mm, addr, length, flags)
    addr &= ~(SHMM_PAGE_SIZE - 1)
    hinted = addr != 0
    if hinted:
        addr = max(addr, <u64> SHMM_MMAP_MIN)
    if hinted and hint_is_free(c, mm, addr, length, limit):
        return <i64> addr
    addr = 0
    if flags & MAP_32BIT:
        addr = unmapped_area(c, mm, length, SHMM_32BIT_BASE, SHMM_32BIT_END)
        return <i64> addr if addr else -ENOMEM
    if c.g.thp_align and fits_huge_pages(c, length, flags, hinted, file, offset):
        addr = find_hole_aligned(c, mm, length, offset)
    if addr == 0:
        addr = find_hole(c, mm, length)
    return <i64> addr if addr else -ENOMEM


cdef inline u32 prev_of_hole(vcpu_t *c, mm_t *mm, u32 next) noexcept nogil:
    return prev_vma(c, next) if next else get32(&mm.vma_last)


cdef inline bint vm_enough_memory(vcpu_t *c, u64 length) noexcept nogil:
    """OVERCOMMIT_GUESS: only what could never be is refused."""
    return not c.g.totalram or length >> SHMM_PAGE_SHIFT <= c.g.totalram


cdef inline bint may_expand_vm(vcpu_t *c, mm_t *mm, u64 pages) noexcept nogil:
    return not c.g.rlimit_as or get64(&mm.total_vm) + pages <= c.g.rlimit_as


cdef inline bint may_replace(vcpu_t *c, mm_t *mm, u64 addr, u64 end, u64 vm_flags) noexcept nogil:
    """Whether the limits allow the mapping, what is in its way being gone; with no limits nobody looks."""
    cdef u64 gone = 0
    cdef u64 accounted = 0
    cdef u64 part
    cdef u32 vma
    if not c.g.rlimit_as and not c.g.totalram:
        return True
    vma = find_vma_intersection(c, mm, addr, end)
    while vma and vma_start(c, vma) < end:
        part = min(vma_end(c, vma), end) - max(vma_start(c, vma), addr)
        gone += part
        if ld64_relaxed(&c.vmas[vma].flags) & SHMM_VM_ACCOUNT:
            accounted += part
        vma = next_vma(c, vma)
    if not may_expand_vm(c, mm, (end - addr - gone) >> SHMM_PAGE_SHIFT):
        return False
    return not vm_flags & SHMM_VM_ACCOUNT or vm_enough_memory(c, end - addr - accounted)


cdef inline i64 mmap_region(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u64 vm_flags, u32 file,
                            u64 pgoff) noexcept nogil:
    """Puts the mapping at addr, replacing what is there.  Takes a reference on the file.  0 or negative errno."""
    cdef u64 end = addr + length
    cdef u32 next, vma
    cdef i64 err
    if vm_flags & (SHMM_VM_NORESERVE | SHMM_VM_SHARED | SHMM_VM_WRITE) == SHMM_VM_WRITE:
        vm_flags |= SHMM_VM_ACCOUNT
    if not may_replace(c, mm, addr, end, vm_flags):
        return -ENOMEM
    err = do_munmap(c, mm, addr, end, False)
    if err:
        return err
    next = find_vma(c, mm, addr)
    if vma_expand(c, mm, prev_of_hole(c, mm, next), next, addr, end, vm_flags, pgoff, file) == 0:
        vma = vm_area_alloc(c, <u32> (mm - c.mms), addr, end, vm_flags, pgoff, file)
        if vma == 0:
            return -ENOMEM
        vma_link_file(c, vma, file, 0)
        vma_link(c, mm, vma)
    put64(&mm.total_vm, get64(&mm.total_vm) + (length >> SHMM_PAGE_SHIFT))
    if vm_flags & SHMM_VM_LOCKED:
        put64(&mm.locked_vm, get64(&mm.locked_vm) + (length >> SHMM_PAGE_SHIFT))
    return 0


cdef inline i64 do_mmap(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u32 prot, u32 flags, u32 file,
                        u64 pgoff) noexcept nogil:
    """mmap_lock held for write.  The address or a negative errno."""
    cdef u64 vm_flags = calc_vm_flags(prot, flags)
    cdef i64 ret
    length = page_align(length)
    if length == 0:
        return -ENOMEM
    if pgoff + (length >> SHMM_PAGE_SHIFT) < pgoff:
        return -EOVERFLOW
    if get32(&mm.map_count) > c.g.max_map_count:
        return -ENOMEM
    ret = get_unmapped_area(c, mm, addr, length, flags, file, pgoff << SHMM_PAGE_SHIFT)
    if ret < 0:
        return ret
    addr = <u64> ret
    if not flags & MAP_ANONYMOUS and pgoff > (FILE_MAX - length) >> SHMM_PAGE_SHIFT:
        return -EOVERFLOW
    ret = check_kind(flags)
    if ret < 0:
        return ret
    if flags & MAP_ANONYMOUS:
        file = 0
        pgoff = addr >> SHMM_PAGE_SHIFT         # a private anonymous VMA's offset is its address
        if vm_flags & SHMM_VM_SHARED:
            file = file_new(c, length >> SHMM_PAGE_SHIFT, length >> SHMM_PAGE_SHIFT, True)
            pgoff = 0
            if file == 0:
                return -ENOMEM
    ret = mmap_region(c, mm, addr, length, vm_flags, file, pgoff)
    if file and flags & MAP_ANONYMOUS:
        put_file(c, file)                       # the VMA holds it now
    return ret if ret < 0 else <i64> addr


cdef inline i64 vm_mmap(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u32 prot, u32 flags, u32 file,
                        u64 offset) noexcept nogil:
    """mmap(2), population excepted (that is the caller's: it faults): the address or a negative errno."""
    cdef i64 ret
    if offset & (SHMM_PAGE_SIZE - 1):
        return -EINVAL
    if not flags & MAP_ANONYMOUS and (file == 0 or file >= c.g.nfile or ld64_relaxed(&c.files[file].slots) == 0):
        return -EBADF
    if length == 0:
        return -EINVAL
    mmap_write_lock(c, mm)
    ret = do_mmap(c, mm, addr, length, prot, flags, file, offset >> SHMM_PAGE_SHIFT)
    mmap_write_unlock(c, mm)
    rcu_relieve(c)
    return ret


cdef inline i64 vm_map_special(vcpu_t *c, mm_t *mm, u64 start, u64 end, u64 vm_flags, u32 file,
                               u64 pgoff) noexcept nogil:
    """A mapping with exactly these flags, merged with nothing: the stack, the vdso, whatever a program is born with
    (insert_vm_struct).  0, -EINVAL, -EEXIST or -ENOMEM."""
    cdef u32 vma
    cdef i64 ret = 0
    if (start | end) & (SHMM_PAGE_SIZE - 1) or start >= end or end > SHMM_TASK_SIZE or file >= c.g.nfile:
        return -EINVAL
    mmap_write_lock(c, mm)
    if find_vma_intersection(c, mm, start, end):
        ret = -EEXIST
    else:
        vma = vm_area_alloc(c, <u32> (mm - c.mms), start, end, vm_flags, pgoff, file)
        if vma == 0:
            ret = -ENOMEM
        else:
            vma_link_file(c, vma, file, 0)
            vma_link(c, mm, vma)
            put64(&mm.total_vm, get64(&mm.total_vm) + ((end - start) >> SHMM_PAGE_SHIFT))
    mmap_write_unlock(c, mm)
    return ret
