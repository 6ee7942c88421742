/* The native engine: a CPU is a process of the host, an access is one machine instruction, time is the
 * wall clock.  Hooks are empty, so that rooms compile to what one would write by hand in C (benches/
 * holds that twin and compares).
 *
 * Time sharing.  With more CPUs than cores the host preempts a CPU anywhere, also with its interrupts
 * off or a spinlock held, and whoever waits for it waits for a time slice.  Two habits keep that rare:
 * a waiter yields its core after a short spin, and a running CPU offers its core at an instruction
 * boundary (interrupts on, no lock held) well before its slice ends, so nearly all switches fall where
 * nobody needs to wait for the CPU that left.  Both do nothing when every CPU has a core.
 */
#ifndef SHMM_ARCH_NATIVE_H
#define SHMM_ARCH_NATIVE_H

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHMM_HOOK(ptr, size, kind)      ((void)0)
#define SHMM_HOOK_FENCE(kind)           ((void)0)
#define SHMM_HOOK_BULK(ptr, size, kind) ((void)0)

/* How many turns a waiter spins before it gives its core away.  About 3 us alone on a core. */
enum { SHMM_SPINS = 100 };
/* How often a time-shared CPU offers its core.  The host's slice is 0.7 to 3 ms. */
#define SHMM_OFFER_NS 300000ull

/* Private to this process: whether the CPUs outnumber the cores, and when the core was last offered. */
static int      shmm_native_shared_core;
static uint64_t shmm_native_offered_ns;

static inline uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void pause_insn(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("isb" ::: "memory");
#else
	__asm__ __volatile__("" ::: "memory");
#endif
}

/* The nth turn of a spin loop: pause while the wait is young, then let others run. */
static inline void cpu_relax(uint32_t n)
{
	if (n < SHMM_SPINS && !(shmm_native_shared_core && n > SHMM_SPINS / 8))
		pause_insn();
	else
		sched_yield();
}

static inline uint32_t spin_turns(uint32_t n) { return n; }
static inline void     cpu_pause(void) { pause_insn(); }

static inline void yield_core(void)
{
	shmm_native_offered_ns = now_ns();
	sched_yield();
}

static inline int core_is_due(void)
{
	return shmm_native_shared_core && now_ns() - shmm_native_offered_ns > SHMM_OFFER_NS;
}

/* Sleeps while *word == value, at most timeout_ns (0: no limit).  May return early, like the kernel's. */
static inline void futex_wait(a32 *word, uint32_t value, uint64_t timeout_ns)
{
	struct timespec t = { (time_t)(timeout_ns / 1000000000ull), (long)(timeout_ns % 1000000000ull) };
	syscall(SYS_futex, &word->v, FUTEX_WAIT, value, timeout_ns ? &t : NULL, NULL, 0);
}

static inline void futex_wake(a32 *word, uint32_t how_many)
{
	syscall(SYS_futex, &word->v, FUTEX_WAKE, how_many, NULL, NULL, 0);
}

/* The interrupt line of the signal delivery: a real-time signal, so that none is dropped while the
 * handler runs.  A dead target is the launcher's business, not the sender's. */
static inline int  doorbell_signal(void) { return SIGRTMIN + 3; }
static inline void ring_doorbell(uint32_t host_pid)
{
	if (host_pid)
		kill((pid_t)host_pid, doorbell_signal());
}

#endif
