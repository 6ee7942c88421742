"""The door to shared memory, as the rooms see it.  Everything is explained in arch.h."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

ctypedef uint8_t u8
ctypedef uint32_t u32
ctypedef uint64_t u64
ctypedef int32_t i32
ctypedef int64_t i64

cdef extern from "arch.h" nogil:
    ctypedef struct a32:
        pass
    ctypedef struct a64:
        pass
    ctypedef struct p32:
        pass
    ctypedef struct p64:
        pass

    u32 get32(const p32*) noexcept
    u64 get64(const p64*) noexcept
    void put32(p32*, u32) noexcept
    void put64(p64*, u64) noexcept

    u32 ld32_relaxed(const a32*) noexcept
    u64 ld64_relaxed(const a64*) noexcept
    u32 ld32_acquire(const a32*) noexcept
    u64 ld64_acquire(const a64*) noexcept
    void st32_relaxed(a32*, u32) noexcept
    void st64_relaxed(a64*, u64) noexcept
    void st32_release(a32*, u32) noexcept
    void st64_release(a64*, u64) noexcept
    void st32_mb(a32*, u32) noexcept
    void st64_mb(a64*, u64) noexcept

    u32 xchg32(a32*, u32) noexcept
    u64 xchg64(a64*, u64) noexcept
    u32 cmpxchg32(a32*, u32 old, u32 new) noexcept
    u64 cmpxchg64(a64*, u64 old, u64 new) noexcept
    u32 cmpxchg32_relaxed(a32*, u32 old, u32 new) noexcept
    u32 cmpxchg32_acquire(a32*, u32 old, u32 new) noexcept
    u64 cmpxchg64_acquire(a64*, u64 old, u64 new) noexcept
    u32 cmpxchg32_release(a32*, u32 old, u32 new) noexcept
    u64 cmpxchg64_release(a64*, u64 old, u64 new) noexcept
    u32 fetch_add32_relaxed(a32*, u32) noexcept
    u64 fetch_add64_relaxed(a64*, u64) noexcept
    u64 fetch_add64_acquire(a64*, u64) noexcept
    u64 fetch_add64_release(a64*, u64) noexcept
    u32 fetch_add32(a32*, u32) noexcept
    u64 fetch_add64(a64*, u64) noexcept
    u64 fetch_or64(a64*, u64) noexcept
    u64 fetch_and64(a64*, u64) noexcept

    void add_owned64(a64*, u64) noexcept

    void smp_mb() noexcept
    void smp_rmb() noexcept
    void smp_wmb() noexcept
    void barrier() noexcept

    void clear_page(void*, size_t) noexcept
    void fill_page(void*, int byte, size_t) noexcept
    void copy_page(void* to, const void*, size_t) noexcept
    u32 find_word(const void* page, u32) noexcept
    void fill_words(void* page, u64 first, u64 step) noexcept
    void copy_from_page(void* to, const void* page, size_t) noexcept
    void copy_to_page(void* page, const void*, size_t) noexcept
    u8 ld_user(const u8*) noexcept
    void st_user(u8*, u8) noexcept

    const int SHMM_LOCK_SLEEPS, SHMM_LOCK_WAIT, SHMM_LOCK_TRIED, SHMM_LOCK_FREED, SHMM_LOCK_NESTED
    void lockdep_event(const void *lock, int event) noexcept
    void poison_range(void*, size_t) noexcept
    void unpoison_range(void*, size_t) noexcept
    void operation(u32 cpu, u64 pc, bint begins) noexcept
    bint mutant(int) noexcept
    const int SHMM_EXC_FAULT, SHMM_EXC_SYSCALL, SHMM_EXC_TRAP, SHMM_SPECULATION_BEGINS, SHMM_SPECULATION_DROPPED
    void exception_entry(int kind) noexcept
    void speculation_event(int event) noexcept
    void clock_event(bint runs) noexcept

    void cpu_relax(u32 turn) noexcept
    u32 spin_turns(u32 n) noexcept
    void cpu_pause() noexcept
    void yield_core() noexcept
    bint core_is_due() noexcept
    void futex_wait(a32*, u32 value, u64 timeout_ns) noexcept
    void futex_wake(a32*, u32 how_many) noexcept
    void ring_doorbell(u32 host_pid) noexcept
    u64 now_ns() noexcept
