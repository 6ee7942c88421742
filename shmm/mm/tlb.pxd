"""The software TLB of one CPU: two levels, set-associative, tagged by address-space generation.

    tag = generation << 36 | virtual page number

A generation stands for (mm, everything cached since its last full flush), as a PCID does: the CPU keeps the current
generation of the last SHMM_ASIDS address spaces, so that switching back finds warm entries, and a full flush of one
mm is one increment: old entries stop matching.

Owner only, interrupts off: the mailbox handler is the one other writer and runs on the same CPU, so that a lookup and
the access that uses it are one unit with respect to a shootdown (G1: see irq.pxd).

Under --paranoid an entry carries the low bits of its frame's free count in the PTE's ignored bits 52..62; a use of an
entry whose frame was freed since is a translation that outlived its munmap (I3)."""

from shmm.arch.arch cimport clear_page, get32, get64, put32, put64, u32, u64
from shmm.layout cimport (
    SHMM_ASIDS, SHMM_C_nr_tlb_local_flush_all, SHMM_C_nr_tlb_local_flush_one, SHMM_C_tlb_hit, SHMM_C_tlb_hit_l2,
    SHMM_C_tlb_miss, SHMM_TLB_L1_SETS, SHMM_TLB_L1_WAYS, SHMM_TLB_L2_SETS, SHMM_TLB_L2_WAYS, tlb_entry_t, vcpu_t,
)
from shmm.mm.vmstat cimport count_vm_event


cdef inline u64 tlb_new_generation(vcpu_t *c) noexcept nogil:
    cdef u64 gen = get64(&c.me.tlb_gen) + 1
    cdef u32 i
    if gen >= 1 << 28:              # the tag has 28 bits for it: start over with an empty TLB
        clear_page(c.me.tlb_l1, sizeof(tlb_entry_t) * SHMM_TLB_L1_SETS * SHMM_TLB_L1_WAYS)
        clear_page(c.me.tlb_l2, sizeof(tlb_entry_t) * SHMM_TLB_L2_SETS * SHMM_TLB_L2_WAYS)
        for i in range(SHMM_ASIDS):     # whoever is remembered stays so, with nothing cached
            put64(&c.me.asid_gen[i], i + 1)
        gen = SHMM_ASIDS + 1
    put64(&c.me.tlb_gen, gen)
    return gen


cdef inline u32 tlb_asid_of(vcpu_t *c, u32 mm) noexcept nogil:
    """The slot that remembers mm, or SHMM_ASIDS."""
    cdef u32 i
    for i in range(SHMM_ASIDS):
        if get32(&c.me.asid_mm[i]) == mm + 1:
            return i
    return SHMM_ASIDS


cdef inline void tlb_switch_mm(vcpu_t *c, u32 mm) noexcept nogil:
    """Loads mm: its old entries if it is still remembered, else an empty generation in a victim's slot."""
    cdef u32 i = tlb_asid_of(c, mm)
    cdef u64 gen
    if i == SHMM_ASIDS:
        gen = tlb_new_generation(c)
        i = get32(&c.me.asid_victim)
        put32(&c.me.asid_victim, (i + 1) % SHMM_ASIDS)
        put32(&c.me.asid_mm[i], mm + 1)
        put64(&c.me.asid_gen[i], gen)
    put32(&c.me.asid_current, i)


cdef inline void tlb_flush_mm(vcpu_t *c, u32 mm) noexcept nogil:
    cdef u32 i = tlb_asid_of(c, mm)
    cdef u64 gen
    if i < SHMM_ASIDS:
        gen = tlb_new_generation(c)
        put32(&c.me.asid_mm[i], mm + 1)
        put64(&c.me.asid_gen[i], gen)


cdef inline void tlb_flush_everything(vcpu_t *c) noexcept nogil:
    cdef u32 i
    for i in range(SHMM_ASIDS):
        if get32(&c.me.asid_mm[i]):
            tlb_flush_mm(c, get32(&c.me.asid_mm[i]) - 1)


