"""The interpreter: executes a CPU's program (program.h), without Python, until it ends, fails or is stopped.

Every record is executed the same way on every engine.  The stop word is polled at each jump, in every wait, and every
64 records or accesses of a TOUCH, which are also the places where a time-shared CPU offers its core: between
instructions, interrupts on, no lock held (native.h says why that matters)."""

from libc.errno cimport EINVAL, ENOSYS

from shmm.arch.arch cimport (
    a32, a64, clock_event, core_is_due, fetch_add32, futex_wait, futex_wake, get64, i64, ld32_acquire, ld32_relaxed,
    ld64_acquire, ld64_relaxed, now_ns, operation, put64, st32_relaxed, st32_release, st64_mb, st64_relaxed, u8, u32,
    u64, yield_core,
)
from shmm.layout cimport (
    SHMM_C_ops, SHMM_C_unexpected, SHMM_OPF_COUNT, SHMM_OPF_EXPECT, SHMM_OPF_MAY_FAIL, SHMM_OPF_WRITE, SHMM_OP_BARRIER,
    SHMM_OP_BRK, SHMM_OP_CLOCK, SHMM_OP_DJNZ, SHMM_OP_END, SHMM_OP_EXEC, SHMM_OP_EXIT, SHMM_OP_FETCH, SHMM_OP_FORK,
    SHMM_OP_GUP, SHMM_OP_JMP, SHMM_OP_LEA, SHMM_OP_LOAD, SHMM_OP_MADVISE, SHMM_OP_MM, SHMM_OP_MMAP, SHMM_OP_MPROTECT,
    SHMM_OP_MREMAP, SHMM_OP_MUNMAP, SHMM_OP_NEXT, SHMM_OP_NOP, SHMM_OP_NOTIFIER, SHMM_OP_NUMA, SHMM_OP_OPS,
    SHMM_OP_PROBE, SHMM_OP_RAND, SHMM_OP_SECONDARY, SHMM_OP_STORE, SHMM_OP_TOUCH, SHMM_OP_TRUNCATE, SHMM_OP_TURN,
    SHMM_OP_UFFDIO, SHMM_OP_USERFAULT, SHMM_REGS, SHMM_STOPPED, SHMM_UFFDIO_POLL, SHMM_UFFDIO_READ, shmm_insn_t, vcpu_t,
)
from shmm.exec.secondary cimport secondary_access
from shmm.exec.syscall cimport (
    has_mm, sys_brk, sys_exec, sys_exit, sys_fork, sys_gup, sys_join, sys_madvise, sys_mmap, sys_mprotect, sys_mremap,
    sys_munmap, sys_notifier, sys_truncate, sys_uffd_read, sys_uffdio, sys_userfault, user_numa_work,
)
from shmm.exec.user cimport user_load, user_probe, user_store
from shmm.mm.call_rcu cimport rcu_poll
from shmm.mm.irq cimport kernel_enter, kernel_exit, sleep_begin, sleep_end
from shmm.mm.userfaultfd cimport uffd_msg_t
from shmm.mm.vmstat cimport count_vm_events
from shmm.mm.walk cimport FAULT_INSTRUCTION, FAULT_WRITE

cdef enum:
    RUN_DONE = 0
    RUN_STOPPED = 1
    RUN_FAILED = -1
    WAIT_NS = 20000000          # the longest sleep between two looks at the stop word

# The private state of one execution.
cdef struct run_t:
    u64 reg[16]
    u64 pc
    u8 loaded                   # what the last LOAD found
    u32 countdown               # records and accesses until the next look at the stop word


cdef inline bint stopped(vcpu_t *c) noexcept nogil:
    return ld32_relaxed(&c.g.stop) != 0


cdef inline void offer_core(vcpu_t *c) noexcept nogil:
    """At an instruction boundary: if this CPU has had its share of a shared core, let another run."""
    cdef u64 mode
    if core_is_due():
        mode = sleep_begin(c)
        yield_core()
        sleep_end(c, mode)


cdef inline bint breathe(vcpu_t *c, run_t *r) noexcept nogil:
    """Every 64th time: deferred work, the core, the stop word.  True: stop."""
    r.countdown -= 1
    if r.countdown:
        return False
    r.countdown = 64
    kernel_enter(c)
    rcu_poll(c)
    kernel_exit(c)
    offer_core(c)
    return stopped(c)


