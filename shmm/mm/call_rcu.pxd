"""call_rcu: VMAs and page-table pages that may be freed only after a grace period.

A callback is an index with the kind in its top bit, linked through a field of the object itself (vma_t.rcu_next,
frame_t.next).  Each CPU has two lists: one waiting for a grace period whose number is known, and a newer one that will
wait for the next.  Owner only, no lock.

Back-pressure: a CPU that defers faster than grace periods end drives one itself, expedited, when its lists pass
RCU_HIGH entries, or free frames or VMA slots fall below 1/16; the kernel's answer is the same in spirit (qhimark,
OOM)."""

from shmm.arch.arch cimport get32, get64, ld64_relaxed, p32, put32, put64, u32
from shmm.layout cimport SHMM_C_rcu_backpressure, SHMM_C_rcu_callbacks, vcpu_t
from shmm.mm.frame cimport frames_short
from shmm.mm.page_table cimport free_table
from shmm.mm.rcu cimport rcu_advance, rcu_seq_done, rcu_seq_snap, synchronize_rcu_expedited
from shmm.mm.vma cimport vm_area_free_now
from shmm.mm.vmstat cimport count_vm_event

cdef enum:
    RCU_TABLE = 0x80000000
    RCU_HIGH = 2000             # deferred objects of one CPU before it drives a grace period itself


cdef inline p32 *rcu_link(vcpu_t *c, u32 callback) noexcept nogil:
    if callback & RCU_TABLE:
        return &c.frames[callback & ~(<u32> RCU_TABLE)].next
    return &c.vmas[callback].rcu_next


cdef inline void rcu_do_batch(vcpu_t *c) noexcept nogil:
    """The grace period of the waiting list is over: free it."""
    cdef u32 callback = get32(&c.me.rcu_wait_head)
    cdef u32 next
    put32(&c.me.rcu_wait_head, 0)
    put32(&c.me.rcu_wait_count, 0)
    while callback:
        next = get32(rcu_link(c, callback))
        if callback & RCU_TABLE:
            free_table(c, callback & ~(<u32> RCU_TABLE))
        else:
            vm_area_free_now(c, callback)
        count_vm_event(c, SHMM_C_rcu_callbacks)
        callback = next


cdef inline void rcu_accelerate(vcpu_t *c) noexcept nogil:
    """The newer list becomes the waiting one, with a grace period that begins from now on."""
    put32(&c.me.rcu_wait_head, get32(&c.me.rcu_next_head))
    put32(&c.me.rcu_wait_count, get32(&c.me.rcu_next_count))
    put64(&c.me.rcu_target, rcu_seq_snap(c))
    put32(&c.me.rcu_next_head, 0)
    put32(&c.me.rcu_next_count, 0)


cdef inline void rcu_process(vcpu_t *c) noexcept nogil:
    """Runs what is due, and gives the rest a grace period to wait for."""
    if get32(&c.me.rcu_wait_head) and rcu_seq_done(c, get64(&c.me.rcu_target)):
        rcu_do_batch(c)
    if not get32(&c.me.rcu_wait_head) and get32(&c.me.rcu_next_head):
        rcu_accelerate(c)
    if get32(&c.me.rcu_wait_head):
        rcu_advance(c)


cdef inline void rcu_poll(vcpu_t *c) noexcept nogil:
    """At system calls and between instructions: no RCU section, interrupts on.  Mostly two loads."""
    cdef u32 n
    if not get32(&c.me.rcu_wait_head) and not get32(&c.me.rcu_next_head):
        return
    n = get32(&c.me.poll_count) + 1
    if n >= c.g.rcu_poll_every or get32(&c.me.rcu_next_count) >= c.g.rcu_poll_every:
        n = 0
        rcu_process(c)
    put32(&c.me.poll_count, n)


cdef inline void rcu_barrier(vcpu_t *c) noexcept nogil:
    """Finishes everything this CPU has deferred."""
    while get32(&c.me.rcu_wait_head) or get32(&c.me.rcu_next_head):
        synchronize_rcu_expedited(c)
        rcu_process(c)


cdef inline void rcu_relieve(vcpu_t *c) noexcept nogil:
    """Memory is short or the lists are long.  The caller is in a system call and holds no spinlock."""
    cdef bint short = (frames_short(c, c.g.nframe >> 4)
                       or ld64_relaxed(&c.g.vma_pool.free) < c.g.nvma >> 4)     # hints: no lock
    if get32(&c.me.rcu_next_count) + get32(&c.me.rcu_wait_count) > (64 if short else RCU_HIGH):
        count_vm_event(c, SHMM_C_rcu_backpressure)
        rcu_barrier(c)


cdef inline void call_rcu(vcpu_t *c, u32 callback) noexcept nogil:
    """Frees the object after a grace period: a VMA's index, or a table's frame | RCU_TABLE."""
    put32(rcu_link(c, callback), get32(&c.me.rcu_next_head))
    put32(&c.me.rcu_next_head, callback)
    put32(&c.me.rcu_next_count, get32(&c.me.rcu_next_count) + 1)
