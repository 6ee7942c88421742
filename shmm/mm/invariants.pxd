"""The lettered invariants of layout.h, as code.  One function per letter; all CPUs stopped (or, in an engine that can
stop the world, between two steps).

Each returns the number of breaches it found and fills `found` with the first, so that a checker can stop at once and
a launcher can print a line.  I3 is looked at where a translation is used (mmu.pxd) and only counted there.
I7 and I8 have rooms of their own (check_secondary.pxd, check_rt.pxd)."""

from shmm.arch.arch cimport a32, get32, get64, ld32_relaxed, ld64_relaxed, u32, u64
from shmm.layout cimport (
    SHMM_C_SPF_ABORT_ODD, SHMM_C_SPF_ABORT_SWAP, SHMM_C_notifier_trylock_failed, SHMM_C_pgalloc, SHMM_C_pgfree,
    SHMM_C_reader_beside_writer, SHMM_C_rt_atomic_sleep, SHMM_C_secondary_stale, SHMM_C_spf_abort, SHMM_C_spf_attempt,
    SHMM_C_spf_success, SHMM_C_violations, SHMM_FRAME_FREE, SHMM_FRAME_TABLE, SHMM_HPAGE_SIZE, SHMM_PAGE_SHIFT,
    SHMM_PTE_PRESENT, SHMM_PTE_PROTNONE, SHMM_PTE_SPECIAL, SHMM_PTE_WRITE, SHMM_PTRS_PER, SHMM_VM_EXEC, SHMM_VM_READ,
    SHMM_VM_SHARED, SHMM_VM_WRITE, mm_t, node_t, vcpu_t,
)
from shmm.mm.breach cimport breach, breach_t, lock_words, sum_counter
from shmm.mm.find_vma cimport find_vma
from shmm.mm.frame cimport frame_node
from shmm.mm.huge_frame cimport compound_head, first_huge_frame
from shmm.mm.latch_tree cimport is_latched
from shmm.mm.page_table cimport PGD, PMD, PTE, entry_shift, pmd_trans_huge, pte_pfn, table_entry
from shmm.mm.swap_entry cimport swp_offset
from shmm.mm.vma cimport vma_end, vma_start
from shmm.mm.vma_tree cimport gap_before, is_red, left_of, next_vma, parent_of, right_of


cdef inline u64 check_child(vcpu_t *c, u32 mm, u32 v, u32 child, u64 *bad, breach_t *found) noexcept nogil:
    """The link between v and its child; returns the child's subtree gap."""
    if child == 0:
        return 0
    if parent_of(c, child) != v:
        bad[0] += breach(found, 1, mm, b"parent link", vma_start(c, child), parent_of(c, child), v)
    if is_red(c, v) and is_red(c, child):
        bad[0] += breach(found, 1, mm, b"red child of a red node", vma_start(c, child), 1, 0)
    return get64(&c.vmas[child].subtree_gap)


cdef inline u64 check_copy(vcpu_t *c, u32 mm, u32 v, a32 *first, a32 *second, breach_t *found) noexcept nogil:
    """A link of a latched tree, in both copies."""
    if ld32_relaxed(first) == ld32_relaxed(second):
        return 0
    return breach(found, 1, mm, b"link of the second tree", vma_start(c, v) if v else 0, ld32_relaxed(second),
                  ld32_relaxed(first))


cdef inline u64 check_node(vcpu_t *c, u32 mm, u32 v, u64 *bad, breach_t *found, u64 *vmas) noexcept nogil:
    """A subtree of the VMA tree; returns its black height and adds its nodes to vmas."""
    cdef u64 left, right
    cdef u64 gap = gap_before(c, v)
    vmas[0] += 1
    gap = max(gap, check_child(c, mm, v, left_of(c, v), bad, found))
    gap = max(gap, check_child(c, mm, v, right_of(c, v), bad, found))
    if get64(&c.vmas[v].subtree_gap) != gap:
        bad[0] += breach(found, 1, mm, b"subtree gap", vma_start(c, v), get64(&c.vmas[v].subtree_gap), gap)
    left = check_node(c, mm, left_of(c, v), bad, found, vmas) if left_of(c, v) else 0
    right = check_node(c, mm, right_of(c, v), bad, found, vmas) if right_of(c, v) else 0
    if is_latched(c):
        bad[0] += check_copy(c, mm, v, &c.vmas[v].left, &c.vmas[v].latch_left, found)
        bad[0] += check_copy(c, mm, v, &c.vmas[v].right, &c.vmas[v].latch_right, found)
    if left != right:
        bad[0] += breach(found, 1, mm, b"black height", vma_start(c, v), left, right)
    return left + (0 if is_red(c, v) else 1)