cdef inline i64 sleep_while(vcpu_t *c, a32 *word, u32 value) noexcept nogil:
    """Sleeps while *word == value.  0, or -SHMM_STOPPED."""
    cdef u64 mode
    while ld32_acquire(word) == value:      # pairs with the release in op_barrier and the poke in op_next
        if stopped(c):
            return -SHMM_STOPPED
        mode = sleep_begin(c)
        futex_wait(word, value, WAIT_NS)
        sleep_end(c, mode)
    return 0


cdef inline i64 op_barrier(vcpu_t *c) noexcept nogil:
    cdef u32 gen = ld32_acquire(&c.g.barrier_gen)       # pairs with the release of the last round's end
    if fetch_add32(&c.g.barrier_count, 1) + 1 == ld32_relaxed(&c.g.barrier_parties):
        st32_relaxed(&c.g.barrier_count, 0)
        st32_release(&c.g.barrier_gen, gen + 1)     # pairs with the acquire in sleep_while
        futex_wake(&c.g.barrier_gen, 0x7fffffff)
        return 0
    return sleep_while(c, &c.g.barrier_gen, gen)


cdef inline i64 op_turn(vcpu_t *c, u64 ticket) noexcept nogil:
    """Waits until it is this event's turn.  The word is read after the sleeper's flag, so a wake is never lost."""
    cdef u32 seen
    cdef i64 err
    while True:
        # acquires: pair with the poke and the store in op_next, in the opposite order
        seen = ld32_acquire(&c.me.turn_wake)
        if ld64_acquire(&c.g.turn) == ticket:
            return 0
        err = sleep_while(c, &c.me.turn_wake, seen)
        if err:
            return err


cdef inline void op_next(vcpu_t *c, u64 ticket, u32 cpu) noexcept nogil:
    st64_mb(&c.g.turn, ticket)          # pairs with the acquires in op_turn: who is poked finds its turn
    if cpu != c.id and cpu < c.g.ncpu:
        fetch_add32(&c.cpus[cpu].turn_wake, 1)
        futex_wake(&c.cpus[cpu].turn_wake, 1)


cdef inline void op_clock(vcpu_t *c, bint runs) noexcept nogil:
    """The measured time, for workloads that measure a part of what they do.  One CPU says so; the others meet it at a
    barrier before and after."""
    cdef u64 since = ld64_relaxed(&c.g.clock_since)
    if runs:
        st64_relaxed(&c.g.clock_since, now_ns())
    elif since:
        st64_relaxed(&c.g.clock_ns, ld64_relaxed(&c.g.clock_ns) + now_ns() - since)
        st64_relaxed(&c.g.clock_since, 0)
    clock_event(runs)


cdef inline u64 next_random(vcpu_t *c) noexcept nogil:
    """xorshift64*: the CPU's own stream, seeded by the launcher."""
    cdef u64 x = get64(&c.me.rng)
    if x == 0:
        x = 0x9e3779b97f4a7c15ULL + c.id
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    put64(&c.me.rng, x)
    return x * 0x2545f4914f6cdd1dULL >> 33


cdef inline i64 op_touch(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 addr, u64 stride) noexcept nogil:
    """count accesses; the faults they took, or the failure of the first that failed."""
    cdef u64 n = 0
    cdef i64 total = 0
    cdef i64 faults
    cdef u8 byte
    while n < i.count:
        faults = user_store(c, addr, <u8> i.value) if i.opf & SHMM_OPF_WRITE else user_load(c, addr, 0, &byte)
        if faults < 0:
            return faults
        total += faults
        addr += stride
        n += 1
        if i.opf & SHMM_OPF_COUNT:
            count_vm_events(c, SHMM_C_ops, 1)
        if breathe(c, r):
            return -SHMM_STOPPED
    return total


cdef inline i64 execute_access(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 addr, u64 length) noexcept nogil:
    cdef u8 byte = 0
    cdef i64 ret
    if not has_mm(c):
        return -EINVAL
    if i.op == SHMM_OP_TOUCH:
        return op_touch(c, r, i, addr, length)
    if i.op == SHMM_OP_STORE:
        return user_store(c, addr, <u8> i.value)
    ret = user_load(c, addr, FAULT_INSTRUCTION if i.op == SHMM_OP_FETCH else 0, &byte)
    if ret >= 0 and i.op == SHMM_OP_LOAD:
        r.reg[i.dst] = byte
        r.loaded = byte
    return ret