cdef inline tlb_entry_t *tlb_l1_set(vcpu_t *c, u64 vpn) noexcept nogil:
    return &c.me.tlb_l1[(vpn & (SHMM_TLB_L1_SETS - 1)) * SHMM_TLB_L1_WAYS]


cdef inline tlb_entry_t *tlb_l2_set(vcpu_t *c, u64 vpn) noexcept nogil:
    return &c.me.tlb_l2[(vpn & (SHMM_TLB_L2_SETS - 1)) * SHMM_TLB_L2_WAYS]


cdef inline void tlb_flush_one(vcpu_t *c, u32 mm, u64 vpn) noexcept nogil:
    cdef u32 i = tlb_asid_of(c, mm)
    cdef u32 way
    cdef u64 tag
    cdef tlb_entry_t *e
    if i == SHMM_ASIDS:
        return
    tag = get64(&c.me.asid_gen[i]) << 36 | vpn
    e = tlb_l1_set(c, vpn)
    for way in range(SHMM_TLB_L1_WAYS):
        if get64(&e[way].tag) == tag:
            put64(&e[way].tag, 0)
    e = tlb_l2_set(c, vpn)
    for way in range(SHMM_TLB_L2_WAYS):
        if get64(&e[way].tag) == tag:
            put64(&e[way].tag, 0)


cdef inline void tlb_flush_local(vcpu_t *c, u32 mm, u64 vpn, u64 pages) noexcept nogil:
    """Forgets pages translations from vpn on, or all of mm's when pages is 0."""
    cdef u64 i
    if pages == 0:
        tlb_flush_mm(c, mm)
        count_vm_event(c, SHMM_C_nr_tlb_local_flush_all)
        return
    for i in range(pages):
        tlb_flush_one(c, mm, vpn + i)
    count_vm_event(c, SHMM_C_nr_tlb_local_flush_one)


cdef inline void tlb_fill(vcpu_t *c, u64 vpn, u64 pte) noexcept nogil:
    """Caches a translation; the L1 victim moves to L2.  Any older entry of the page must have been flushed."""
    cdef u64 tag = get64(&c.me.asid_gen[get32(&c.me.asid_current)]) << 36 | vpn
    cdef u32 way = get32(&c.me.tlb_victim)
    cdef tlb_entry_t *e = tlb_l1_set(c, vpn) + way % SHMM_TLB_L1_WAYS
    cdef u64 old = get64(&e.tag)
    cdef tlb_entry_t *below
    put32(&c.me.tlb_victim, way + 1)
    if old:
        below = tlb_l2_set(c, old) + (way >> 2) % SHMM_TLB_L2_WAYS
        put64(&below.tag, old)
        put64(&below.pte, get64(&e.pte))
    put64(&e.tag, tag)
    put64(&e.pte, pte)


cdef inline u64 tlb_lookup(vcpu_t *c, u64 vpn) noexcept nogil:
    """The cached PTE of a page of the loaded mm, or 0."""
    cdef u64 tag = get64(&c.me.asid_gen[get32(&c.me.asid_current)]) << 36 | vpn
    cdef tlb_entry_t *e = tlb_l1_set(c, vpn)
    cdef u32 way
    cdef u64 pte
    for way in range(SHMM_TLB_L1_WAYS):
        if get64(&e[way].tag) == tag:
            count_vm_event(c, SHMM_C_tlb_hit)
            return get64(&e[way].pte)
    e = tlb_l2_set(c, vpn)
    for way in range(SHMM_TLB_L2_WAYS):
        if get64(&e[way].tag) == tag:
            pte = get64(&e[way].pte)
            put64(&e[way].tag, 0)
            tlb_fill(c, vpn, pte)
            count_vm_event(c, SHMM_C_tlb_hit_l2)
            return pte
    count_vm_event(c, SHMM_C_tlb_miss)
    return 0
