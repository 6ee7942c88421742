# Exercisers of RCU: grace periods, deferred frees, and the per-CPU semaphore that rests on them.

from shmm.exec.interpreter cimport next_random
from shmm.mm.call_rcu cimport RCU_TABLE, call_rcu, rcu_poll, rcu_process, rcu_relieve
from shmm.mm.irq cimport insn_begin, insn_end, insn_fault, irq_disable, irq_enable
from shmm.mm.page_table cimport alloc_table
from shmm.mm.rcu cimport (
    rcu_advance, rcu_read_lock, rcu_read_unlock, rcu_seq_done, rcu_seq_snap, synchronize_rcu,
    synchronize_rcu_expedited,
)
from shmm.mm.vma cimport vm_area_alloc, vm_area_poison

cdef enum:
    CURRENT = 4                 # which object readers are to use
    OBJECTS = 64                # words of objects from here on
    NOBJECTS = 128
    POISONED = 0xdead

    READ_KERNEL = 0             # what makes a CPU an RCU reader
    READ_INSN = 1
    READ_IRQ_OFF = 2


cdef inline void enter(vcpu_t *c, u32 how) noexcept nogil:
    if how == READ_KERNEL:
        kernel_enter(c)
        rcu_read_lock(c)
    elif how == READ_INSN:
        insn_begin(c)
    else:
        irq_disable(c)


cdef inline void leave(vcpu_t *c, u32 how) noexcept nogil:
    if how == READ_KERNEL:
        rcu_read_unlock(c)
        kernel_exit(c)
    elif how == READ_INSN:
        insn_end(c)
    else:
        irq_enable(c)


cdef inline u64 look_at(vcpu_t *c, u64 object, u32 turns) noexcept nogil:
    """How often the object was found poisoned."""
    cdef u64 bad = 0
    cdef u32 i
    for i in range(turns):
        bad += ld64_relaxed(word(c, OBJECTS + <u32> object)) == POISONED
        dwell(1)
    return bad


def rcu_readers(Cpu cpu, u32 parties, u64 ns, u32 how):
    """Reads the current object in RCU sections of one kind: (sections, looks at poison)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 bad = 0
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            enter(c, how)
            bad += look_at(c, ld64_acquire(word(c, CURRENT)), 20)
            leave(c, how)
            done += 1
    return done, bad


def rcu_writer(Cpu cpu, u32 parties, u64 ns, bint expedited):
    """Replaces the current object, waits for a grace period, poisons the old one: how often."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 old
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            old = ld64_relaxed(word(c, CURRENT))
            done += 1
            st64_relaxed(word(c, OBJECTS + <u32> (done % NOBJECTS)), done << 16)
            st64_release(word(c, CURRENT), done % NOBJECTS)
            kernel_enter(c)
            if expedited:
                synchronize_rcu_expedited(c)
            else:
                synchronize_rcu(c)
            kernel_exit(c)
            st64_relaxed(word(c, OBJECTS + <u32> old), POISONED)
    return done


def mode(Cpu cpu, str to):
    """Takes the CPU to a state: kernel, user (out of the kernel), insn, fault (inside insn), endinsn, off, on, sleep,
    wake (as from user mode)."""
    cdef vcpu_t *c = &cpu.c
    if to == "kernel":
        kernel_enter(c)
    elif to == "user":
        kernel_exit(c)
    elif to == "insn":
        insn_begin(c)
    elif to == "fault":
        insn_fault(c)
    elif to == "endinsn":
        insn_end(c)
    elif to == "off":
        irq_disable(c)
    elif to == "on":
        irq_enable(c)
    elif to == "sleep":
        sleep_begin(c)
    elif to == "wake":
        sleep_end(c, 0)
    else:
        raise ValueError(to)


def snap(Cpu cpu):
    """When a grace period that begins from now on will be over."""
    return rcu_seq_snap(&cpu.c)


def grace(Cpu cpu, u64 target, u32 tries=1000):
    """Drives grace periods from this CPU at most so many steps: whether the one of target (snap) is over."""
    cdef vcpu_t *c = &cpu.c
    cdef u32 i
    kernel_enter(c)
    for i in range(tries):
        if rcu_seq_done(c, target):
            break
        rcu_advance(c)
    kernel_exit(c)
    return bool(rcu_seq_done(c, target))


def defer(Cpu cpu, u32 n, bint tables=False):
    """Hands n new objects to call_rcu: their VMA or frame numbers, in this order."""
    cdef vcpu_t *c = &cpu.c
    cdef u32 i, made
    out = []
    for i in range(n):
        if tables:
            made = alloc_table(c, &c.mms[1], 1)
            call_rcu(c, made | RCU_TABLE)
        else:
            made = vm_area_alloc(c, 1, 4096, 8192, 0, 0, 0)
            vm_area_poison(c, made)
            call_rcu(c, made)
        if made == 0:
            raise MemoryError("the test's segment is too small")
        out.append(made)
    return out


def rcu_step(Cpu cpu, str what):
    """What a system call does for its own deferred objects: poll, process, relieve or barrier."""
    cdef vcpu_t *c = &cpu.c
    kernel_enter(c)
    if what == "poll":
        rcu_poll(c)
    elif what == "process":
        rcu_process(c)
    elif what == "relieve":
        rcu_relieve(c)
    else:
        rcu_barrier(c)
    kernel_exit(c)


def vma_stack(Cpu cpu, u32 n):
    """The next n VMA slots that this CPU would hand out, most recently freed first."""
    cdef vcpu_t *c = &cpu.c
    cdef u32 at = get32(&c.me.vma_head)
    out = []
    while at and len(out) < n:
        out.append(at)
        at = get32(&c.vmas[at].rcu_next)
    return out