cdef inline i64 execute_mm(vcpu_t *c, const shmm_insn_t *i) noexcept nogil:
    """Operations on whole address spaces."""
    if i.op == SHMM_OP_MM:
        return sys_join(c, <u32> i.value)
    if i.op == SHMM_OP_EXEC:
        return sys_exec(c, <u32> i.value, i.addr, i.aux)
    if i.op == SHMM_OP_FORK:
        return sys_fork(c, <u32> i.value)
    return sys_exit(c)


cdef inline i64 op_secondary(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 addr) noexcept nogil:
    cdef u8 byte = <u8> i.value
    cdef i64 ret = secondary_access(c, addr, FAULT_WRITE if i.opf & SHMM_OPF_WRITE else 0, &byte)
    if ret == 0 and not i.opf & SHMM_OPF_WRITE:
        r.reg[i.dst] = byte
    return ret


cdef inline i64 execute_userfault(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 addr, u64 length) noexcept nogil:
    cdef uffd_msg_t msg
    cdef i64 ret
    if i.op == SHMM_OP_USERFAULT:
        return sys_userfault(c, addr, length, <u64> i.value)
    if i.value > SHMM_UFFDIO_POLL:
        return sys_uffdio(c, <u32> i.value, addr, length, i.count, i.aux)
    ret = sys_uffd_read(c, i.value == SHMM_UFFDIO_READ, &msg)
    if ret:
        return ret
    r.reg[i.dst] = msg.address
    return <i64> msg.address


cdef inline i64 execute_syscall(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 addr, u64 length) noexcept nogil:
    """What enters the kernel, looks at or changes the mappings, and leaves: system calls, and a probe."""
    cdef i64 ret
    if not has_mm(c):
        return -EINVAL
    if i.op == SHMM_OP_MMAP:
        ret = sys_mmap(c, addr, length, i.prot, i.flags, <u32> i.value, i.aux)
        r.reg[i.dst] = <u64> ret
        return ret
    if i.op == SHMM_OP_MUNMAP:
        return sys_munmap(c, addr, length)
    if i.op == SHMM_OP_MPROTECT:
        return sys_mprotect(c, addr, length, i.prot)
    if i.op == SHMM_OP_MADVISE:
        return sys_madvise(c, addr, length, <u32> i.value)
    if i.op == SHMM_OP_USERFAULT or i.op == SHMM_OP_UFFDIO:
        return execute_userfault(c, r, i, addr, length)
    if i.op == SHMM_OP_TRUNCATE:
        return sys_truncate(c, <u32> i.value, i.aux)
    if i.op == SHMM_OP_NUMA:
        return user_numa_work(c, addr, length)
    if i.op == SHMM_OP_PROBE:
        return user_probe(c, addr)
    if i.op == SHMM_OP_NOTIFIER:
        return sys_notifier(c, i.value != 0)
    if i.op == SHMM_OP_SECONDARY:
        return op_secondary(c, r, i, addr)
    if i.op == SHMM_OP_MREMAP:
        ret = sys_mremap(c, addr, length, i.count, i.flags, i.aux)
    elif i.op == SHMM_OP_BRK:
        ret = sys_brk(c, addr)
    elif i.op == SHMM_OP_GUP:
        ret = sys_gup(c, addr)
    else:
        return -ENOSYS
    r.reg[i.dst] = <u64> ret
    return ret


cdef inline i64 execute_control(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 addr) noexcept nogil:
    """Registers, jumps and meetings; what is not a jump falls through to the next record."""
    if i.op == SHMM_OP_LEA:
        r.reg[i.dst] = r.reg[i.base] * i.count + r.reg[i.len_reg] + <u64> i.value
    elif i.op == SHMM_OP_RAND:
        r.reg[i.dst] = <u64> i.value + i.aux * (next_random(c) % i.count if i.count else 0)
    elif i.op == SHMM_OP_OPS:
        count_vm_events(c, SHMM_C_ops, i.count)
    elif i.op == SHMM_OP_BARRIER:
        return op_barrier(c)
    elif i.op == SHMM_OP_CLOCK:
        op_clock(c, i.value != 0)
    elif i.op == SHMM_OP_TURN:
        return op_turn(c, <u64> i.value)
    elif i.op == SHMM_OP_NEXT:
        op_next(c, <u64> i.value, <u32> i.count)
    elif i.op == SHMM_OP_JMP or i.op == SHMM_OP_DJNZ:
        if i.op == SHMM_OP_DJNZ:
            r.reg[i.dst] -= 1
            if r.reg[i.dst] == 0:
                return 0
        r.pc = <u64> i.value - 1
        return -SHMM_STOPPED if stopped(c) else 0
    elif i.op != SHMM_OP_NOP:
        return -EINVAL
    return 0


