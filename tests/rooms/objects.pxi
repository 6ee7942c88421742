# Exercisers of what the memory manager is made of: frames, the VMA tree.

from shmm.mm.find_vma cimport find_vma, unmapped_area_topdown
from shmm.mm.frame cimport alloc_frame, frame_bytes, free_frame
from shmm.mm.vma_adjust cimport vm_area_free
from shmm.mm.vma_tree cimport next_vma, vma_link, vma_unlink

cdef enum:
    MOST = 512                  # frames or VMAs that one exerciser holds at a time
    SPAN = 1024                 # places for a VMA in the arena of tree_storm, every other page, and
    PLACES = 40                 # 16 words of a bit for each: whether there is one


def take(Cpu cpu):
    """A frame, or 0."""
    return alloc_frame(&cpu.c, L.SHMM_FRAME_ANON)


def give(Cpu cpu, u32 pfn):
    """Frees a frame."""
    free_frame(&cpu.c, pfn)


def frame_storm(Cpu cpu, u32 parties, u64 ns, u64 seed):
    """Takes and gives frames at random, up to 512 at a time, all back at the end: (taken, frames that somebody else
    held at the same time, times that memory was out)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u32 held[MOST]
    cdef u32 n = 0
    cdef u32 which, pfn
    cdef u64 taken = 0
    cdef u64 bad = 0
    cdef u64 out = 0
    cdef u32 room = 1
    cdef bint growing = True
    put64(&c.me.rng, seed)
    with nogil:
        until = gate(c, parties, ns)
        while growing or n:
            if growing:
                pfn = alloc_frame(c, L.SHMM_FRAME_ANON)
                if pfn:
                    # the frame's first word says how many hold it
                    bad += fetch_add64(<a64 *> frame_bytes(c, pfn), 1) != 0
                    held[n] = pfn
                    n += 1
                    taken += 1
                else:
                    out += 1
                growing = pfn != 0 and n < room
            else:
                n -= 1
                which = <u32> (next_random(c) % (n + 1))
                pfn = held[which]
                held[which] = held[n]
                fetch_add64(<a64 *> frame_bytes(c, pfn), <u64> -1)
                free_frame(c, pfn)
                if n == 0 and now_ns() < until:
                    room = 1 + <u32> (next_random(c) % MOST)
                    growing = True
    return taken, bad, out


def tree(Cpu cpu, str what, u64 a=0, u64 b=0):
    """One operation on the VMAs of mm 1: insert start end (-> VMA), erase VMA, find address (-> VMA or 0), hole length
    (-> address or 0), base address (where the search for holes begins)."""
    cdef vcpu_t *c = &cpu.c
    cdef u32 vma
    if what == "find":
        return find_vma(c, &c.mms[1], a)
    if what == "hole":
        return unmapped_area_topdown(c, &c.mms[1], a)
    if what == "insert":
        vma = vm_area_alloc(c, 1, a, b, 0, a >> 12, 0)
        if vma:
            vma_link(c, &c.mms[1], vma)
        return vma
    if what == "erase":
        vma_unlink(c, &c.mms[1], <u32> a)
        vm_area_free(c, &c.mms[1], <u32> a)
    else:
        put64(&c.mms[1].mmap_base, a)


def tree_list(Cpu cpu):
    """The VMAs of mm 1 in the order of their list: (VMA, start, end)."""
    cdef vcpu_t *c = &cpu.c
    cdef u32 at = get32(&c.mms[1].vma_first)
    out = []
    while at:
        out.append((at, ld64_relaxed(&c.vmas[at].start), ld64_relaxed(&c.vmas[at].end)))
        at = next_vma(c, at)
    return out


def tree_breach(Cpu cpu):
    """The first breach of I1 in mm 1, in words, or None."""
    cdef breach_t b
    memset(&b, 0, sizeof(b))
    return tell(check_I1(&cpu.c, 1, &b), &b) or None


def tree_storm(Cpu cpu, u32 parties, u64 ns, u64 seed):
    """Inserts and erases VMAs of one page at random, as the one writer: how often."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 place, start
    cdef u32 vma
    cdef a64 *bits
    put64(&c.me.rng, seed)
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            place = next_random(c) % SPAN
            start = (FIRST_PAGE + 2 * place) << 12
            kernel_enter(c)
            vma = find_vma(c, &c.mms[1], start)
            mmap_seq_write_begin(&c.mms[1])
            if vma and ld64_relaxed(&c.vmas[vma].start) == start:
                vma_unlink(c, &c.mms[1], vma)
                vm_area_free(c, &c.mms[1], vma)
            else:
                vma = vm_area_alloc(c, 1, start, start + 4096, 0, start >> 12, 0)
                vma_link(c, &c.mms[1], vma)     # there are enough of them, thanks to rcu_relieve
            bits = word(c, PLACES + <u32> (place >> 6))
            st64_relaxed(bits, ld64_relaxed(bits) ^ <u64> 1 << (place & 63))
            mmap_seq_write_end(&c.mms[1])
            rcu_relieve(c)
            rcu_poll(c)
            kernel_exit(c)
            done += 1
    return done


