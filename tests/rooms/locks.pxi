# Exercisers of the locks: spinlock, seqcount, rwsem, percpu_rwsem.  The locks are those of mm 1.
#
# LEFT and RIGHT are two words that a writer sets to the same value one after the other; who sees them differ has
# looked into a writer's section.  INSIDE is the writer that is in it.


from shmm.mm.percpu_rwsem cimport percpu_down_read_trylock, percpu_down_write, percpu_up_read, percpu_up_write
from shmm.layout cimport rwsem_t, spinlock_t
from shmm.mm.irq cimport irq_disable, irq_enable
from shmm.mm.rwsem cimport (
    down_read, down_read_trylock, down_write, downgrade_write, up_read, up_write,
)
from shmm.mm.seqcount cimport (
    mmap_seq_read_check, mmap_seq_read_start, mmap_seq_write_begin, mmap_seq_write_end,
)
from shmm.mm.spinlock cimport raw_spin_lock, spin_lock, spin_trylock, spin_unlock

cdef enum:
    LEFT = 0
    RIGHT = 1
    INSIDE = 2
    TOTAL = 3
    ENTERED = 8                 # one word per CPU from here on

    STAY_NS = 20000000          # how long a reader of the stream waits for the next one


cdef inline u64 write_both(vcpu_t *c) noexcept nogil:
    """A writer's section: how much of it was not exclusive."""
    cdef u64 value = ld64_relaxed(word(c, LEFT))
    cdef u64 bad = (ld64_relaxed(word(c, RIGHT)) != value) + (ld64_relaxed(word(c, INSIDE)) != 0)
    st64_relaxed(word(c, INSIDE), c.id + 1)
    bump(word(c, TOTAL))
    st64_relaxed(word(c, LEFT), value + 1)
    dwell(4)
    bad += ld64_relaxed(word(c, RIGHT)) != value
    st64_relaxed(word(c, RIGHT), value + 1)
    bad += ld64_relaxed(word(c, INSIDE)) != c.id + 1
    st64_relaxed(word(c, INSIDE), 0)
    return bad


cdef inline u64 read_both(vcpu_t *c, u32 turns) noexcept nogil:
    """A reader's section: how often a writer was seen in it."""
    cdef u64 value = ld64_relaxed(word(c, LEFT))
    cdef u64 bad = 0
    cdef u32 i
    for i in range(turns):
        bad += ld64_relaxed(word(c, RIGHT)) != value
        dwell(1)
        bad += ld64_relaxed(word(c, LEFT)) != value or ld64_relaxed(word(c, INSIDE)) != 0
    return bad


def spin(Cpu cpu, u32 parties, u64 ns):
    """Sections under the spinlock: (how many, how many not exclusive)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef spinlock_t *lock = &c.mms[1].page_table_lock
    cdef u64 done = 0
    cdef u64 bad = 0
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            if done & 1 and spin_trylock(c, lock) or not done & 1:
                if not done & 1:
                    spin_lock(c, lock)
                bad += write_both(c) + (ld32_relaxed(&lock.owner) != c.id + 1)
                if done & 31 == 0:
                    cpu_relax(1 << 20)      # others run while it is held, on a single core as well
                spin_unlock(lock)
                done += 1
    return done, bad


def spin_step(Cpu cpu, str what):
    """One operation on the spinlock: lock (waits), try (-> whether it could) or unlock."""
    cdef spinlock_t *lock = &cpu.c.mms[1].page_table_lock
    if what == "try":
        return spin_trylock(&cpu.c, lock)
    if what == "lock":
        spin_lock(&cpu.c, lock)
    else:
        spin_unlock(lock)
    return True


def spin_with_irqs_off(Cpu cpu, str what):
    """lock or try with interrupts off, and unlock."""
    cdef spinlock_t *lock = &cpu.c.mms[1].page_table_lock
    irq_disable(&cpu.c)
    if what == "try":
        spin_trylock(&cpu.c, lock)
    elif what == "raw":
        raw_spin_lock(&cpu.c, lock)
    else:
        spin_lock(&cpu.c, lock)
    spin_unlock(lock)
    irq_enable(&cpu.c)


def spin_number(Cpu cpu):
    """Takes a number under the spinlock: how many came in before."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 number
    spin_lock(c, &c.mms[1].page_table_lock)
    number = ld64_relaxed(word(c, TOTAL))
    bump(word(c, TOTAL))
    spin_unlock(&c.mms[1].page_table_lock)
    return number


def seq_write(Cpu cpu, u32 parties, u64 ns):
    """The one writer: how many sections."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            mmap_seq_write_begin(&c.mms[1])
            write_both(c)
            mmap_seq_write_end(&c.mms[1])
            dwell(4)
            done += 1
    return done


def seq_read(Cpu cpu, u32 parties, u64 ns):
    """(valid sections, torn ones among them, torn ones that the count told of)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 valid = 0
    cdef u64 torn = 0
    cdef u64 told = 0
    cdef u64 seq, left, right
    with nogil:
        until = gate(c, parties, ns)
        while valid == 0 or now_ns() < until:
            seq = mmap_seq_read_start(&c.mms[1])
            left = ld64_relaxed(word(c, LEFT))
            dwell(1)
            right = ld64_relaxed(word(c, RIGHT))
            if seq & 1 or not mmap_seq_read_check(&c.mms[1], seq):
                told += left != right
            else:
                valid += 1
                torn += left != right
    return valid, torn, told