cdef inline u64 check_I1(vcpu_t *c, u32 slot, breach_t *found) noexcept nogil:
    """Tree and list of one mm."""
    cdef mm_t *mm = &c.mms[slot]
    cdef u32 v = get32(&mm.vma_first)
    cdef u64 at = 0
    cdef u64 bad = 0
    cdef u64 listed = 0
    cdef u64 treed = 0
    if is_latched(c):
        bad += check_copy(c, slot, 0, &mm.vma_root, &mm.latch_root, found)
        if ld32_relaxed(&mm.latch_seq) & 1:
            bad += breach(found, 1, slot, b"latch_seq is odd", 0, ld32_relaxed(&mm.latch_seq), 0)
    if ld32_relaxed(&mm.vma_root):
        check_node(c, slot, ld32_relaxed(&mm.vma_root), &bad, found, &treed)
    while v and listed <= treed:
        listed += 1
        if vma_start(c, v) < at or vma_end(c, v) <= vma_start(c, v):
            bad += breach(found, 1, slot, b"overlap or order", vma_start(c, v), at, vma_end(c, v))
        if find_vma(c, mm, vma_start(c, v)) != v:
            bad += breach(found, 1, slot, b"not found in the tree", vma_start(c, v),
                          find_vma(c, mm, vma_start(c, v)), v)
        if get32(&c.vmas[v].freed) or get32(&c.vmas[v].mm) != slot:
            bad += breach(found, 1, slot, b"freed or foreign VMA in the list", vma_start(c, v), v, slot)
        at = vma_end(c, v)
        v = next_vma(c, v)
    if listed != treed or listed != get32(&mm.map_count):
        bad += breach(found, 1, slot, b"VMAs in list and tree", 0, listed, treed)
    return bad


cdef inline u64 check_pte(vcpu_t *c, u32 slot, u64 addr, u64 pte, u32 *refs, breach_t *found) noexcept nogil:
    cdef u32 v = find_vma(c, &c.mms[slot], addr)
    cdef u32 pfn = compound_head(c, pte_pfn(pte))
    cdef u64 flags
    if v == 0 or vma_start(c, v) > addr:
        return breach(found, 2, slot, b"page mapped outside any VMA", addr, pte, 0)
    flags = ld64_relaxed(&c.vmas[v].flags)
    if pte & SHMM_PTE_WRITE and not flags & SHMM_VM_WRITE:
        return breach(found, 2, slot, b"writable page in a read-only VMA", addr, pte, flags)
    if pte & SHMM_PTE_PRESENT and not flags & (SHMM_VM_READ | SHMM_VM_WRITE | SHMM_VM_EXEC):
        return breach(found, 2, slot, b"accessible page in a PROT_NONE VMA", addr, pte, flags)
    if pte & SHMM_PTE_SPECIAL:
        return 0
    if pfn == 0 or pfn >= c.g.frame_end or ld32_relaxed(&c.frames[pfn].kind) == SHMM_FRAME_FREE:
        return breach(found, 2, slot, b"page maps a free frame", addr, pfn, 0)
    refs[pfn] += 1
    return 0


cdef inline u64 check_file_pte(vcpu_t *c, u32 slot, u64 addr, u64 pte, breach_t *found) noexcept nogil:
    """What a file's VMA maps lies within the file."""
    cdef u32 v = find_vma(c, &c.mms[slot], addr)
    cdef u64 pgoff
    if v == 0 or vma_start(c, v) > addr or pte & SHMM_PTE_SPECIAL or not ld32_relaxed(&c.vmas[v].file):
        return 0
    pgoff = ld64_relaxed(&c.vmas[v].pgoff) + ((addr - vma_start(c, v)) >> SHMM_PAGE_SHIFT)
    if pgoff < ld64_relaxed(&c.files[ld32_relaxed(&c.vmas[v].file)].npages):
        return 0
    return breach(found, 2, slot, b"page mapped beyond the end of its file", addr, pgoff,
                  ld64_relaxed(&c.files[ld32_relaxed(&c.vmas[v].file)].npages))


