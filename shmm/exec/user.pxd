"""User mode: the loads, stores, fetches and traps of a program.

One access is one instruction: interrupts off, translate, access, interrupts on.  A fault is taken inside it, with
interrupts on, and the translation tried again; so a shootdown sees either the whole of lookup-and-access or nothing.
Between instructions a CPU is quiescent for RCU and need not be waited for by anyone."""

from libc.errno cimport EFAULT

from shmm.arch.arch cimport (
    SHMM_EXC_TRAP, copy_from_page, copy_to_page, exception_entry, i64, ld_user, st_user, u8, u32, u64,
)
from shmm.layout cimport SHMM_PAGE_SIZE, SHMM_TASK_SIZE, mm_t, vcpu_t
from shmm.mm.frame cimport frame_bytes
from shmm.mm.irq cimport insn_begin, insn_end, insn_fault, irq_disable, kernel_enter, kernel_exit
from shmm.mm.mm cimport current_mm
from shmm.mm.mmu cimport mmu_refill, mmu_translate
from shmm.mm.page_table cimport pte_pfn
from shmm.mm.walk cimport FAULT_WRITE
from shmm.scheme.scheme cimport do_user_addr_fault, probe_by_scheme


cdef inline u8 *user_begin(vcpu_t *c, u64 addr, u32 access, i64 *faults) noexcept nogil:
    """Begins the instruction that accesses addr.  The byte in memory, with interrupts off until insn_end; or NULL:
    the access failed, the instruction is over and faults holds the negative reason."""
    cdef mm_t *mm = current_mm(c)
    cdef u64 pte
    cdef i64 err
    faults[0] = 0
    if addr >= SHMM_TASK_SIZE:
        faults[0] = -EFAULT
        return NULL
    insn_begin(c)
    pte = mmu_translate(c, mm, addr, access)
    while pte == 0:
        insn_fault(c)
        faults[0] += 1
        err = do_user_addr_fault(c, mm, addr, access)
        if err:
            faults[0] = err
            kernel_exit(c)
            return NULL
        irq_disable(c)
        pte = mmu_refill(c, mm, addr, access)       # only this CPU fills its TLB, and the first try found no entry
    return frame_bytes(c, pte_pfn(pte)) + (addr & (SHMM_PAGE_SIZE - 1))


cdef inline i64 user_load(vcpu_t *c, u64 addr, u32 access, u8 *value) noexcept nogil:
    """A load, or with FAULT_INSTRUCTION a fetch: how many faults it took, or why it failed."""
    cdef i64 faults
    cdef u8 *p = user_begin(c, addr, access, &faults)
    if p != NULL:
        value[0] = ld_user(p)
        insn_end(c)
    return faults


cdef inline i64 user_store(vcpu_t *c, u64 addr, u8 value) noexcept nogil:
    cdef i64 faults
    cdef u8 *p = user_begin(c, addr, FAULT_WRITE, &faults)
    if p != NULL:
        st_user(p, value)
        insn_end(c)
    return faults


cdef inline i64 user_copy(vcpu_t *c, u64 addr, u8 *buffer, u64 n, u32 access, u64 *failed_at) noexcept nogil:
    """Reads (access 0) or writes n bytes, a page an instruction.  0, or why it failed and at which address."""
    cdef i64 faults
    cdef u64 part
    cdef u8 *p
    while n:
        part = min(n, SHMM_PAGE_SIZE - (addr & (SHMM_PAGE_SIZE - 1)))
        p = user_begin(c, addr, access, &faults)
        if p == NULL:
            failed_at[0] = addr
            return faults
        if access & FAULT_WRITE:
            copy_to_page(p, buffer, part)
        else:
            copy_from_page(buffer, p, part)
        insn_end(c)
        addr += part
        buffer += part
        n -= part
    return 0


cdef inline i64 user_probe(vcpu_t *c, u64 addr) noexcept nogil:
    """A trap (a uprobe): an exception that only looks up its VMA.  1 if one maps addr, else 0."""
    cdef bint mapped
    exception_entry(SHMM_EXC_TRAP)
    kernel_enter(c)
    mapped = probe_by_scheme(c, current_mm(c), addr)
    kernel_exit(c)
    return mapped
