/* The door to shared memory.
 *
 * Idea: everything under mm/ and scheme/ reads and writes shared cells only through the functions of this
 * file, so that one protocol source runs on several engines.  An engine is one header that says what an
 * access costs or triggers (SHMM_HOOK_*) and how a CPU waits, is woken, is interrupted and tells time.
 * It is chosen by one macro, SHMM_ENGINE_HEADER; without it the build is the native one, whose hooks are
 * empty: a native ld64_acquire() is one mov.
 *
 * Shared cells are opaque structs, so that a direct read does not compile:
 *
 *   a32 a64   atomic: read and written by several CPUs at once; the order is in the function's name
 *   p32 p64   plain but shared: protected by a lock or owned by one CPU; a race on one is a bug, and an
 *             engine may report it.  On the native engine they are ordinary loads and stores.
 *
 * Orders are those of C11 as the kernel names them: _relaxed is READ_ONCE/WRITE_ONCE, _acquire and
 * _release pair with each other, an operation with no suffix is fully ordered (smp_mb on both sides).
 *
 * Which room and line an access comes from an engine may learn by defining SHMM_SITE (sites.h).
 *
 * Only this folder names __atomic_*, fences, pause, futex, signals and clocks.
 */
#ifndef SHMM_ARCH_H
#define SHMM_ARCH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mutants.h"

typedef struct { uint32_t v; } a32;
typedef struct { uint64_t v; } a64;
typedef struct { uint32_t v; } p32;
typedef struct { uint64_t v; } p64;

/* Kinds of access, for the hooks. */
enum shmm_access {
	SHMM_LD_PLAIN, SHMM_ST_PLAIN,
	SHMM_LD_RELAXED, SHMM_LD_ACQUIRE, SHMM_ST_RELAXED, SHMM_ST_RELEASE,
	SHMM_RMW, SHMM_FENCE,
	/* only for engines that define SHMM_RMW_DO and SHMM_FENCE_DO; the others see the two above */
	SHMM_RMW_RELAXED, SHMM_RMW_ACQUIRE, SHMM_RMW_RELEASE, SHMM_FENCE_READ, SHMM_FENCE_WRITE,
};

/* What happens to a lock, for lockdep_event(). */
enum shmm_lock_event {
	SHMM_LOCK_WAIT, SHMM_LOCK_NESTED /* inside one of its kind */, SHMM_LOCK_SLEEPS /* if it has to wait */,
	SHMM_LOCK_TRIED, SHMM_LOCK_FREED,
};

/* How the kernel is entered, for exception_entry(); how a speculation goes, for speculation_event(). */
enum shmm_exception { SHMM_EXC_FAULT, SHMM_EXC_SYSCALL, SHMM_EXC_TRAP };
enum shmm_speculation { SHMM_SPECULATION_BEGINS, SHMM_SPECULATION_DROPPED };

#ifndef SHMM_ENGINE_HEADER
# define SHMM_ENGINE_HEADER "native.h"
#endif
#include SHMM_ENGINE_HEADER

/* The engine header defines:
 *   SHMM_HOOK(ptr, size, kind)     before every access through the door
 *   SHMM_HOOK_FENCE(kind)          before every fence
 *   SHMM_HOOK_BULK(ptr, size, kind)  before a page-sized copy or clear
 * and the waiting functions declared at the end of this file.
 *
 * An engine whose memory is not simply the host's (store buffers, old values that may still be read) also defines what
 * an access itself does:
 *   SHMM_LOAD(p, kind, order)          the value; kind and order say the same, to the engine and to the compiler
 *   SHMM_STORE(p, v, kind, order)
 *   SHMM_RMW_DO(p, result, kind, expr) expr is the host's own instruction, nothing may come between
 *   SHMM_ADD_OWNED(p, n), SHMM_FENCE_DO(kind, order), SHMM_CLEAR_DO(page, n), SHMM_COPY_DO(to, from, n)
 *   SHMM_FIND_DO(page, i), SHMM_FILL_DO(page, first, step), SHMM_FILL_PAGE_DO(page, byte, n)
 * and an engine that looks for mistakes, what the rooms tell it (all nothing by default):
 *   SHMM_LOCKDEP(lock, event)          enum shmm_lock_event
 *   SHMM_POISON(p, n, freed)           these bytes have been freed (1) or handed out (0)
 *   SHMM_OPERATION(cpu, pc, begins)    record pc of the CPU's program begins or has ended
 *   SHMM_MUTANT(m)                     whether the protection m of mutants.h is taken away
 * and an engine whose time is not the host's:
 *   SHMM_EXCEPTION(kind)               enum shmm_exception: the kernel is entered, and will be left again
 *   SHMM_SPECULATION(event)            enum shmm_speculation: what comes may be for nothing; it was
 *   SHMM_CLOCK(runs)                   the measured time goes on, or stands still */

