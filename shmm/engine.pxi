# What every engine offers to Python, over the rooms: the layout's facts, formatting, and a Cpu that executes
# operations and programs.  Included by each engine's .pyx, so that the rooms are compiled against its door.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from shmm cimport layout as L
from shmm.arch.arch cimport get32, get64, i64, ld32_relaxed, ld64_relaxed, now_ns, put64, st32_relaxed, u8, u32, u64
from shmm.exec.interpreter cimport run_program, run_t
from shmm.exec.secondary cimport secondary_access
from shmm.exec.syscall cimport (
    sys_brk, sys_exec, sys_exit, sys_fork, sys_gup, sys_join, sys_madvise, sys_map_special, sys_mmap, sys_mprotect,
    sys_mremap, sys_munmap, sys_notifier, sys_switch, sys_uffd_read, sys_uffdio, sys_userfault, user_numa_work,
)
from shmm.exec.user cimport user_copy, user_load, user_probe, user_store
from shmm.layout cimport seg_t, vcpu_t, vcpu_bind
from shmm.mm.boot cimport segment_format, segment_layout
from shmm.mm.breach cimport breach_t
from shmm.mm.call_rcu cimport rcu_barrier
from shmm.mm.check_locks cimport check_I6
from shmm.mm.check_rt cimport check_I8
from shmm.mm.check_secondary cimport check_I7
from shmm.mm.file cimport file_free_pages, file_new
from shmm.mm.frame cimport drain_frames
from shmm.mm.invariants cimport (
    check_I1, check_I2_I4, check_I3, check_I4_anon, check_I4_lists, check_I5, frames_in_use as count_frames,
)
from shmm.mm.irq cimport irq_handle_pending, kernel_enter, kernel_exit, sleep_begin, sleep_end
from shmm.mm.lru cimport lru_add_drain
from shmm.mm.mm cimport current_mm
from shmm.mm.userfaultfd cimport uffd_forget, uffd_msg_t
from shmm.mm.vma cimport vma_pool_drain
from shmm.mm.walk cimport FAULT_WRITE

include "engine_facts.pxi"

GEOMETRY = ("ncpu", "nmm", "nvma", "nanon", "nfile", "ncache", "nframe", "ninsn", "nswap", "nhuge")
POLICY = ("scheme", "walk_policy", "table_free_policy", "ipi_policy", "force_speculation", "zeroing", "paranoid",
          "fault_around", "shared_core", "queued_spinlocks", "rcu_poll_every", "nnode", "stack_growth", "thp_align",
          "max_map_count", "rlimit_as", "rlimit_stack", "totalram", "mmu_notifier", "preempt_rt", "vma_free_policy",
          "vma_tree", "thp", "collapse_policy", "fast_mremap")


cdef int fill_header(seg_t *g, geometry, policy) except -1:
    cdef dict p = {"scheme": 0, "walk_policy": 0, "table_free_policy": 0, "ipi_policy": 0, "force_speculation": 0,
                   "zeroing": 1, "paranoid": 0, "fault_around": 16, "shared_core": 0, "queued_spinlocks": 0,
                   "rcu_poll_every": 64, "nnode": 1, "cpu_node": b"", "stack_growth": 0, "thp_align": 0,
                   "max_map_count": L.SHMM_MAX_MAP_COUNT, "rlimit_as": 0, "rlimit_stack": L.SHMM_RLIMIT_STACK,
                   "totalram": 0, "mmu_notifier": 0, "preempt_rt": 0, "vma_free_policy": 0, "vma_tree": 0, "thp": 0,
                   "collapse_policy": 0, "fast_mremap": 0}
    p.update(policy)
    (g.ncpu, g.nmm, g.nvma, g.nanon, g.nfile, g.ncache, g.nframe, g.ninsn, g.nswap, g.nhuge) = [
        geometry.get(k, 0) for k in GEOMETRY]
    (g.scheme, g.walk_policy, g.table_free_policy, g.ipi_policy, g.force_speculation, g.zeroing, g.paranoid,
     g.fault_around, g.shared_core, g.queued_spinlocks, g.rcu_poll_every, g.nnode, g.stack_growth,
     g.thp_align, g.max_map_count, g.rlimit_as, g.rlimit_stack, g.totalram, g.mmu_notifier,
     g.preempt_rt, g.vma_free_policy, g.vma_tree, g.thp, g.collapse_policy, g.fast_mremap) = [p[k] for k in POLICY]
    for cpu, node in enumerate(p["cpu_node"]):
        g.cpu_node[cpu] = node
    segment_layout(g)
    return 0


