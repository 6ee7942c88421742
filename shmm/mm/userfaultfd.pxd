"""userfaultfd: a program answers faults (handle_userfault and what wakes it).  One context per address space is enough
here, the kernel has one per file descriptor; registering is userfaultfd_register.pxd, answering userfaultfd_fill.pxd.

A classical fault on a page that is missing, or write-protected, in a registered VMA:

    CPU 0  fault, mmap_lock for read              CPU 1  answers
    ptl: the pte is empty; unlock
    joins the queue (uffd_lock)                   reads the message: the address
    is the pte empty still?          --- Q ---    ptl: fills the pte
    mmap_read_unlock                              takes whom it finds in the range off the queue (uffd_lock),
    sleeps until its word is 0                      and clears their words
    takes the fault again

Q: joining comes before the second look, filling before the search of the queue, and uffd_lock orders the two:
either the answer finds who waits, or who waits finds the answer.  (The mutant UFFD_NO_RECHECK does not look.)

The sleep comes after mmap_lock is dropped, in the scheme (VM_FAULT_RETRY says so), for the answer may need that lock
for write.  It ends with the answer, with UFFDIO_WAKE, when the range is no longer registered, or with the run (the stop
word, as a fatal signal).  What executes CPUs one at a time cannot sleep for another one (vcpu_t.alone): there the
access fails with -EAGAIN, its message stays, and it may be tried again after the answer.

Speculation holds no lock that keeps the VMA registered and gives up, in both cases under the ptl (v2 18 and 27/35): a
registration moves mmap_seq, so that the copy of the VMA says what is so, or the ptl is not had.

Source: fs/userfaultfd.c."""

from shmm.arch.arch cimport (
    fetch_add32, futex_wait, futex_wake, get32, get64, ld32_acquire, ld32_relaxed, ld64_acquire, mutant, put32, put64,
    st32_relaxed, st32_release, u32, u64,
)
from shmm.arch.mutants cimport SHMM_M_UFFD_NO_CHECK, SHMM_M_UFFD_NO_RECHECK, SHMM_M_UFFD_WP_NO_CHECK
from shmm.layout cimport (
    SHMM_C_SPF_ABORT_USERFAULTFD, SHMM_C_userfaults, SHMM_PTE_UFFD_WP, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP, cpu_t,
    mm_t, vcpu_t,
)
from shmm.mm.irq cimport sleep_begin, sleep_end
from shmm.mm.spinlock cimport spin_lock, spin_unlock
from shmm.mm.vmstat cimport count_vm_event
from shmm.mm.walk cimport VM_FAULT_RETRY, spf_abort, vm_fault_t

cdef enum:
    LOOK_NS = 20000000          # the longest sleep between two looks at the stop word

# What a fault tells whoever answers it.
cdef struct uffd_msg_t:
    u64 address
    u32 reason                  # VM_UFFD_*
    u32 cpu


cdef inline bint userfaultfd_missing(vm_fault_t *vmf) noexcept nogil:
    if mutant(SHMM_M_UFFD_NO_CHECK) and vmf.speculative:
        return False
    return vmf.vma.flags & SHMM_VM_UFFD_MISSING != 0


cdef inline bint userfaultfd_pte_wp(vm_fault_t *vmf, u64 pte) noexcept nogil:
    if mutant(SHMM_M_UFFD_WP_NO_CHECK) and vmf.speculative:
        return False
    return vmf.vma.flags & SHMM_VM_UFFD_WP != 0 and pte & SHMM_PTE_UFFD_WP != 0


cdef inline void uffd_unlink(vcpu_t *c, mm_t *mm, u32 prev, cpu_t *who) noexcept nogil:
    """Off the queue; prev (cpu + 1, or 0) stands before it.  uffd_lock held."""
    cdef u32 next = get32(&who.uffd_next)
    if prev:
        put32(&c.cpus[prev - 1].uffd_next, next)
    else:
        put32(&mm.uffd_head, next)
    if next == 0:
        put32(&mm.uffd_tail, prev)
    st32_release(&who.uffd_wait, 0)             # pairs with the acquire in userfaultfd_wait


cdef inline void uffd_wake_range(vcpu_t *c, mm_t *mm, u64 start, u64 end) noexcept nogil:
    """Whoever waits for a page of the range takes its fault again."""
    cdef u32 prev = 0
    cdef u32 who, next
    spin_lock(c, &mm.uffd_lock)
    who = get32(&mm.uffd_head)
    while who:
        next = get32(&c.cpus[who - 1].uffd_next)
        if start <= get64(&c.cpus[who - 1].uffd_addr) < end:
            uffd_unlink(c, mm, prev, &c.cpus[who - 1])
            futex_wake(&c.cpus[who - 1].uffd_wait, 1)
        else:
            prev = who
        who = next
    spin_unlock(&mm.uffd_lock)


