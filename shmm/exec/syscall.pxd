"""System calls: kernel entry and exit around the operations of mm/, one function per call.

Results are the kernel's: an address or 0, or a negative errno.  Every call is counted, and polls RCU on its way out."""

from libc.errno cimport EAGAIN

from shmm.arch.arch cimport SHMM_EXC_SYSCALL, exception_entry, i64, ld32_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_C_brk, SHMM_C_fork, SHMM_C_madvise, SHMM_C_mmap, SHMM_C_mprotect, SHMM_C_mremap, SHMM_C_munmap,
    SHMM_C_syscalls, SHMM_C_truncate, SHMM_C_userfaultfd, SHMM_STOPPED, vcpu_t,
)
from shmm.mm.brk cimport vm_brk
from shmm.mm.call_rcu cimport rcu_poll
from shmm.mm.fork cimport mm_fork
from shmm.mm.gup cimport get_user_byte
from shmm.mm.irq cimport kernel_enter, kernel_exit
from shmm.mm.madvise cimport vm_madvise
from shmm.mm.mm cimport current_mm, mm_exec, mm_join, mm_leave, mm_switch
from shmm.mm.mmap cimport MAP_LOCKED, MAP_NONBLOCK, MAP_POPULATE, vm_map_special, vm_mmap
from shmm.mm.mprotect cimport vm_mprotect
from shmm.mm.mremap cimport vm_mremap, vrm_t
from shmm.mm.munmap cimport page_align, vm_munmap
from shmm.mm.notifier cimport mmu_notifier_register, mmu_notifier_unregister
from shmm.mm.numa_scan cimport task_numa_work
from shmm.mm.populate cimport mm_populate
from shmm.mm.truncate cimport vmtruncate
from shmm.mm.userfaultfd cimport uffd_msg_t, uffd_read
from shmm.mm.userfaultfd_fill cimport vm_uffdio
from shmm.mm.userfaultfd_register cimport vm_userfault
from shmm.mm.vmstat cimport count_vm_event


cdef inline void syscall_enter(vcpu_t *c, u32 counter) noexcept nogil:
    count_vm_event(c, SHMM_C_syscalls)
    count_vm_event(c, counter)
    exception_entry(SHMM_EXC_SYSCALL)
    kernel_enter(c)


cdef inline i64 syscall_exit(vcpu_t *c, i64 ret) noexcept nogil:
    rcu_poll(c)
    kernel_exit(c)
    return ret


cdef inline bint has_mm(vcpu_t *c) noexcept nogil:
    return ld32_relaxed(&c.me.mm) != 0


cdef inline i64 sys_mmap(vcpu_t *c, u64 addr, u64 length, u32 prot, u32 flags, u32 file, u64 offset) noexcept nogil:
    cdef i64 ret
    syscall_enter(c, SHMM_C_mmap)
    ret = vm_mmap(c, current_mm(c), addr, length, prot, flags, file, offset)
    if ret >= 0 and (flags & MAP_LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE):
        mm_populate(c, current_mm(c), <u64> ret, <u64> ret + page_align(length))
    return syscall_exit(c, ret)


cdef inline i64 sys_munmap(vcpu_t *c, u64 addr, u64 length) noexcept nogil:
    syscall_enter(c, SHMM_C_munmap)
    return syscall_exit(c, vm_munmap(c, current_mm(c), addr, length))


cdef inline i64 sys_mprotect(vcpu_t *c, u64 addr, u64 length, u32 prot) noexcept nogil:
    syscall_enter(c, SHMM_C_mprotect)
    return syscall_exit(c, vm_mprotect(c, current_mm(c), addr, length, prot))


cdef inline i64 sys_madvise(vcpu_t *c, u64 addr, u64 length, u32 advice) noexcept nogil:
    syscall_enter(c, SHMM_C_madvise)
    return syscall_exit(c, vm_madvise(c, current_mm(c), addr, length, advice))


cdef inline i64 user_numa_work(vcpu_t *c, u64 addr, u64 length) noexcept nogil:
    """Task work on the way back to user mode: no system call of the program's."""
    kernel_enter(c)
    return syscall_exit(c, task_numa_work(c, current_mm(c), addr, length))