def segment_size(geometry):
    """Bytes that a segment of this geometry needs (a dict with GEOMETRY's keys, counts)."""
    cdef seg_t g
    memset(&g, 0, sizeof(g))
    fill_header(&g, geometry, {})
    return g.size


def segment_create(uintptr_t address, geometry, policy, u64 abi, u32 pid, u64 start):
    """Formats the zeroed mapping at address; the magic is written last.  policy: a dict with POLICY's keys
    and cpu_node, the node of each CPU as bytes; what is missing has a default."""
    cdef seg_t *g = <seg_t *> address
    fill_header(g, geometry, policy)
    g.abi, g.version, g.creator_pid, g.creator_start = abi, L.SHMM_VERSION, pid, start
    segment_format(<u8 *> address)
    g.magic = L.SHMM_MAGIC


cdef enum:
    GATHER = 8192           # frames that one mmu_gather collects before it flushes


cdef class Cpu:
    """One emulated CPU, executed by whoever calls its methods.

    Cpu(address, cpu_id): address is that of the mapped segment, which must outlive the Cpu.  System calls return what
    the kernel would: an address or 0, or a negative errno.  One thread at a time may use a Cpu."""

    cdef vcpu_t c
    cdef readonly int id

    def __cinit__(self, uintptr_t address, int cpu_id):
        cdef seg_t *g = <seg_t *> address
        cdef u32 *gather
        if g.magic != L.SHMM_MAGIC:
            raise ValueError("no shmm segment at this address: create or attach one first")
        if cpu_id < 0 or cpu_id >= <int> g.ncpu:
            raise ValueError(f"cpu {cpu_id} is not among this segment's {g.ncpu} CPUs")
        gather = <u32 *> calloc(GATHER, sizeof(u32))
        if gather == NULL:
            raise MemoryError("no memory for a CPU's scratch space")
        vcpu_bind(&self.c, <void *> address, cpu_id, gather, GATHER)
        self.c.alone = 1        # but while it runs a program
        self.id = cpu_id

    def __dealloc__(self):
        engine_offline(&self.c)
        free(self.c.gather)

    cdef inline void wake(self) noexcept nogil:
        sleep_end(&self.c, 0)

    cdef inline i64 rest(self, i64 ret) noexcept nogil:
        sleep_begin(&self.c)
        return ret

    def online(self, u32 host_pid):
        """Says that the calling process, and no other, executes this CPU, until it exits."""
        st32_relaxed(&self.c.me.host_pid, host_pid)
        st32_relaxed(&self.c.me.online, 1)
        engine_online(&self.c)

    def run(self):
        """Executes this CPU's program until it ends; the GIL is released.  Its task number is the CPU's.

        Returns 0: done, 1: stopped by the stop word, -1: failed (cpu_t.failed_pc and its neighbours say where)."""
        cdef run_t r
        cdef i64 ret
        self.forget()
        self.c.alone = 0
        with nogil:
            self.wake()
            ret = self.rest(run_program(&self.c, &r, get64(&self.c.me.program_first), get64(&self.c.me.program_len),
                                        self.c.id, self.c.g.ncpu))
        self.c.alone = 1
        return ret

    cdef void forget(self):
        """An access that waits for userfaultfd is given up."""
        if ld32_relaxed(&self.c.me.uffd_wait):
            uffd_forget(&self.c, current_mm(&self.c))

    def userfault(self, u64 addr, u64 length, u64 modes):
        """Registers the range with userfaultfd (UFFDIO_REGISTER_MODE_*; 0 ends that).  0 or a negative errno."""
        self.wake()
        return self.rest(sys_userfault(&self.c, addr, length, modes))

    def uffd_read(self):
        """The oldest message that nobody has read, (address, VM_UFFD_* flag, cpu), or None."""
        cdef uffd_msg_t msg
        self.wake()
        return None if self.rest(sys_uffd_read(&self.c, False, &msg)) else (msg.address, msg.reason, msg.cpu)

    def uffdio(self, u32 op, u64 addr, u64 length, u64 byte=0, u64 mode=0):
        """UFFDIO_COPY and the others that answer (constants()).  0 or a negative errno."""
        self.wake()
        return self.rest(sys_uffdio(&self.c, op, addr, length, byte, mode))

    def mmap(self, u64 addr, u64 length, u32 prot, u32 flags, u32 file=0, u64 offset=0):
        """The address, or a negative errno.  file: from file_new; 0 with MAP_ANONYMOUS."""
        self.wake()
        return self.rest(sys_mmap(&self.c, addr, length, prot, flags, file, offset))

    def munmap(self, u64 addr, u64 length):
        """0 or a negative errno."""
        self.wake()
        return self.rest(sys_munmap(&self.c, addr, length))

    def mprotect(self, u64 addr, u64 length, u32 prot):
        """0 or a negative errno."""
        self.wake()
        return self.rest(sys_mprotect(&self.c, addr, length, prot))

    def madvise(self, u64 addr, u64 length, u32 advice):
        """0 or a negative errno."""
        self.wake()
        return self.rest(sys_madvise(&self.c, addr, length, advice))

    def numa(self, u64 addr, u64 length):
        """A scan for NUMA balancing comes by the range.  0 or a negative errno."""
        self.wake()
        return self.rest(user_numa_work(&self.c, addr, length))

    def mremap(self, u64 addr, u64 old_len, u64 new_len, u32 flags, u64 new_addr=0):
        """The new address, or a negative errno."""
        self.wake()
        return self.rest(sys_mremap(&self.c, addr, old_len, new_len, flags, new_addr))

    def brk(self, u64 addr):
        """The heap's end after the call; the old one if it could not be moved."""
        self.wake()
        return self.rest(sys_brk(&self.c, addr))

    def gup(self, u64 addr):
        """The byte at addr, read through a page that get_user_pages_fast has pinned; or a negative errno."""
        self.wake()
        return self.rest(sys_gup(&self.c, addr))

    def probe(self, u64 addr):
        """1 if a VMA maps addr, else 0: what a uprobe's trap finds out, in the way of the scheme."""
        self.wake()
        return self.rest(user_probe(&self.c, addr))

    def notifier(self, bint registers):
        """The MMU notifier of the current address space registers or unregisters.  0 or a negative errno."""
        self.wake()
        return self.rest(sys_notifier(&self.c, registers))

    def secondary(self, u64 addr, value=None):
        """The byte at addr, or with a value 0 when it is stored, by way of the secondary MMU; or a negative errno."""
        cdef u8 byte = value or 0
        cdef i64 ret
        self.wake()
        ret = self.rest(secondary_access(&self.c, addr, 0 if value is None else FAULT_WRITE, &byte))
        return byte if ret == 0 and value is None else ret

    def read(self, u64 addr, u64 n):
        """n bytes, or (negative errno, failing address): -EFAULT is SIGSEGV, -SIGBUS (constants()) SIGBUS."""
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
        cdef u64 failed = 0
        cdef i64 err
        self.wake()
        err = self.rest(user_copy(&self.c, addr, <u8 *> PyBytes_AS_STRING(out), n, 0, &failed))
        return (err, failed) if err else out

    def write(self, u64 addr, bytes data not None):
        """None, or (negative errno, failing address)."""
        cdef u64 failed = 0
        cdef i64 err
        self.wake()
        err = self.rest(user_copy(&self.c, addr, <u8 *> PyBytes_AS_STRING(data), len(data), FAULT_WRITE, &failed))
        return (err, failed) if err else None

    def touch(self, u64 addr, u64 length, bint write=True):
        """One access to each page of the range: the faults taken, or (negative errno, failing address)."""
        cdef u64 end = addr + length
        cdef i64 total = 0
        cdef i64 faults
        cdef u8 byte
        self.wake()
        while addr < end:
            faults = user_store(&self.c, addr, 1) if write else user_load(&self.c, addr, 0, &byte)
            if faults < 0:
                self.rest(0)
                return faults, addr
            total += faults
            addr = (addr & ~(L.SHMM_PAGE_SIZE - 1)) + L.SHMM_PAGE_SIZE
        return self.rest(total)

    def exec(self, u32 mm, u64 mmap_base=0, u64 brk=0):
        """Runs a fresh, empty address space in slot mm.  0 or a negative errno."""
        self.forget()
        self.wake()
        return self.rest(sys_exec(&self.c, mm, mmap_base, brk))

    def attach(self, u32 mm):
        """Runs the address space in slot mm, as one more thread of it.  0 or a negative errno."""
        self.forget()
        self.wake()
        return self.rest(sys_join(&self.c, mm))

    def fork(self, u32 mm):
        """Makes slot mm a copy-on-write copy of the current address space.  0 or a negative errno."""
        self.wake()
        return self.rest(sys_fork(&self.c, mm))

    def switch(self, u32 mm, bint begins=False):
        """Goes on with a thread of the address space in slot mm, one that begins or one that was there.  0 or a
        negative errno."""
        self.wake()
        return self.rest(sys_switch(&self.c, mm, begins))

    def map_special(self, u64 start, u64 end, u64 flags, u32 file=0, u64 offset=0):
        """A mapping with exactly these VM_* flags that is merged with nothing; without a file its offset is its
        address.  0 or a negative errno."""
        self.wake()
        return self.rest(sys_map_special(&self.c, start, end, flags, file,
                                         (offset if file else start) >> L.SHMM_PAGE_SHIFT))

    def exit(self):
        """Leaves the current address space; the last CPU out frees it."""
        self.forget()
        self.wake()
        return self.rest(sys_exit(&self.c))

    def file_new(self, u64 npages, bint shmem=False):
        """A file of npages zero pages for mmap: its number, or 0 when no slots are left."""
        return file_new(&self.c, npages, shmem)

    def rcu_drain(self):
        """Finishes what this CPU has deferred."""
        self.wake()
        kernel_enter(&self.c)
        rcu_barrier(&self.c)
        kernel_exit(&self.c)
        self.rest(0)