cdef inline void uffd_forget(vcpu_t *c, mm_t *mm) noexcept nogil:
    """This CPU does not wait any more."""
    cdef u32 prev = 0
    cdef u32 who
    spin_lock(c, &mm.uffd_lock)
    who = get32(&mm.uffd_head)
    while who and who != c.id + 1:
        prev = who
        who = get32(&c.cpus[who - 1].uffd_next)
    if who:
        uffd_unlink(c, mm, prev, c.me)
    spin_unlock(&mm.uffd_lock)


cdef inline void uffd_queue(vcpu_t *c, mm_t *mm, u64 address, u32 reason) noexcept nogil:
    """Joins the queue, with a message that nobody has read."""
    cdef u32 last
    if ld32_relaxed(&c.me.uffd_wait):           # the same access, tried again without an answer
        uffd_forget(c, mm)
    spin_lock(c, &mm.uffd_lock)
    last = get32(&mm.uffd_tail)
    put64(&c.me.uffd_addr, address)
    put32(&c.me.uffd_reason, reason)
    put32(&c.me.uffd_told, 0)
    put32(&c.me.uffd_next, 0)
    st32_relaxed(&c.me.uffd_wait, 1)
    if last:
        put32(&c.cpus[last - 1].uffd_next, c.id + 1)
    else:
        put32(&mm.uffd_head, c.id + 1)
    put32(&mm.uffd_tail, c.id + 1)
    spin_unlock(&mm.uffd_lock)
    fetch_add32(&mm.uffd_events, 1)             # a full barrier; pairs with the acquire in uffd_read
    futex_wake(&mm.uffd_events, 0x7fffffff)


cdef inline bint userfaultfd_must_wait(vm_fault_t *vmf, u32 reason) noexcept nogil:
    """Q: whether the page is as it was, now that this CPU can be found.  mmap_lock keeps the table."""
    cdef u64 pte = ld64_acquire(vmf.pte)        # pairs with the release in set_entry, as every look at a pte
    if mutant(SHMM_M_UFFD_NO_RECHECK):
        return True
    return pte == 0 if reason == SHMM_VM_UFFD_MISSING else pte & SHMM_PTE_UFFD_WP != 0


cdef inline u32 handle_userfault(vcpu_t *c, vm_fault_t *vmf, u32 reason) noexcept nogil:
    """The ptl has been dropped.  VM_FAULT_RETRY: speculation gives up, or the classical fault drops its lock, waits
    (userfaultfd_wait) and begins anew.  0: no need to."""
    if vmf.speculative:
        return spf_abort(c, SHMM_C_SPF_ABORT_USERFAULTFD)
    uffd_queue(c, vmf.mm, vmf.address, reason)
    count_vm_event(c, SHMM_C_userfaults)
    if not userfaultfd_must_wait(vmf, reason):
        uffd_forget(c, vmf.mm)
        return 0
    return VM_FAULT_RETRY


cdef inline bint userfaultfd_wait(vcpu_t *c, mm_t *mm) noexcept nogil:
    """Sleeps until this CPU is taken off the queue.  No lock is held.  False: it was not; the fault cannot go on."""
    cdef u64 mode
    while ld32_acquire(&c.me.uffd_wait):        # pairs with the release in uffd_unlink
        if c.alone:
            return False
        if ld32_relaxed(&c.g.stop):
            uffd_forget(c, mm)
            return False
        mode = sleep_begin(c)
        futex_wait(&c.me.uffd_wait, 1, LOOK_NS)
        sleep_end(c, mode)
    return True


cdef inline bint uffd_take(vcpu_t *c, mm_t *mm, uffd_msg_t *msg) noexcept nogil:
    """The oldest message that nobody has read."""
    cdef u32 who
    spin_lock(c, &mm.uffd_lock)
    who = get32(&mm.uffd_head)
    while who and get32(&c.cpus[who - 1].uffd_told):
        who = get32(&c.cpus[who - 1].uffd_next)
    if who:
        put32(&c.cpus[who - 1].uffd_told, 1)
        msg.address = get64(&c.cpus[who - 1].uffd_addr)
        msg.reason = get32(&c.cpus[who - 1].uffd_reason)
        msg.cpu = who - 1
    spin_unlock(&mm.uffd_lock)
    return who != 0


cdef inline bint uffd_read(vcpu_t *c, mm_t *mm, bint waits, uffd_msg_t *msg) noexcept nogil:
    """A message; waits: sleeps for one, until the run is stopped.  False: there is none."""
    cdef u64 mode
    cdef u32 seen = ld32_acquire(&mm.uffd_events)       # before the look, so that no message is slept through; pairs
    while not uffd_take(c, mm, msg):                    # with the addition in uffd_queue
        if not waits or c.alone or ld32_relaxed(&c.g.stop):
            return False
        mode = sleep_begin(c)
        futex_wait(&mm.uffd_events, seen, LOOK_NS)
        sleep_end(c, mode)
        seen = ld32_acquire(&mm.uffd_events)            # pairs with the addition in uffd_queue
    return True
