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
 * Only this folder names __atomic_*, fences, pause, futex, signals and clocks.
 */
#ifndef SHMM_ARCH_H
#define SHMM_ARCH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint32_t v; } a32;
typedef struct { uint64_t v; } a64;
typedef struct { uint32_t v; } p32;
typedef struct { uint64_t v; } p64;

/* Kinds of access, for the hooks. */
enum shmm_access {
	SHMM_LD_PLAIN, SHMM_ST_PLAIN,
	SHMM_LD_RELAXED, SHMM_LD_ACQUIRE, SHMM_ST_RELAXED, SHMM_ST_RELEASE,
	SHMM_RMW, SHMM_FENCE,
};

#ifndef SHMM_ENGINE_HEADER
# define SHMM_ENGINE_HEADER "native.h"
#endif
#include SHMM_ENGINE_HEADER

/* The engine header defines:
 *   SHMM_HOOK(ptr, size, kind)     before every access through the door
 *   SHMM_HOOK_FENCE(kind)          before every fence
 *   SHMM_HOOK_BULK(ptr, size, kind)  before a page-sized copy or clear
 * and the waiting functions declared at the end of this file. */

#define SHMM_DEFINE_WIDTH(W, U)                                                                          \
	static inline U get##W(const p##W *p)                                                            \
	{ SHMM_HOOK(p, W / 8, SHMM_LD_PLAIN); return p->v; }                                             \
	static inline void put##W(p##W *p, U v)                                                          \
	{ SHMM_HOOK(p, W / 8, SHMM_ST_PLAIN); p->v = v; }                                                \
	static inline U ld##W##_relaxed(const a##W *p)                                                   \
	{ SHMM_HOOK(p, W / 8, SHMM_LD_RELAXED); return __atomic_load_n(&p->v, __ATOMIC_RELAXED); }       \
	static inline U ld##W##_acquire(const a##W *p)                                                   \
	{ SHMM_HOOK(p, W / 8, SHMM_LD_ACQUIRE); return __atomic_load_n(&p->v, __ATOMIC_ACQUIRE); }       \
	static inline void st##W##_relaxed(a##W *p, U v)                                                 \
	{ SHMM_HOOK(p, W / 8, SHMM_ST_RELAXED); __atomic_store_n(&p->v, v, __ATOMIC_RELAXED); }          \
	static inline void st##W##_release(a##W *p, U v)                                                 \
	{ SHMM_HOOK(p, W / 8, SHMM_ST_RELEASE); __atomic_store_n(&p->v, v, __ATOMIC_RELEASE); }          \
	/* a store followed by a full barrier: the kernel's smp_store_mb */                              \
	static inline void st##W##_mb(a##W *p, U v)                                                      \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); __atomic_exchange_n(&p->v, v, __ATOMIC_SEQ_CST); }              \
	static inline U xchg##W(a##W *p, U v)                                                            \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_exchange_n(&p->v, v, __ATOMIC_SEQ_CST); }       \
	/* returns what was there: equal to old means that the swap happened */                          \
	static inline U cmpxchg##W(a##W *p, U old, U v)                                                  \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW);                                                                 \
	  __atomic_compare_exchange_n(&p->v, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);            \
	  return old; }                                                                                  \
	static inline U cmpxchg##W##_acquire(a##W *p, U old, U v)                                        \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW);                                                                 \
	  __atomic_compare_exchange_n(&p->v, &old, v, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);            \
	  return old; }                                                                                  \
	static inline U cmpxchg##W##_release(a##W *p, U old, U v)                                        \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW);                                                                 \
	  __atomic_compare_exchange_n(&p->v, &old, v, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);            \
	  return old; }                                                                                  \
	/* fetch_* return the value before */                                                            \
	static inline U fetch_add##W##_relaxed(a##W *p, U v)                                             \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_fetch_add(&p->v, v, __ATOMIC_RELAXED); }        \
	static inline U fetch_add##W##_acquire(a##W *p, U v)                                             \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_fetch_add(&p->v, v, __ATOMIC_ACQUIRE); }        \
	static inline U fetch_add##W##_release(a##W *p, U v)                                             \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_fetch_add(&p->v, v, __ATOMIC_RELEASE); }        \
	static inline U fetch_add##W(a##W *p, U v)                                                       \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_fetch_add(&p->v, v, __ATOMIC_SEQ_CST); }        \
	static inline U fetch_or##W(a##W *p, U v)                                                        \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_fetch_or(&p->v, v, __ATOMIC_SEQ_CST); }         \
	static inline U fetch_and##W(a##W *p, U v)                                                       \
	{ SHMM_HOOK(p, W / 8, SHMM_RMW); return __atomic_fetch_and(&p->v, v, __ATOMIC_SEQ_CST); }

