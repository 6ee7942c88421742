# What the checker asks of a state in which no CPU is inside an operation: the lettered invariants, and at the end that
# the outcome is that of some sequential order of the operations.
#
# An outcome is what a program could tell: every operation's result (of an access whether it failed, not how many faults
# it took), the registers, the mappings and the contents of every mapped page; an absent page and a page of zeros are
# the same.  A sequential order must also keep the order of operations that did not overlap (linearizability).

cdef struct outcome_t:
    u64 digest
    u32 preceding[32]

cdef outcome_t *outcomes = NULL
cdef u32 noutcomes = 0
cdef u32 nops = 0
cdef bint collecting = False
cdef u32 *scratch_refs = NULL
cdef vcpu_t vcpus[4]
cdef u64 program_first[4]
cdef u64 program_len[4]
cdef u64 final_registers[4][16]

cdef u32 forbidden[8]
cdef u64 forbidden_base[8]
cdef u32 nforbidden = 0

cdef enum:
    MAX_OUTCOMES = 8192
    MAX_FORBIDDEN = 8


cdef u64 digest_page(vcpu_t *c, u32 pfn, u64 at) noexcept nogil:
    cdef const u64 *word = <const u64 *> frame_bytes(c, pfn)
    cdef u64 sum = 0
    cdef u32 i
    for i in range(512):
        if word[i]:
            sum ^= check_mix(at + i * 8, word[i])
    return sum


cdef u32 frame_behind(vcpu_t *c, mm_t *mm, u32 vma, u64 at) noexcept nogil:
    """The page of memory whose contents a program would find at the address, or 0: zeros."""
    cdef a64 *entry = find_pmd(c, mm, at)
    cdef u64 pte = get_entry(entry) if entry != NULL else 0
    cdef u32 file = ld32_relaxed(&c.vmas[vma].file)
    if pmd_trans_huge(pte):
        return pte_pfn(huge_part(pte, at))
    if pte:
        pte = get_entry(entry_below(c, pte, at, PTE))
    if pte:             # a swap slot's contents follow the frames'
        return pte_pfn(pte) if pte_present(pte) else c.g.frame_end + swp_offset(pte)
    if file:
        return find_page(c, file, ld64_relaxed(&c.vmas[vma].pgoff) + ((at - vma_start(c, vma)) >> L.SHMM_PAGE_SHIFT))
    return 0


cdef u64 digest_mm(vcpu_t *c, u32 slot) noexcept nogil:
    cdef mm_t *mm = &c.mms[slot]
    cdef u32 v = get32(&mm.vma_first)
    cdef u64 sum = 0
    cdef u64 at
    while v:
        at = vma_start(c, v)
        sum = check_mix(sum ^ at, vma_end(c, v))
        sum = check_mix(sum ^ ld64_relaxed(&c.vmas[v].flags), ld64_relaxed(&c.vmas[v].pgoff) << 8 | slot)
        while at < vma_end(c, v):
            sum ^= digest_page(c, frame_behind(c, mm, v, at), at)
            at += L.SHMM_PAGE_SIZE
        v = next_vma(c, v)
    return sum


cdef i64 visible_result(u32 cpu, u64 pc) noexcept nogil:
    """A record's result as far as the program can tell."""
    cdef u64 at = program_first[cpu] + pc
    cdef i64 result = <i64> ld64_relaxed(&vcpus[cpu].result[at])
    cdef u32 op = vcpus[cpu].program[at].op
    if op == L.SHMM_OP_MADVISE and result == -EAGAIN:       # a collapse that was put off: the contents are the same
        return 0
    return min(result, 0) if L.SHMM_OP_LOAD <= op <= L.SHMM_OP_TOUCH else result


cdef u64 digest_outcome() noexcept nogil:
    cdef vcpu_t *c = &vcpus[0]
    cdef u64 sum = 0
    cdef u64 pc
    cdef u32 i, reg
    for i in range(chk.ncpu):
        for pc in range(program_len[i]):
            sum = check_mix(sum, <u64> visible_result(i, pc))
        for reg in range(14):
            sum = check_mix(sum, final_registers[i][reg])
    for i in range(1, c.g.nmm):
        if get32(&c.mms[i].in_use):
            sum ^= digest_mm(c, i)
    return sum


cdef void collect_outcome() noexcept nogil:
    global noutcomes
    cdef u32 i
    if noutcomes == MAX_OUTCOMES:
        check_violate(b"cut-off", b"more sequential orders than the checker has room for: use fewer operations", 0)
        return
    outcomes[noutcomes].digest = digest_outcome()
    for i in range(nops):
        outcomes[noutcomes].preceding[i] = chk.live.preceding[i]
    noutcomes += 1


cdef bint is_sequential(u64 digest) noexcept nogil:
    cdef u32 k, i
    for k in range(noutcomes):
        if outcomes[k].digest != digest:
            continue
        for i in range(nops):
            if chk.live.preceding[i] & ~outcomes[k].preceding[i]:
                break
        else:
            return True
    return False


cdef bint say_breach(u64 bad, breach_t *b) noexcept nogil:
    cdef char text[200]
    cdef char letter[4]
    if bad == 0:
        return False
    snprintf(text, sizeof(text), b"mm %u: %s at %#llx: %#llx, not %#llx", b.mm, b.what, <unsigned long long> b.where,
             <unsigned long long> b.got, <unsigned long long> b.want)
    snprintf(letter, sizeof(letter), b"I%u", b.invariant)
    check_violate(letter, text, 0)
    return True


cdef bint breaks_invariant(vcpu_t *c) noexcept nogil:
    cdef breach_t b
    cdef u32 i
    memset(&b, 0, sizeof(b))
    for i in range(1, c.g.nmm):
        if get32(&c.mms[i].in_use) and say_breach(check_I1(c, i, &b), &b):
            return True
    memset(scratch_refs, 0, (c.g.frame_end + c.g.nswap) * sizeof(u32))
    if (say_breach(check_I3(c, &b), &b) or say_breach(check_I6(c, &b), &b)
            or say_breach(check_I2_I4(c, scratch_refs, &b), &b) or say_breach(check_I5(c, &b), &b)
            or say_breach(check_I7(c, &b), &b) or say_breach(check_I8(c, &b), &b)):
        return True
    memset(scratch_refs, 0, c.g.nanon * sizeof(u32))
    return say_breach(check_I4_anon(c, scratch_refs, &b), &b) or say_breach(check_I4_lists(c, &b), &b)


cdef int verify(int finished) noexcept nogil:
    """A state that has not been verified before.  What is wrong with it is said by check_violate."""
    cdef u32 i
    if breaks_invariant(&vcpus[0]):
        return 1
    if not finished:
        return 0
    for i in range(nforbidden):
        if sum_counter(&vcpus[0], forbidden[i]) != forbidden_base[i]:
            check_violate(b"never", shmm_counter_names[forbidden[i]], 0)
            return 1
    if collecting:
        collect_outcome()
    elif not is_sequential(digest_outcome()):
        check_violate(b"not-sequential", b"the outcome is that of no sequential order of the operations", 0)
        return 1
    return 0