cdef inline i64 sys_gup(vcpu_t *c, u64 addr) noexcept nogil:
    """Pins the page at addr, reads a byte of it and lets it go: the byte, -EFAULT or -ENOMEM."""
    count_vm_event(c, SHMM_C_syscalls)
    exception_entry(SHMM_EXC_SYSCALL)
    kernel_enter(c)
    return syscall_exit(c, get_user_byte(c, current_mm(c), addr))


cdef inline i64 sys_mremap(vcpu_t *c, u64 addr, u64 old_len, u64 new_len, u32 flags, u64 new_addr) noexcept nogil:
    cdef vrm_t r
    cdef i64 ret
    syscall_enter(c, SHMM_C_mremap)
    r.mm = current_mm(c)
    r.addr = addr
    r.old_len = old_len
    r.new_len = new_len
    r.flags = flags
    r.new_addr = new_addr
    ret = syscall_exit(c, vm_mremap(c, &r))
    if ret >= 0 and r.populate:
        mm_populate(c, r.mm, <u64> ret + r.new_len - r.populate, <u64> ret + r.new_len)
    return ret


cdef inline i64 sys_truncate(vcpu_t *c, u32 file, u64 size) noexcept nogil:
    syscall_enter(c, SHMM_C_truncate)
    return syscall_exit(c, vmtruncate(c, current_mm(c), file, size))


cdef inline i64 sys_userfault(vcpu_t *c, u64 addr, u64 length, u64 modes) noexcept nogil:
    syscall_enter(c, SHMM_C_userfaultfd)
    return syscall_exit(c, vm_userfault(c, current_mm(c), addr, length, modes))


cdef inline i64 sys_uffd_read(vcpu_t *c, bint waits, uffd_msg_t *msg) noexcept nogil:
    """0 and a message; -EAGAIN: there is none; -SHMM_STOPPED: none came before the run was stopped."""
    cdef i64 ret = -EAGAIN
    syscall_enter(c, SHMM_C_userfaultfd)
    if uffd_read(c, current_mm(c), waits, msg):
        ret = 0
    elif waits and not c.alone:
        ret = -SHMM_STOPPED
    return syscall_exit(c, ret)


cdef inline i64 sys_uffdio(vcpu_t *c, u32 op, u64 addr, u64 length, u64 byte, u64 mode) noexcept nogil:
    syscall_enter(c, SHMM_C_userfaultfd)
    return syscall_exit(c, vm_uffdio(c, current_mm(c), op, addr, length, byte, mode))


cdef inline i64 sys_brk(vcpu_t *c, u64 brk) noexcept nogil:
    syscall_enter(c, SHMM_C_brk)
    return syscall_exit(c, vm_brk(c, current_mm(c), brk))


cdef inline i64 sys_notifier(vcpu_t *c, bint registers) noexcept nogil:
    """What KVM_CREATE_VM and the closing of its file make of an MMU notifier."""
    kernel_enter(c)
    if registers:
        return syscall_exit(c, mmu_notifier_register(c, current_mm(c)))
    return syscall_exit(c, mmu_notifier_unregister(c, current_mm(c)))


cdef inline i64 sys_fork(vcpu_t *c, u32 slot) noexcept nogil:
    syscall_enter(c, SHMM_C_fork)
    return syscall_exit(c, mm_fork(c, slot))


cdef inline i64 sys_exec(vcpu_t *c, u32 slot, u64 mmap_base, u64 brk) noexcept nogil:
    kernel_enter(c)
    return syscall_exit(c, mm_exec(c, slot, mmap_base, brk))


cdef inline i64 sys_join(vcpu_t *c, u32 slot) noexcept nogil:
    """Becomes a thread of the address space in slot (the memory half of clone with CLONE_VM)."""
    kernel_enter(c)
    return syscall_exit(c, mm_join(c, slot))


cdef inline i64 sys_switch(vcpu_t *c, u32 slot, bint begins) noexcept nogil:
    """The scheduler's doing, not a program's."""
    kernel_enter(c)
    return syscall_exit(c, mm_switch(c, slot, begins))


cdef inline i64 sys_map_special(vcpu_t *c, u64 start, u64 end, u64 flags, u32 file, u64 pgoff) noexcept nogil:
    """The kernel's own mappings, as exec makes them."""
    kernel_enter(c)
    return syscall_exit(c, vm_map_special(c, current_mm(c), start, end, flags, file, pgoff))


cdef inline i64 sys_exit(vcpu_t *c) noexcept nogil:
    kernel_enter(c)
    mm_leave(c)
    return syscall_exit(c, 0)
