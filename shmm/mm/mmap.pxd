"""mmap: flags and errors as Linux, placement top-down, merging with neighbours.

mmap_lock held for write throughout, mmap_seq odd.  MAP_FIXED unmaps what is in the way without a downgrade.
Flag and protection values are Linux's (x86-64)."""

from libc.errno cimport EBADF, EEXIST, EINVAL, ENOMEM, EOVERFLOW, EPERM

from shmm.arch.arch cimport get32, get64, i64, ld64_relaxed, put64, u32, u64
from shmm.layout cimport (
    SHMM_MAX_MAP_COUNT, SHMM_MMAP_MIN, SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE, SHMM_TASK_SIZE, SHMM_VM_GROWSDOWN,
    SHMM_VM_LOCKED, SHMM_VM_MAYEXEC, SHMM_VM_MAYREAD, SHMM_VM_MAYSHARE, SHMM_VM_MAYWRITE, SHMM_VM_NORESERVE,
    SHMM_VM_SHARED, mm_t, vcpu_t,
)
from shmm.mm.call_rcu cimport rcu_relieve
from shmm.mm.file cimport file_new, get_file, put_file
from shmm.mm.find_vma cimport find_vma, find_vma_intersection, unmapped_area_topdown
from shmm.mm.mmap_lock cimport mmap_write_lock, mmap_write_unlock
from shmm.mm.munmap cimport do_munmap, page_align
from shmm.mm.vma cimport vm_area_alloc, vma_start
from shmm.mm.vma_adjust cimport vma_expand
from shmm.mm.vma_tree cimport prev_vma, vma_link

cdef enum:
    PROT_READ = 1
    PROT_WRITE = 2
    PROT_EXEC = 4
    MAP_SHARED = 0x01
    MAP_PRIVATE = 0x02
    MAP_TYPE = 0x0f
    MAP_FIXED = 0x10
    MAP_ANONYMOUS = 0x20
    MAP_GROWSDOWN = 0x0100
    MAP_LOCKED = 0x2000
    MAP_NORESERVE = 0x4000
    MAP_POPULATE = 0x8000
    MAP_FIXED_NOREPLACE = 0x100000


cdef inline u64 calc_vm_prot_bits(u32 prot) noexcept nogil:
    return prot & (PROT_READ | PROT_WRITE | PROT_EXEC)      # VM_READ, VM_WRITE and VM_EXEC are the same bits


cdef inline u64 calc_vm_flags(u32 prot, u32 flags) noexcept nogil:
    cdef u64 vm = calc_vm_prot_bits(prot) | SHMM_VM_MAYREAD | SHMM_VM_MAYWRITE | SHMM_VM_MAYEXEC
    if flags & MAP_TYPE == MAP_SHARED:
        vm |= SHMM_VM_SHARED | SHMM_VM_MAYSHARE
    if flags & MAP_GROWSDOWN:
        vm |= SHMM_VM_GROWSDOWN
    if flags & MAP_LOCKED:
        vm |= SHMM_VM_LOCKED
    if flags & MAP_NORESERVE:
        vm |= SHMM_VM_NORESERVE
    return vm


cdef inline i64 get_unmapped_area(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u32 flags) noexcept nogil:
    """Where a mapping of length bytes goes: the fixed address, the hint if it is free, or the highest hole."""
    cdef u32 vma
    if length > SHMM_TASK_SIZE:
        return -ENOMEM
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        if addr & (SHMM_PAGE_SIZE - 1):
            return -EINVAL
        if addr > SHMM_TASK_SIZE - length:
            return -ENOMEM
        if addr < SHMM_MMAP_MIN:
            return -EPERM
        if flags & MAP_FIXED_NOREPLACE and find_vma_intersection(c, mm, addr, addr + length):
            return -EEXIST
        return <i64> addr
    addr = page_align(addr)
    if addr >= SHMM_MMAP_MIN and addr <= SHMM_TASK_SIZE - length:
        vma = find_vma(c, mm, addr)
        if vma == 0 or vma_start(c, vma) >= addr + length:
            return <i64> addr
    addr = unmapped_area_topdown(c, mm, length)
    return <i64> addr if addr else -ENOMEM


cdef inline u32 prev_of_hole(vcpu_t *c, mm_t *mm, u32 next) noexcept nogil:
    return prev_vma(c, next) if next else get32(&mm.vma_last)


cdef inline i64 mmap_region(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u64 vm_flags, u32 file,
                            u64 pgoff) noexcept nogil:
    """Puts the mapping at addr, replacing what is there.  Takes a reference on the file.  0 or negative errno."""
    cdef u64 end = addr + length
    cdef u32 next, vma
    cdef i64 err = do_munmap(c, mm, addr, end, False)
    if err:
        return err
    if get32(&mm.map_count) > SHMM_MAX_MAP_COUNT:
        return -ENOMEM
    next = find_vma(c, mm, addr)
    if vma_expand(c, mm, prev_of_hole(c, mm, next), next, addr, end, vm_flags, pgoff, file) == 0:
        vma = vm_area_alloc(c, <u32> (mm - c.mms), addr, end, vm_flags, pgoff, file)
        if vma == 0:
            return -ENOMEM
        get_file(c, file)
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
    if length == 0 or length > SHMM_TASK_SIZE:
        return -ENOMEM
    if pgoff + (length >> SHMM_PAGE_SHIFT) < pgoff:
        return -EOVERFLOW
    if get32(&mm.map_count) > SHMM_MAX_MAP_COUNT:
        return -ENOMEM
    ret = get_unmapped_area(c, mm, addr, length, flags)
    if ret < 0:
        return ret
    addr = <u64> ret
    if flags & MAP_ANONYMOUS:
        file = 0
        pgoff = addr >> SHMM_PAGE_SHIFT         # a private anonymous VMA's offset is its address
        if vm_flags & SHMM_VM_SHARED:
            file = file_new(c, length >> SHMM_PAGE_SHIFT, True)
            pgoff = 0
            if file == 0:
                return -ENOMEM
    ret = mmap_region(c, mm, addr, length, vm_flags, file, pgoff)
    if file and flags & MAP_ANONYMOUS:
        put_file(c, file)                       # the VMA holds it now
    return ret if ret < 0 else <i64> addr


cdef inline i64 vm_mmap(vcpu_t *c, mm_t *mm, u64 addr, u64 length, u32 prot, u32 flags, u32 file,
                        u64 offset) noexcept nogil:
    """mmap(2), MAP_POPULATE excepted (that is the caller's: it faults): the address or a negative errno."""
    cdef u32 type = flags & MAP_TYPE
    cdef i64 ret
    if length == 0 or offset & (SHMM_PAGE_SIZE - 1) or (type != MAP_SHARED and type != MAP_PRIVATE):
        return -EINVAL
    if not flags & MAP_ANONYMOUS and (file == 0 or file >= c.g.nfile or ld64_relaxed(&c.files[file].npages) == 0):
        return -EBADF
    mmap_write_lock(c, mm)
    ret = do_mmap(c, mm, addr, length, prot, flags, file, offset >> SHMM_PAGE_SHIFT)
    mmap_write_unlock(c, mm)
    rcu_relieve(c)
    return ret