SHMM_DEFINE_WIDTH(32, uint32_t)
SHMM_DEFINE_WIDTH(64, uint64_t)

/* A counter with one writer and many readers: the owner adds, a reader may be one event behind.  Not an atomic
 * read-modify-write, and not a relaxed load and store either, which compilers will not fuse into one add. */
static inline void add_owned64(a64 *p, uint64_t n)
{ SHMM_HOOK(p, 8, SHMM_LD_RELAXED); SHMM_HOOK(p, 8, SHMM_ST_RELAXED); p->v += n; }

/* Fences.  Each use names its partner in a comment. */
static inline void smp_mb(void)  { SHMM_HOOK_FENCE(SHMM_FENCE); __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void smp_rmb(void) { SHMM_HOOK_FENCE(SHMM_FENCE); __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void smp_wmb(void) { SHMM_HOOK_FENCE(SHMM_FENCE); __atomic_thread_fence(__ATOMIC_RELEASE); }
/* Order against a signal handler of the same CPU only: costs no instruction. */
static inline void barrier(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

/* Contents of page frames.  A frame's bytes belong to the program under test, not to the protocol. */
typedef uint64_t shmm_v16 __attribute__((vector_size(16), may_alias));
/* size: a multiple of 64.  Plain stores a line at a time, asking for the lines ahead: on the machine this was measured
 * on, half the time of rep stosb on pages that are not in cache, and no slower on those that are. */
static inline void clear_page(void *page, size_t size)
{
	SHMM_HOOK_BULK(page, size, SHMM_ST_PLAIN);
	for (char *p = page, *end = p + size; p < end; p += 64) {
		shmm_v16 *line = (shmm_v16 *)p;
		__builtin_prefetch(p + 512, 1);
		line[0] = line[1] = line[2] = line[3] = (shmm_v16){ 0, 0 };
		__atomic_signal_fence(__ATOMIC_SEQ_CST);        /* or the loop becomes a call of memset */
	}
}
static inline void copy_page(void *to, const void *from, size_t size)
{ SHMM_HOOK_BULK(from, size, SHMM_LD_PLAIN); SHMM_HOOK_BULK(to, size, SHMM_ST_PLAIN); memcpy(to, from, size); }

/* The bytes that a system call or a debugger moves between a page and private memory. */
static inline void copy_from_page(void *to, const void *page, size_t n)
{ SHMM_HOOK_BULK(page, n, SHMM_LD_PLAIN); memcpy(to, page, n); }
static inline void copy_to_page(void *page, const void *from, size_t n)
{ SHMM_HOOK_BULK(page, n, SHMM_ST_PLAIN); memcpy(page, from, n); }

/* The one byte that a program's load or store instruction moves. */
static inline uint8_t ld_user(const uint8_t *p)
{ SHMM_HOOK(p, 1, SHMM_LD_RELAXED); return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void st_user(uint8_t *p, uint8_t v)
{ SHMM_HOOK(p, 1, SHMM_ST_RELAXED); __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* What an engine also provides (see native.h for the meaning of each):
 *   void     cpu_relax(uint32_t n)                        the nth turn of a spin loop
 *   void     futex_wait(a32 *word, uint32_t value, uint64_t timeout_ns)
 *   void     futex_wake(a32 *word, uint32_t how_many)
 *   int      core_is_due(void)                            at an instruction boundary: time to let another CPU run
 *   void     yield_core(void)                             give the core away now
 *   void     ring_doorbell(uint32_t host_pid)             raise the interrupt signal on another CPU
 *   uint64_t now_ns(void)
 */
#endif