cdef inline bint whole(vcpu_t *c, u32 vma, u64 turns) noexcept nogil:
    """Whether the VMA stays the same one, freed or not, as long as we look."""
    cdef u64 pgoff = ld64_relaxed(&c.vmas[vma].pgoff)
    cdef u64 start
    cdef u64 i
    for i in range(turns):
        start = ld64_relaxed(&c.vmas[vma].start)
        if start != pgoff << 12 and start != L.SHMM_VMA_POISON or ld64_relaxed(&c.vmas[vma].pgoff) != pgoff:
            return False
        dwell(1)
    return True


def tree_descend(Cpu cpu, u32 parties, u64 ns, u64 seed):
    """Lockless searches: (how many, results that are no VMA, VMAs reused while looked at, wrong answers for which the
    sequence count had not changed, answers that were valid)."""
    cdef vcpu_t *c = &cpu.c
    cdef u64 until
    cdef u64 done = 0
    cdef u64 outside = 0
    cdef u64 reused = 0
    cdef u64 wrong = 0
    cdef u64 valid = 0
    cdef u64 page, addr, seq, start, end
    cdef u32 vma
    cdef bint there
    put64(&c.me.rng, seed)
    with nogil:
        until = gate(c, parties, ns)
        while done == 0 or now_ns() < until:
            page = next_random(c) % (2 * SPAN)
            addr = (FIRST_PAGE + page) << 12
            kernel_enter(c)
            rcu_read_lock(c)
            seq = mmap_seq_read_start(&c.mms[1])
            vma = find_vma(c, &c.mms[1], addr)
            outside += vma >= c.g.nvma
            start = ld64_relaxed(&c.vmas[vma].start)
            end = ld64_relaxed(&c.vmas[vma].end)
            there = not page & 1 and ld64_relaxed(word(c, PLACES + <u32> (page >> 7))) >> (page >> 1 & 63) & 1
            if not seq & 1 and mmap_seq_read_check(&c.mms[1], seq):
                valid += 1
                wrong += there != (vma != 0 and start == addr) or (vma != 0 and end <= addr)
            if vma:
                reused += not whole(c, vma, 20)
            rcu_read_unlock(c)
            kernel_exit(c)
            done += 1
    return done, outside, reused, wrong, valid


def tree_height(Cpu cpu):
    """The height of mm 1's tree, in nodes."""
    return height(&cpu.c, ld32_relaxed(&cpu.c.mms[1].vma_root))


cdef u32 height(vcpu_t *c, u32 v) noexcept nogil:
    if v == 0:
        return 0
    return 1 + max(height(c, ld32_relaxed(&c.vmas[v].left)), height(c, ld32_relaxed(&c.vmas[v].right)))
