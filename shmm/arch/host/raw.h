/* System calls without a C library: what runs in the executor of the host engine must need no memory but its own.
 *
 * The executor gives up everything that it began with - the interpreter, the libraries, their heap and their
 * thread-local storage - so that a program finds an almost empty address space.  So nothing here may set errno, bind a
 * symbol on first use, allocate, or look at a canary. */
#ifndef SHMM_HOST_RAW_H
#define SHMM_HOST_RAW_H

#include <stdint.h>
#include <sys/syscall.h>

/* A system call of up to six arguments: its result, or a negative errno. */
static inline long raw6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ __volatile__("syscall" : "=a"(ret) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	                     : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ __volatile__("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#else
#error "the host engine knows x86-64 and aarch64"
#endif
}

#define raw0(n)                   raw6(n, 0, 0, 0, 0, 0, 0)
#define raw1(n, a)                raw6(n, (long)(a), 0, 0, 0, 0, 0)
#define raw2(n, a, b)             raw6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define raw3(n, a, b, c)          raw6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define raw4(n, a, b, c, d)       raw6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define raw5(n, a, b, c, d, e)    raw6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* clone() whose child begins in entry(arg) on a stack of its own: what forks may share its stack with its parent,
 * because the stack lies in memory that both share.  Returns in the parent only. */
static inline long raw_clone(unsigned long flags, void *stack_top, void (*entry)(void *), void *arg)
{
#if defined(__x86_64__)
	long ret;
	register void *r12 __asm__("r12") = (void *)entry;
	register void *r13 __asm__("r13") = arg;
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	__asm__ __volatile__(
		"syscall\n\t"
		"test %%rax, %%rax\n\t"
		"jnz 1f\n\t"
		"xor %%ebp, %%ebp\n\t"
		"mov %%r13, %%rdi\n\t"
		"call *%%r12\n\t"
		"ud2\n"
		"1:"
		: "=a"(ret) : "a"((long)SYS_clone), "D"(flags), "S"(stack_top), "d"(0l), "r"(r10), "r"(r8), "r"(r12), "r"(r13)
		: "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = SYS_clone;
	register long x0 __asm__("x0") = (long)flags;
	register void *x1 __asm__("x1") = stack_top;
	register long x2 __asm__("x2") = 0;
	register long x3 __asm__("x3") = 0;
	register long x4 __asm__("x4") = 0;
	register void *x19 __asm__("x19") = (void *)entry;
	register void *x20 __asm__("x20") = arg;
	__asm__ __volatile__(
		"svc 0\n\t"
		"cbnz x0, 1f\n\t"
		"mov x0, x20\n\t"
		"blr x19\n\t"
		"brk #0\n"
		"1:"
		: "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x19), "r"(x20) : "x30", "memory");
	return x0;
#endif
}

#endif