cdef inline i64 execute(vcpu_t *c, run_t *r, const shmm_insn_t *i) noexcept nogil:
    """One record: its result."""
    cdef u64 addr = i.addr + r.reg[i.base]
    cdef u64 length = i.len + r.reg[i.len_reg]
    st32_relaxed(&c.me.doing, i.op)
    st64_relaxed(&c.me.doing_addr, addr)
    if i.op >= SHMM_OP_LOAD and i.op <= SHMM_OP_TOUCH:
        return execute_access(c, r, i, addr, length)
    if i.op >= SHMM_OP_MMAP and i.op <= SHMM_OP_PROBE:
        return execute_syscall(c, r, i, addr, length)
    if i.op >= SHMM_OP_MM and i.op <= SHMM_OP_EXIT:
        return execute_mm(c, i)
    return execute_control(c, r, i, addr)


cdef inline bint as_expected(vcpu_t *c, u64 pc, const shmm_insn_t *i, i64 result) noexcept nogil:
    """Compares; remembers the first surprise for the launcher."""
    if result == i.expect if i.opf & SHMM_OPF_EXPECT else (result >= 0 or i.opf & SHMM_OPF_MAY_FAIL != 0):
        return True
    if ld64_relaxed(&c.me.failed_pc) == 0:
        st64_relaxed(&c.me.failed_result, <u64> result)
        st64_relaxed(&c.me.failed_expect, <u64> i.expect)
        st64_relaxed(&c.me.failed_pc, pc + 1)
    count_vm_events(c, SHMM_C_unexpected, 1)
    return False


cdef inline void run_begin(run_t *r, u32 task, u32 tasks) noexcept nogil:
    cdef u32 i
    for i in range(SHMM_REGS):
        r.reg[i] = 0
    r.reg[14] = task
    r.reg[15] = tasks
    r.pc = 0
    r.countdown = 64
    r.loaded = 0


cdef inline i64 execute_and_keep(vcpu_t *c, run_t *r, const shmm_insn_t *i, u64 pc, a64 *kept) noexcept nogil:
    """One record, whose result stays in shared memory unless the run was stopped in its midst."""
    cdef i64 result
    operation(c.id, pc, True)
    result = execute(c, r, i)
    r.reg[0] = 0
    if result != -SHMM_STOPPED:
        st64_relaxed(kept, <u64> result)
        operation(c.id, pc, False)
    return result


cdef inline i64 run_program(vcpu_t *c, run_t *r, u64 first, u64 n, u32 task, u32 tasks) noexcept nogil:
    """RUN_DONE, RUN_STOPPED or RUN_FAILED (cpu_t.failed_pc says where).  r: the registers, for the caller to see."""
    cdef const shmm_insn_t *i
    cdef u64 pc
    cdef i64 result
    run_begin(r, task, tasks)
    while r.pc < n and c.program[first + r.pc].op != SHMM_OP_END:
        pc = r.pc
        i = &c.program[first + pc]
        result = execute_and_keep(c, r, i, pc, &c.result[first + pc])
        if result == -SHMM_STOPPED:
            return RUN_STOPPED
        if i.op == SHMM_OP_LOAD and result >= 0 and i.opf & SHMM_OPF_EXPECT:
            result = r.loaded                   # what is expected of a load is the byte
        if not as_expected(c, pc, i, result):
            return RUN_FAILED
        if i.opf & SHMM_OPF_COUNT and i.op != SHMM_OP_TOUCH:
            count_vm_events(c, SHMM_C_ops, 1)
        r.pc += 1
        if breathe(c, r):
            return RUN_STOPPED
    return RUN_DONE