cdef inline u64 check_swap_pte(vcpu_t *c, u32 slot, u64 addr, u64 pte, u32 *refs, breach_t *found) noexcept nogil:
    """Slots are counted behind the frames."""
    cdef u32 v = find_vma(c, &c.mms[slot], addr)
    if v == 0 or vma_start(c, v) > addr or ld32_relaxed(&c.vmas[v].file):
        return breach(found, 2, slot, b"swap entry outside any anonymous VMA", addr, pte, 0)
    if swp_offset(pte) == 0 or swp_offset(pte) >= c.g.nswap:
        return breach(found, 2, slot, b"swap entry of no slot", addr, pte, c.g.nswap)
    refs[c.g.frame_end + swp_offset(pte)] += 1
    return 0


cdef inline u64 check_huge_pmd(vcpu_t *c, u32 slot, u64 base, u64 pmd, u32 *refs, breach_t *found) noexcept nogil:
    """A huge pmd, which refs[0] counts: the page of zeros has no references."""
    cdef u64 bad = check_pte(c, slot, base, pmd, refs, found)
    cdef u32 v = find_vma(c, &c.mms[slot], base)
    refs[0] += 1
    if v and vma_end(c, v) < base + SHMM_HPAGE_SIZE:
        bad += breach(found, 2, slot, b"huge page reaches beyond its VMA", base, vma_end(c, v), base + SHMM_HPAGE_SIZE)
    if v and (ld32_relaxed(&c.vmas[v].file) or ld64_relaxed(&c.vmas[v].flags) & SHMM_VM_SHARED):
        bad += breach(found, 2, slot, b"huge page in a file's or a shared VMA", base, ld64_relaxed(&c.vmas[v].flags), 0)
    if not pmd & (SHMM_PTE_PRESENT | SHMM_PTE_PROTNONE) or pte_pfn(pmd) != compound_head(c, pte_pfn(pmd)):
        bad += breach(found, 2, slot, b"huge pmd that is half split or maps no head", base, pmd, 0)
    return bad


cdef inline u64 check_deposit(vcpu_t *c, u32 slot, u32 *refs, breach_t *found) noexcept nogil:
    """One table for each huge pmd, of which refs[0] are left; that is then 0 again."""
    cdef u32 table = get32(&c.mms[slot].pmd_huge_pte)
    cdef u64 huge = refs[0]
    cdef u64 tables = 0
    cdef u64 bad = 0
    while table and tables <= huge:
        tables += 1
        refs[table] += 1
        if ld32_relaxed(&c.frames[table].kind) != SHMM_FRAME_TABLE or get32(&c.frames[table].level) != PTE:
            bad += breach(found, 2, slot, b"deposited frame is no table", table, ld32_relaxed(&c.frames[table].kind),
                          SHMM_FRAME_TABLE)
        table = get32(&c.frames[table].next)
    refs[0] = 0
    return bad + (breach(found, 2, slot, b"tables deposited for huge pmds", 0, tables, huge) if tables != huge else 0)


cdef inline u64 check_table(vcpu_t *c, u32 slot, u32 table, u32 level, u64 base, u32 *refs,
                            breach_t *found) noexcept nogil:
    cdef u64 bad = 0
    cdef u64 entry
    cdef u32 i
    refs[table] += 1
    if ld32_relaxed(&c.frames[table].kind) != SHMM_FRAME_TABLE or get32(&c.frames[table].level) != level:
        return breach(found, 2, slot, b"not a table of this level", base, table, level)
    if lock_words(&c.frames[table].ptl):
        bad += breach(found, 6, slot, b"page-table lock held", base, lock_words(&c.frames[table].ptl), 0)
    for i in range(SHMM_PTRS_PER):
        entry = ld64_relaxed(table_entry(c, table, i))
        if entry == 0:
            continue
        if level == PMD and pmd_trans_huge(entry):
            bad += check_huge_pmd(c, slot, base + (<u64> i << entry_shift(level)), entry, refs, found)
        elif level > PTE:
            bad += check_table(c, slot, pte_pfn(entry), level - 1, base + (<u64> i << entry_shift(level)), refs, found)
        elif not entry & (SHMM_PTE_PRESENT | SHMM_PTE_PROTNONE):
            bad += check_swap_pte(c, slot, base + (<u64> i << SHMM_PAGE_SHIFT), entry, refs, found)
        else:
            bad += check_pte(c, slot, base + (<u64> i << SHMM_PAGE_SHIFT), entry, refs, found)
            bad += check_file_pte(c, slot, base + (<u64> i << SHMM_PAGE_SHIFT), entry, found)
    return bad


