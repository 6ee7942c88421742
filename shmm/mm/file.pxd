"""The page-cache stand-in: files as arrays of slots, one per page, each 0 or the frame that holds the page.

A file has no name and no disk; a page that nobody has touched reads as zeros.  A slot holds one reference on its
frame.  Slots are filled by compare-and-swap, so that two CPUs that fault on one page agree on its frame; there is no
write-back, and a file's pages are freed with its last reference, or when it is truncated (mm/truncate.pxd), for which
it keeps a list of who maps it (mm/i_mmap.pxd).  It can grow as far as the slots that it was made with.

Whoever finds a page here has no hold on it: a truncation takes pages out at any time, after it has unmapped them.

    fault                                      truncate
    pfn = slot                                 npages = 0
    install a table    ---- T ----             ---- T ----
    lock its ptl                               a table? lock its ptl, clear the pte
    npages, slot: still the page? then map it  slot = 0, free the frame

T: a fault that installs a table and then reads the old npages is one whose table the truncation finds, and whose ptl it
takes afterwards; else the fault sees the new npages.  The slot is looked at again, too: the file may have shrunk and
grown meanwhile, and npages be what it was.

`shmem` marks anonymous shared memory, whose pages exist only once touched; any other file counts as cached in
whole, so that fault-around may map neighbours that nobody has touched yet, as it would in a warm page cache."""

from shmm.arch.arch cimport (
    cmpxchg32, fetch_add32, fetch_add32_relaxed, get32, get64, ld32_acquire, ld32_relaxed, ld64_acquire, ld64_relaxed,
    mutant, put32, put64, smp_mb, st32_relaxed, st64_relaxed, u32, u64, xchg32,
)
from shmm.arch.mutants cimport SHMM_M_TRUNCATE_NO_RECHECK
from shmm.layout cimport SHMM_FRAME_FILE, SHMM_PAGE_SIZE, vcpu_t
from shmm.mm.frame cimport alloc_zeroed_frame, charge, free_frame, put_frame_testzero
from shmm.mm.lru cimport lru_add, release_frames
from shmm.mm.spinlock cimport spin_lock, spin_unlock


cdef inline u32 file_new(vcpu_t *c, u64 npages, u64 slots, bint shmem) noexcept nogil:
    """A file of npages pages, which can grow to `slots`, with one reference, or 0: no file or no cache slots left."""
    cdef u32 file = 0
    cdef u64 first
    spin_lock(c, &c.g.cache_lock)
    first = get64(&c.g.cache_used)
    if get32(&c.g.files_used) < c.g.nfile and slots <= c.g.ncache - first:
        file = get32(&c.g.files_used)
        put32(&c.g.files_used, file + 1)
        put64(&c.g.cache_used, first + slots)
        put64(&c.files[file].first, first)
        put32(&c.files[file].shmem, shmem)
        st64_relaxed(&c.files[file].npages, npages)
        put64(&c.files[file].size, npages * SHMM_PAGE_SIZE)
        st64_relaxed(&c.files[file].slots, slots)
        st32_relaxed(&c.files[file].refs, 1)
    spin_unlock(&c.g.cache_lock)
    return file


cdef inline void get_file(vcpu_t *c, u32 file) noexcept nogil:
    if file:
        fetch_add32_relaxed(&c.files[file].refs, 1)


cdef inline void file_free_pages(vcpu_t *c, u32 file) noexcept nogil:
    cdef u64 first = get64(&c.files[file].first)
    cdef u64 i
    cdef u32 pfn
    for i in range(first, first + ld64_relaxed(&c.files[file].npages)):
        pfn = ld32_acquire(&c.cache[i])         # pairs with the exchange that filled the slot
        if pfn:
            st32_relaxed(&c.cache[i], 0)
            if put_frame_testzero(c, pfn):
                release_frames(c, &pfn, 1)


cdef inline void put_file(vcpu_t *c, u32 file) noexcept nogil:
    if file and fetch_add32(&c.files[file].refs, <u32> -1) == 1:
        file_free_pages(c, file)


cdef inline u32 find_page(vcpu_t *c, u32 file, u64 pgoff) noexcept nogil:
    """The page's frame if it is in the cache already, else 0."""
    if pgoff >= ld64_relaxed(&c.files[file].npages):
        return 0
    # acquire: pairs with the exchange that filled the slot
    return ld32_acquire(&c.cache[get64(&c.files[file].first) + pgoff])


cdef inline u32 find_or_create_page(vcpu_t *c, u32 file, u64 pgoff) noexcept nogil:
    """The page's frame; pgoff is below npages.  0: out of memory.  No reference is taken: ask page_still_cached, under
    the ptl, before it is mapped."""
    cdef u64 slot = get64(&c.files[file].first) + pgoff
    cdef u32 pfn = ld32_acquire(&c.cache[slot])         # acquire: pairs with the exchange that filled the slot
    cdef u32 other
    if pfn:
        return pfn
    pfn = alloc_zeroed_frame(c, SHMM_FRAME_FILE)
    if pfn == 0:
        return 0
    other = cmpxchg32(&c.cache[slot], 0, pfn)
    if other:
        free_frame(c, pfn)
        return other
    charge(c)
    lru_add(c, pfn)
    return pfn


cdef inline bint page_still_cached(vcpu_t *c, u32 file, u64 pgoff, u32 pfn) noexcept nogil:
    """Under the ptl: whether pfn is the file's page, and will be unmapped before it is anything else."""
    if mutant(SHMM_M_TRUNCATE_NO_RECHECK):
        return True
    smp_mb()                                            # T: pairs with the one in shrink
    # acquire: pairs with the release when a file grows, for whoever sees it grown sees the slots that were emptied
    return (pgoff < ld64_acquire(&c.files[file].npages)
            and ld32_relaxed(&c.cache[get64(&c.files[file].first) + pgoff]) == pfn)


cdef inline bint try_get_page(vcpu_t *c, u32 file, u64 pgoff, u32 pfn) noexcept nogil:
    """A reference on what was found in the cache.  False: it is not there any more."""
    cdef u32 refs = ld32_relaxed(&c.frames[pfn].refs)
    cdef u32 seen
    while refs:
        seen = cmpxchg32(&c.frames[pfn].refs, refs, refs + 1)
        if seen == refs:
            break
        refs = seen
    if refs == 0:
        return False
    # acquire: pairs with the exchange that filled the slot; if it holds another page, so may the frame
    if ld32_acquire(&c.cache[get64(&c.files[file].first) + pgoff]) == pfn:
        return True
    put_page_of_file(c, pfn)
    return False


cdef inline void put_page_of_file(vcpu_t *c, u32 pfn) noexcept nogil:
    if put_frame_testzero(c, pfn):
        release_frames(c, &pfn, 1)


cdef inline void empty_slots(vcpu_t *c, u32 file, u64 npages, u64 before) noexcept nogil:
    cdef u64 first = get64(&c.files[file].first)
    cdef u64 i
    cdef u32 pfn
    for i in range(first + npages, first + before):
        if ld32_relaxed(&c.cache[i]):
            pfn = xchg32(&c.cache[i], 0)
            put_page_of_file(c, pfn)