#ifndef SHMM_LOAD
# define SHMM_LOAD(p, kind, order)     (SHMM_HOOK(p, sizeof((p)->v), kind), __atomic_load_n(&(p)->v, order))
# define SHMM_STORE(p, x, kind, order) (SHMM_HOOK(p, sizeof((p)->v), kind), __atomic_store_n(&(p)->v, x, order))
# define SHMM_LOAD_PLAIN(p)            (SHMM_HOOK(p, sizeof((p)->v), SHMM_LD_PLAIN), (p)->v)
# define SHMM_STORE_PLAIN(p, x)        (SHMM_HOOK(p, sizeof((p)->v), SHMM_ST_PLAIN), (void)((p)->v = (x)))
# define SHMM_RMW_DO(p, result, kind, expr) do { SHMM_HOOK(p, sizeof((p)->v), SHMM_RMW); result = expr; } while (0)
# define SHMM_LOAD_USER(p)              (SHMM_HOOK(p, 1, SHMM_LD_RELAXED), __atomic_load_n(p, __ATOMIC_RELAXED))
# define SHMM_STORE_USER(p, x) \
	(SHMM_HOOK(p, 1, SHMM_ST_RELAXED), __atomic_store_n(p, (uint8_t)(x), __ATOMIC_RELAXED))
/* Not an atomic read-modify-write, and not a relaxed load and store either, which compilers will not fuse. */
# define SHMM_ADD_OWNED(p, n) \
	(SHMM_HOOK(p, 8, SHMM_LD_RELAXED), SHMM_HOOK(p, 8, SHMM_ST_RELAXED), (void)((p)->v += (n)))
# define SHMM_FENCE_DO(kind, order)    (SHMM_HOOK_FENCE(SHMM_FENCE), __atomic_thread_fence(order))
#endif
#ifndef SHMM_LOCKDEP
# define SHMM_LOCKDEP(lock, event)      ((void)0)
#endif
#ifndef SHMM_POISON
# define SHMM_POISON(p, n, freed)       ((void)0)
# define SHMM_MUTANT(m)                 0
#endif
#ifndef SHMM_OPERATION
# define SHMM_OPERATION(cpu, pc, begins) ((void)0)
#endif
#ifndef SHMM_EXCEPTION
# define SHMM_EXCEPTION(kind)           ((void)0)
# define SHMM_SPECULATION(event)        ((void)0)
# define SHMM_CLOCK(runs)               ((void)0)
#endif