cdef inline u64 check_I4_swap(vcpu_t *c, const u32 *refs, breach_t *found) noexcept nogil:
    """Every slot's count against the swap entries that name it; the others are in the free list."""
    cdef u32 slot = get32(&c.g.swap_pool.head)
    cdef u64 listed = 0
    cdef u64 unused = 0
    cdef u64 bad = 0
    cdef u32 i
    for i in range(1, c.g.nswap):
        unused += refs[i] == 0
        if get32(&c.slots[i].count) != refs[i]:
            bad += breach(found, 4, 0, b"swap slot's count", i, get32(&c.slots[i].count), refs[i])
    while slot and listed <= unused:
        listed += 1
        slot = get32(&c.slots[slot].next)
    if listed != unused or listed != ld64_relaxed(&c.g.swap_pool.free):
        bad += breach(found, 4, 0, b"free swap slots in the list", ld64_relaxed(&c.g.swap_pool.free), listed, unused)
    return bad


cdef inline u64 check_references(vcpu_t *c, u32 pfn, u32 *refs, breach_t *found) noexcept nogil:
    cdef u32 used = ld32_relaxed(&c.frames[pfn].refs)
    if ld32_relaxed(&c.frames[pfn].kind) == SHMM_FRAME_FREE:
        used = 0
    if used == refs[pfn]:
        return 0
    return breach(found, 4 if refs[pfn] == 0 else 2, 0, b"frame references", pfn, used, refs[pfn])


cdef inline u64 check_I2_I4(vcpu_t *c, u32 *refs, breach_t *found) noexcept nogil:
    """Every mm's tables against the frames and swap slots; refs is zeroed scratch of frame_end + nswap words."""
    cdef u64 bad = 0
    cdef u64 i
    for i in range(1, c.g.nmm):
        if get32(&c.mms[i].in_use):
            bad += check_table(c, <u32> i, get32(&c.mms[i].pgd), PGD, 0, refs, found)
            bad += check_deposit(c, <u32> i, refs, found)
    bad += check_I4_swap(c, refs + c.g.frame_end, found)
    for i in range(1, get64(&c.g.cache_used)):
        if ld32_relaxed(&c.cache[i]):
            refs[ld32_relaxed(&c.cache[i])] += 1
    for i in range(1, c.g.nframe):
        bad += check_references(c, <u32> i, refs, found)
    for i in range(c.g.nhuge):
        bad += check_references(c, <u32> (first_huge_frame(c) + i * SHMM_PTRS_PER), refs, found)
    return bad


cdef inline u64 check_I4_anon(vcpu_t *c, u32 *refs, breach_t *found) noexcept nogil:
    """Every anon_vma's count against the VMAs that point to it; refs is zeroed scratch of nanon words."""
    cdef u64 bad = 0
    cdef u32 i, v
    for i in range(1, c.g.nmm):
        v = get32(&c.mms[i].vma_first) if get32(&c.mms[i].in_use) else 0
        while v:
            refs[ld32_relaxed(&c.vmas[v].anon_vma)] += 1
            v = next_vma(c, v)
    for i in range(1, c.g.nanon):
        if ld32_relaxed(&c.anons[i].refs) != refs[i]:
            bad += breach(found, 4, 0, b"anon_vma references", i, ld32_relaxed(&c.anons[i].refs), refs[i])
    return bad


cdef inline u64 check_I3(vcpu_t *c, breach_t *found) noexcept nogil:
    cdef u64 uses = (sum_counter(c, SHMM_C_violations) - sum_counter(c, SHMM_C_secondary_stale)
                     - sum_counter(c, SHMM_C_rt_atomic_sleep) - sum_counter(c, SHMM_C_reader_beside_writer))
    if uses:
        breach(found, 3, 0, b"use of a translation whose frame was freed", 0, uses, 0)
    return uses


cdef inline u64 single_frames_in_use(vcpu_t *c) noexcept nogil:
    cdef u64 n = 0
    cdef u32 i
    for i in range(1, c.g.nframe):
        n += ld32_relaxed(&c.frames[i].kind) != SHMM_FRAME_FREE
    return n


cdef inline u64 huge_frames_in_use(vcpu_t *c) noexcept nogil:
    cdef u64 n = 0
    cdef u64 i
    for i in range(c.g.nhuge):
        n += ld32_relaxed(&c.frames[first_huge_frame(c) + i * SHMM_PTRS_PER].kind) != SHMM_FRAME_FREE
    return n


cdef inline u64 frames_in_use(vcpu_t *c) noexcept nogil:
    return single_frames_in_use(c) + huge_frames_in_use(c) * SHMM_PTRS_PER


