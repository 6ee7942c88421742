/* Where an access comes from: for engines that can tell a person which line of which room did it.
 *
 * Each function of the door becomes a macro around itself that first says SHMM_SITE(site), a constant description of
 * the place; the engine keeps the last one.  With Cython's line directives the place is a line of a room.  A macro's
 * own name inside its expansion is not expanded again, so that the functions stay what they are.
 */
#ifndef SHMM_ARCH_SITES_H
#define SHMM_ARCH_SITES_H

#define SHMM_HERE() \
	({ static const shmm_site_t shmm_here = { __FILE__, __func__, __LINE__ }; SHMM_SITE(&shmm_here); })

#define get32(...)               (SHMM_HERE(), get32(__VA_ARGS__))
#define get64(...)               (SHMM_HERE(), get64(__VA_ARGS__))
#define put32(...)               (SHMM_HERE(), put32(__VA_ARGS__))
#define put64(...)               (SHMM_HERE(), put64(__VA_ARGS__))
#define ld32_relaxed(...)        (SHMM_HERE(), ld32_relaxed(__VA_ARGS__))
#define ld64_relaxed(...)        (SHMM_HERE(), ld64_relaxed(__VA_ARGS__))
#define ld32_acquire(...)        (SHMM_HERE(), ld32_acquire(__VA_ARGS__))
#define ld64_acquire(...)        (SHMM_HERE(), ld64_acquire(__VA_ARGS__))
#define st32_relaxed(...)        (SHMM_HERE(), st32_relaxed(__VA_ARGS__))
#define st64_relaxed(...)        (SHMM_HERE(), st64_relaxed(__VA_ARGS__))
#define st32_release(...)        (SHMM_HERE(), st32_release(__VA_ARGS__))
#define st64_release(...)        (SHMM_HERE(), st64_release(__VA_ARGS__))
#define st32_mb(...)             (SHMM_HERE(), st32_mb(__VA_ARGS__))
#define st64_mb(...)             (SHMM_HERE(), st64_mb(__VA_ARGS__))
#define xchg32(...)              (SHMM_HERE(), xchg32(__VA_ARGS__))
#define xchg64(...)              (SHMM_HERE(), xchg64(__VA_ARGS__))
#define cmpxchg32(...)           (SHMM_HERE(), cmpxchg32(__VA_ARGS__))
#define cmpxchg64(...)           (SHMM_HERE(), cmpxchg64(__VA_ARGS__))
#define cmpxchg32_acquire(...)   (SHMM_HERE(), cmpxchg32_acquire(__VA_ARGS__))
#define cmpxchg64_acquire(...)   (SHMM_HERE(), cmpxchg64_acquire(__VA_ARGS__))
#define cmpxchg32_release(...)   (SHMM_HERE(), cmpxchg32_release(__VA_ARGS__))
#define cmpxchg64_release(...)   (SHMM_HERE(), cmpxchg64_release(__VA_ARGS__))
#define fetch_add32_relaxed(...) (SHMM_HERE(), fetch_add32_relaxed(__VA_ARGS__))
#define fetch_add64_relaxed(...) (SHMM_HERE(), fetch_add64_relaxed(__VA_ARGS__))
#define fetch_add64_acquire(...) (SHMM_HERE(), fetch_add64_acquire(__VA_ARGS__))
#define fetch_add64_release(...) (SHMM_HERE(), fetch_add64_release(__VA_ARGS__))
#define fetch_add32(...)         (SHMM_HERE(), fetch_add32(__VA_ARGS__))
#define fetch_add64(...)         (SHMM_HERE(), fetch_add64(__VA_ARGS__))
#define fetch_or64(...)          (SHMM_HERE(), fetch_or64(__VA_ARGS__))
#define fetch_and64(...)         (SHMM_HERE(), fetch_and64(__VA_ARGS__))
#define add_owned64(...)         (SHMM_HERE(), add_owned64(__VA_ARGS__))
#define smp_mb(...)              (SHMM_HERE(), smp_mb(__VA_ARGS__))
#define smp_rmb(...)             (SHMM_HERE(), smp_rmb(__VA_ARGS__))
#define smp_wmb(...)             (SHMM_HERE(), smp_wmb(__VA_ARGS__))
#define clear_page(...)          (SHMM_HERE(), clear_page(__VA_ARGS__))
#define copy_page(...)           (SHMM_HERE(), copy_page(__VA_ARGS__))
#define find_word(...)           (SHMM_HERE(), find_word(__VA_ARGS__))
#define fill_words(...)          (SHMM_HERE(), fill_words(__VA_ARGS__))
#define ld_user(...)             (SHMM_HERE(), ld_user(__VA_ARGS__))
#define st_user(...)             (SHMM_HERE(), st_user(__VA_ARGS__))
#define lockdep_event(...)       (SHMM_HERE(), lockdep_event(__VA_ARGS__))
#define poison_range(...)        (SHMM_HERE(), poison_range(__VA_ARGS__))
#define cpu_relax(...)           (SHMM_HERE(), cpu_relax(__VA_ARGS__))
#define cpu_pause(...)           (SHMM_HERE(), cpu_pause(__VA_ARGS__))
#define yield_core(...)          (SHMM_HERE(), yield_core(__VA_ARGS__))
#define futex_wait(...)          (SHMM_HERE(), futex_wait(__VA_ARGS__))
#define futex_wake(...)          (SHMM_HERE(), futex_wake(__VA_ARGS__))
#endif