def settle(uintptr_t address):
    """Finishes everything deferred on every CPU and drops the files.  All CPUs stopped, address spaces left."""
    cdef seg_t *g = <seg_t *> address
    cdef Cpu cpu
    cdef u32 i
    for i in range(g.ncpu):
        cpu = Cpu(address, i)
        cpu.rcu_drain()
        lru_add_drain(&cpu.c)
    for i in range(1, get32(&g.files_used)):
        if ld32_relaxed(&cpu.c.files[i].refs) == 1:
            file_free_pages(&cpu.c, i)
    for i in range(g.ncpu):
        cpu = Cpu(address, i)
        drain_frames(&cpu.c)
        if get32(&cpu.c.me.vma_count):
            vma_pool_drain(&cpu.c, get32(&cpu.c.me.vma_count))


def frames_in_use(uintptr_t address):
    """How many frames hold a page, a table or page cache."""
    cdef Cpu cpu = Cpu(address, 0)
    return count_frames(&cpu.c)


cdef list tell(u64 bad, breach_t *b):
    if bad == 0:
        return []
    more = f" (and {bad - 1} more)" if bad > 1 else ""
    return [f"I{b.invariant} mm {b.mm}: {(<bytes> b.what).decode()} at {b.where:#x}: {b.got:#x}, not {b.want:#x}{more}"]


def check(uintptr_t address):
    """The invariants I1 to I8 (layout.h): one line for each that is broken.  All CPUs stopped."""
    cdef Cpu cpu = Cpu(address, 0)
    cdef breach_t b
    cdef u32 *refs = <u32 *> calloc(max(cpu.c.g.frame_end + cpu.c.g.nswap, cpu.c.g.nanon), sizeof(u32))
    cdef list out = []
    cdef u32 i
    if refs == NULL:
        raise MemoryError("no memory to count references: close other programs and try again")
    for i in range(1, cpu.c.g.nmm):
        if get32(&cpu.c.mms[i].in_use):
            memset(&b, 0, sizeof(b))
            out += tell(check_I1(&cpu.c, i, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I2_I4(&cpu.c, refs, &b), &b)
    memset(&b, 0, sizeof(b))
    memset(refs, 0, cpu.c.g.nanon * sizeof(u32))
    out += tell(check_I4_anon(&cpu.c, refs, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I4_lists(&cpu.c, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I3(&cpu.c, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I5(&cpu.c, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I6(&cpu.c, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I7(&cpu.c, &b), &b)
    memset(&b, 0, sizeof(b))
    out += tell(check_I8(&cpu.c, &b), &b)
    free(refs)
    return out