cdef inline u64 check_free_list(vcpu_t *c, u32 node, u32 head, u64 length, u64 *bad, breach_t *found) noexcept nogil:
    """A list of free frames that should be of one node and of this length; returns how many it holds, one more than
    its length at most."""
    cdef u64 n = 0
    while head and n <= length:
        if ld32_relaxed(&c.frames[head].kind) != SHMM_FRAME_FREE:
            bad[0] += breach(found, 4, 0, b"used frame in a free list", head, ld32_relaxed(&c.frames[head].kind), 0)
        if frame_node(c, head) != node:
            bad[0] += breach(found, 4, 0, b"free frame in the list of a node", head, node, frame_node(c, head))
        n += 1
        head = get32(&c.frames[head].next)
    if n != length:
        bad[0] += breach(found, 4, 0, b"length of a free list of node", node, length, n)
    return n


cdef inline u64 check_lru(vcpu_t *c, u32 node, breach_t *found) noexcept nogil:
    """One node's LRU list."""
    cdef node_t *of = &c.g.node[node]
    cdef u32 pfn = get32(&of.lru_head)
    cdef u32 last = 0
    cdef u64 n = 0
    cdef u64 bad = 0
    while pfn and n <= get64(&of.lru_pages):
        if frame_node(c, pfn) != node:
            bad += breach(found, 4, 0, b"frame on the LRU list of a node", pfn, node, frame_node(c, pfn))
        if not get32(&c.frames[pfn].on_lru) or get32(&c.frames[pfn].lru_prev) != last:
            bad += breach(found, 4, 0, b"LRU link back", pfn, get32(&c.frames[pfn].lru_prev), last)
        n += 1
        last = pfn
        pfn = get32(&c.frames[pfn].lru_next)
    if n != get64(&of.lru_pages) or last != get32(&of.lru_tail):
        bad += breach(found, 4, 0, b"length of the LRU list of node", node, get64(&of.lru_pages), n)
    return bad


cdef inline u64 check_I4_lists(vcpu_t *c, breach_t *found) noexcept nogil:
    """Every free frame is in one list, of its own node; what is on an LRU list is so, too."""
    cdef u64 bad = 0
    cdef u64 listed = 0
    cdef u64 free = c.g.nframe - 1 - single_frames_in_use(c) + c.g.nhuge - huge_frames_in_use(c)
    cdef u32 i, head
    for i in range(c.g.nnode):
        listed += check_free_list(c, i, get32(&c.g.node[i].zone.head), ld64_relaxed(&c.g.node[i].zone.free), &bad,
                                  found)
        bad += check_lru(c, i, found)
    for i in range(c.g.ncpu):
        head = get32(&c.cpus[i].foreign_head)
        listed += check_free_list(c, c.g.cpu_node[i], get32(&c.cpus[i].pcp_head), get32(&c.cpus[i].pcp_count), &bad,
                                  found)
        listed += check_free_list(c, frame_node(c, head), head, get32(&c.cpus[i].foreign_count), &bad, found)
    listed += check_free_list(c, 0, get32(&c.g.huge_pool.head), ld64_relaxed(&c.g.huge_pool.free), &bad, found)
    if listed != free:
        bad += breach(found, 4, 0, b"free frames that are in a list", 0, listed, free)
    return bad


cdef inline u64 check_I5(vcpu_t *c, breach_t *found) noexcept nogil:
    cdef u64 attempts = sum_counter(c, SHMM_C_spf_attempt)
    cdef u64 aborts = sum_counter(c, SHMM_C_spf_abort)
    cdef u64 named = 0
    cdef u64 bad = 0
    cdef u32 i
    for i in range(SHMM_C_SPF_ABORT_ODD, SHMM_C_SPF_ABORT_SWAP + 1):
        named += sum_counter(c, i)
    if attempts != aborts + sum_counter(c, SHMM_C_spf_success):
        bad += breach(found, 5, 0, b"attempts = successes + aborts", 0, attempts,
                      aborts + sum_counter(c, SHMM_C_spf_success))
    # a failed mmu_notifier_trylock has no name in the series, only here
    if named + sum_counter(c, SHMM_C_notifier_trylock_failed) != aborts:
        bad += breach(found, 5, 0, b"aborts = sum of the named aborts + failed notifier trylocks", 0, aborts,
                      named + sum_counter(c, SHMM_C_notifier_trylock_failed))
    if sum_counter(c, SHMM_C_pgalloc) - sum_counter(c, SHMM_C_pgfree) != frames_in_use(c):
        bad += breach(found, 5, 0, b"allocated - freed = in use", 0,
                      sum_counter(c, SHMM_C_pgalloc) - sum_counter(c, SHMM_C_pgfree), frames_in_use(c))
    return bad