def rwsem_mix(Cpu cpu, u32 parties, u64 ns, u64 seed):
    """Random uses of the rwsem: {what: how often}; broken: sections that were not what they should be."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef rwsem_t *sem = &c.mms[1].mmap_lock
    cdef u64 n[4]
    cdef u64 done = 0
    cdef u64 broken = 0
    cdef u64 dice
    memset(n, 0, sizeof(n))
    put64(&c.me.rng, seed)
    with nogil:
        kernel_enter(c)
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            done += 1
            dice = next_random(c) & 7
            if dice == 0:
                down_write(c, sem)
                broken += write_both(c)
                up_write(c, sem)
                n[0] += 1
            elif dice == 1:
                down_write(c, sem)
                broken += write_both(c)
                downgrade_write(c, sem)
                broken += read_both(c, 8)
                up_read(c, sem)
                n[1] += 1
            elif dice == 2:
                if down_read_trylock(c, sem):
                    broken += read_both(c, 2)
                    up_read(c, sem)
                    n[2] += 1
            else:
                down_read(c, sem)
                broken += read_both(c, 4)
                up_read(c, sem)
                n[3] += 1
        kernel_exit(c)
    return {"write": n[0], "downgrade": n[1], "trylock": n[2], "read": n[3], "broken": broken}


def rwsem_stream(Cpu cpu, u32 parties, u64 ns, u32 other):
    """Reads without end, hand in hand: one of two readers leaves only when the other has come in meanwhile, or has
    not for 20 ms.  Returns how often, when the run is stopped or time is up."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef rwsem_t *sem = &c.mms[1].mmap_lock
    cdef u64 done = 0
    cdef u64 next
    with nogil:
        kernel_enter(c)
        until = gate(c, parties, ns)
        while now_ns() < until and not ld32_relaxed(&c.g.stop):
            down_read(c, sem)
            next = ld64_relaxed(word(c, ENTERED + other)) + 1
            bump(word(c, ENTERED + c.id))
            wait_for(word(c, ENTERED + other), next, now_ns() + STAY_NS)
            up_read(c, sem)
            done += 1
        kernel_exit(c)
    return done


def rwsem_write(Cpu cpu, u32 parties, u64 ns, u64 times):
    """Writes so many times once the stream of readers 1 and 2 flows, and then stops the run; or (times == 0) until
    the run is stopped.  Returns how often it did in time."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u32 turn = 0
    with nogil:
        kernel_enter(c)
        until = gate(c, parties, ns)
        while times and now_ns() < until and not (ld64_relaxed(word(c, ENTERED + 1))
                                                  and ld64_relaxed(word(c, ENTERED + 2))):
            cpu_relax(turn)
            turn += 1
        while now_ns() < until and not ld32_relaxed(&c.g.stop) and (times == 0 or done < times):
            down_write(c, &c.mms[1].mmap_lock)
            write_both(c)
            up_write(c, &c.mms[1].mmap_lock)
            done += 1
        if times:
            st32_relaxed(&c.g.stop, 1)
        kernel_exit(c)
    return done


def rwsem_read(Cpu cpu, u32 parties, u64 ns, u64 times):
    """Reads so many times, then stops the run.  Returns how often it did in time."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    with nogil:
        kernel_enter(c)
        until = gate(c, parties, ns)
        while now_ns() < until and done < times:
            down_read(c, &c.mms[1].mmap_lock)
            up_read(c, &c.mms[1].mmap_lock)
            done += 1
        st32_relaxed(&c.g.stop, 1)
        kernel_exit(c)
    return done


def percpu_write(Cpu cpu, u32 parties, u64 ns):
    """Sections of a writer of the per-CPU semaphore: (how many, how many not exclusive)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 bad = 0
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            kernel_enter(c)
            percpu_down_write(c, &c.mms[1].notifier_lock)
            bad += write_both(c)
            percpu_up_write(c, &c.mms[1].notifier_lock)
            kernel_exit(c)
            done += 1
    return done, bad


def percpu_read(Cpu cpu, u32 parties, u64 ns):
    """Sections of a reader: (how many, how many with a writer in it, how many tries failed)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 bad = 0
    cdef u64 failed = 0
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            kernel_enter(c)
            if percpu_down_read_trylock(c, &c.mms[1].notifier_lock):
                bad += read_both(c, 8)
                percpu_up_read(c, &c.mms[1].notifier_lock)
                done += 1
            else:
                failed += 1
            kernel_exit(c)
    return done, bad, failed


def percpu_step(Cpu cpu, str what):
    """One operation on the per-CPU semaphore: write, unwrite, read (-> whether it could) or unread."""
    cdef vcpu_t *c = &cpu.c
    cdef bint ok = True
    kernel_enter(c)
    if what == "write":
        percpu_down_write(c, &c.mms[1].notifier_lock)
    elif what == "unwrite":
        percpu_up_write(c, &c.mms[1].notifier_lock)
    elif what == "read":
        ok = percpu_down_read_trylock(c, &c.mms[1].notifier_lock)
    else:
        percpu_up_read(c, &c.mms[1].notifier_lock)
    kernel_exit(c)
    return ok


def rwsem_step(Cpu cpu, str what):
    """One operation that cannot wait: try (-> whether it could), read, unread, write, unwrite, downgrade."""
    cdef vcpu_t *c = &cpu.c
    cdef rwsem_t *sem = &c.mms[1].mmap_lock
    if what == "try":
        return down_read_trylock(c, sem)
    if what == "read":
        down_read(c, sem)
    elif what == "write":
        down_write(c, sem)
    elif what == "unread":
        up_read(c, sem)
    elif what == "unwrite":
        up_write(c, sem)
    else:
        downgrade_write(c, sem)
    return True