/* How an access is compiled into the rooms: an engine whose common case is a few instructions may insist. */
#ifndef SHMM_INLINE
# define SHMM_INLINE static inline
#endif
#define SHMM_DEFINE_RMW(U, NAME, W, KIND, PARAMETER, EXPR)                                               \
	SHMM_INLINE U NAME(a##W *p, PARAMETER U v)                                                     \
	{ U r; SHMM_RMW_DO(p, r, KIND, EXPR); return r; }
#define SHMM_DEFINE_SWAPS(U, W, SUFFIX, KIND, ORDER)                                                     \
	SHMM_INLINE U swap_if##W##SUFFIX(uint##W##_t *p, U old, U v)                                   \
	{ __atomic_compare_exchange_n(p, &old, v, 0, ORDER, __ATOMIC_RELAXED); return old; }             \
	/* returns what was there: equal to old means that the swap happened */                          \
	SHMM_DEFINE_RMW(U, cmpxchg##W##SUFFIX, W, KIND, SHMM_OLD(U), swap_if##W##SUFFIX(&p->v, old, v))
#define SHMM_OLD(U) U old,
#define SHMM_NOTHING

#define SHMM_DEFINE_WIDTH(W, U)                                                                          \
	SHMM_INLINE U get##W(const p##W *p) { return SHMM_LOAD_PLAIN(p); }                             \
	SHMM_INLINE void put##W(p##W *p, U v) { SHMM_STORE_PLAIN(p, v); }                              \
	SHMM_INLINE U ld##W##_relaxed(const a##W *p) { return SHMM_LOAD(p, SHMM_LD_RELAXED, __ATOMIC_RELAXED); }  \
	SHMM_INLINE U ld##W##_acquire(const a##W *p) { return SHMM_LOAD(p, SHMM_LD_ACQUIRE, __ATOMIC_ACQUIRE); }  \
	SHMM_INLINE void st##W##_relaxed(a##W *p, U v)                                                 \
	{ SHMM_STORE(p, v, SHMM_ST_RELAXED, __ATOMIC_RELAXED); }                                         \
	SHMM_INLINE void st##W##_release(a##W *p, U v)                                                 \
	{ SHMM_STORE(p, v, SHMM_ST_RELEASE, __ATOMIC_RELEASE); }                                         \
	SHMM_DEFINE_RMW(U, xchg##W, W, SHMM_RMW, SHMM_NOTHING, __atomic_exchange_n(&p->v, v, __ATOMIC_SEQ_CST))     \
	/* a store followed by a full barrier: the kernel's smp_store_mb */                              \
	SHMM_INLINE void st##W##_mb(a##W *p, U v) { xchg##W(p, v); }                                   \
	SHMM_DEFINE_SWAPS(U, W, , SHMM_RMW, __ATOMIC_SEQ_CST)                                            \
	SHMM_DEFINE_SWAPS(U, W, _relaxed, SHMM_RMW_RELAXED, __ATOMIC_RELAXED)                            \
	SHMM_DEFINE_SWAPS(U, W, _acquire, SHMM_RMW_ACQUIRE, __ATOMIC_ACQUIRE)                            \
	SHMM_DEFINE_SWAPS(U, W, _release, SHMM_RMW_RELEASE, __ATOMIC_RELEASE)                            \
	/* fetch_* return the value before */                                                            \
	SHMM_DEFINE_RMW(U, fetch_add##W##_relaxed, W, SHMM_RMW_RELAXED, SHMM_NOTHING,                    \
			__atomic_fetch_add(&p->v, v, __ATOMIC_RELAXED))                                  \
	SHMM_DEFINE_RMW(U, fetch_add##W##_acquire, W, SHMM_RMW_ACQUIRE, SHMM_NOTHING,                    \
			__atomic_fetch_add(&p->v, v, __ATOMIC_ACQUIRE))                                  \
	SHMM_DEFINE_RMW(U, fetch_add##W##_release, W, SHMM_RMW_RELEASE, SHMM_NOTHING,                    \
			__atomic_fetch_add(&p->v, v, __ATOMIC_RELEASE))                                  \
	SHMM_DEFINE_RMW(U, fetch_add##W, W, SHMM_RMW, SHMM_NOTHING, __atomic_fetch_add(&p->v, v, __ATOMIC_SEQ_CST)) \
	SHMM_DEFINE_RMW(U, fetch_or##W, W, SHMM_RMW, SHMM_NOTHING, __atomic_fetch_or(&p->v, v, __ATOMIC_SEQ_CST))   \
	SHMM_DEFINE_RMW(U, fetch_and##W, W, SHMM_RMW, SHMM_NOTHING, __atomic_fetch_and(&p->v, v, __ATOMIC_SEQ_CST))

SHMM_DEFINE_WIDTH(32, uint32_t)
SHMM_DEFINE_WIDTH(64, uint64_t)

/* A counter with one writer and many readers: the owner adds, a reader may be one event behind. */
SHMM_INLINE void add_owned64(a64 *p, uint64_t n) { SHMM_ADD_OWNED(p, n); }

/* Fences.  Each use names its partner in a comment. */
static inline void smp_mb(void)  { SHMM_FENCE_DO(SHMM_FENCE, __ATOMIC_SEQ_CST); }
static inline void smp_rmb(void) { SHMM_FENCE_DO(SHMM_FENCE_READ, __ATOMIC_ACQUIRE); }
static inline void smp_wmb(void) { SHMM_FENCE_DO(SHMM_FENCE_WRITE, __ATOMIC_RELEASE); }
/* Order against a signal handler of the same CPU only: costs no instruction. */
static inline void barrier(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

/* What the rooms tell an engine that looks for mistakes; nothing on the others.
 *
 *   lockdep_event   a lock is about to be waited for, was got by trying, or is given back
 *   poison_range    freed: whoever touches these bytes from now on is at fault; for the checker a visible write
 *   unpoison_range  handed out again
 *   operation       record pc of this CPU's program begins, or has ended
 *   mutant          whether a protection (mutants.h) is taken away, to see whether anybody notices: a constant no,
 *                   except on the engine that can tell */
static inline void lockdep_event(const void *lock, int event) { SHMM_LOCKDEP(lock, event); }
static inline void poison_range(void *p, size_t n) { SHMM_POISON(p, n, 1); }
static inline void unpoison_range(void *p, size_t n) { SHMM_POISON(p, n, 0); }
static inline void operation(uint32_t cpu, uint64_t pc, int begins) { SHMM_OPERATION(cpu, pc, begins); }
static inline int mutant(int m) { return SHMM_MUTANT(m); }

/* What the rooms tell an engine that charges time: entries into the kernel, whose cost is mostly not that of memory, and
 * speculations, whose time is lost when they are dropped.  Nothing on the others. */
static inline void exception_entry(int kind) { SHMM_EXCEPTION(kind); }
static inline void speculation_event(int event) { SHMM_SPECULATION(event); }
/* And when the program says that what is measured begins or is over. */
static inline void clock_event(int runs) { SHMM_CLOCK(runs); }

/* Contents of page frames.  A frame's bytes belong to the program under test, not to the protocol. */
typedef uint64_t shmm_v16 __attribute__((vector_size(16), may_alias));
/* size: a multiple of 64.  Plain stores a line at a time, asking for the lines ahead: on the machine this was measured
 * on, half the time of rep stosb on pages that are not in cache, and no slower on those that are. */
static inline void clear_page(void *page, size_t size)
{
#ifdef SHMM_CLEAR_DO
	SHMM_CLEAR_DO(page, size);
#else
	SHMM_HOOK_BULK(page, size, SHMM_ST_PLAIN);
	for (char *p = page, *end = p + size; p < end; p += 64) {
		shmm_v16 *line = (shmm_v16 *)p;
		__builtin_prefetch(p + 512, 1);
		line[0] = line[1] = line[2] = line[3] = (shmm_v16){ 0, 0 };
		__atomic_signal_fence(__ATOMIC_SEQ_CST);        /* or the loop becomes a call of memset */
	}
#endif
}
static inline void fill_page(void *page, int byte, size_t size)
{
#ifdef SHMM_FILL_PAGE_DO
	SHMM_FILL_PAGE_DO(page, byte, size);
#else
	SHMM_HOOK_BULK(page, size, SHMM_ST_PLAIN);
	memset(page, byte, size);
#endif
}
static inline void copy_page(void *to, const void *from, size_t size)
{
#ifdef SHMM_COPY_DO
	SHMM_COPY_DO(to, from, size);
#else
	SHMM_HOOK_BULK(from, size, SHMM_LD_PLAIN);
	SHMM_HOOK_BULK(to, size, SHMM_ST_PLAIN);
	memcpy(to, from, size);
#endif
}

/* The words of a page that its reader or writer alone may change: a page table under its lock, or one that nobody sees yet.
 *   find_word    the first word from index i on that is not 0, or 512
 *   fill_words   all of them: first, first + step, ... */
static inline uint32_t find_word(const void *page, uint32_t i)
{
#ifdef SHMM_FIND_DO
	return SHMM_FIND_DO(page, i);
#else
	while (i < 512 && ld64_relaxed((const a64 *)page + i) == 0)
		i++;
	return i;
#endif
}
static inline void fill_words(void *page, uint64_t first, uint64_t step)
{
#ifdef SHMM_FILL_DO
	SHMM_FILL_DO(page, first, step);
#else
	for (uint32_t i = 0; i < 512; i++)
		st64_relaxed((a64 *)page + i, first + i * step);
#endif
}

/* The bytes that a system call or a debugger moves between a page and private memory. */
static inline void copy_from_page(void *to, const void *page, size_t n)
{ SHMM_HOOK_BULK(page, n, SHMM_LD_PLAIN); memcpy(to, page, n); }
static inline void copy_to_page(void *page, const void *from, size_t n)
{ SHMM_HOOK_BULK(page, n, SHMM_ST_PLAIN); memcpy(page, from, n); }

/* The one byte that a program's load or store instruction moves. */
static inline uint8_t ld_user(const uint8_t *p)
{ return SHMM_LOAD_USER(p); }
static inline void st_user(uint8_t *p, uint8_t v)
{ SHMM_STORE_USER(p, v); }

/* What an engine also provides (see native.h for the meaning of each):
 *   void     cpu_relax(uint32_t n)                        the nth turn of a spin loop that only others can end
 *   uint32_t spin_turns(uint32_t n)                       how many of n turns to spin before sleeping are worth it
 *   void     cpu_pause(void)                              a turn of such a bounded loop
 *   void     futex_wait(a32 *word, uint32_t value, uint64_t timeout_ns)
 *   void     futex_wake(a32 *word, uint32_t how_many)
 *   int      core_is_due(void)                            at an instruction boundary: time to let another CPU run
 *   void     yield_core(void)                             give the core away now
 *   void     ring_doorbell(uint32_t host_pid)             raise the interrupt signal on another CPU
 *   uint64_t now_ns(void)
 */
#ifdef SHMM_SITE
# include "sites.h"
#endif
#endif
