/* Fibers: CPUs that take turns on one thread of the host, for the engines that decide themselves who runs.
 *
 * Idea: a switch is a function call that returns on another stack, so only what a call must preserve is saved: the
 * callee-saved registers, on the stack that is left, and the stack pointer, in the fiber.  2 ns instead of the 175 ns of
 * swapcontext, which makes two system calls for the signal mask.
 *
 * Because a suspended fiber is nothing but the bytes between its stack pointer and its stack's top, it can be copied
 * aside and put back, to run on from the same point as often as one likes.  Addresses on the stack stay
 * true, for it always returns to the same place.
 *
 * Rules.  Code on a fiber is `noexcept nogil`: no Python (3.14 compares stack addresses), no setjmp, no change of the
 * floating-point control words, which are not saved.  A stack that overflows meets a guard page.
 *
 * Stacks are coloured: page-aligned tops would all fall into the same cache sets.
 *
 * Not for CPUs with user shadow stacks turned on (x86 SHSTK): each fiber would need one of its own.
 */
#ifndef SHMM_ARCH_FIBER_H
#define SHMM_ARCH_FIBER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

enum { FIBER_STACK = 128 * 1024, FIBER_GUARD = 4096, FIBER_COLOURS = 63 };

typedef struct {
	void *sp;                       /* of a suspended fiber: its saved registers lie there */
	uint8_t *top;                   /* where its stack begins, downwards */
	uint8_t *map;                   /* the whole mapping, guard page first */
} fiber_t;

/* Saves the caller's registers and stack pointer, continues at the other's.  Returns when somebody switches back. */
void shmm_fiber_switch(void **save, void *sp) __attribute__((visibility("hidden")));
/* Where a new fiber begins: calls the function in one saved register with the argument in another. */
void shmm_fiber_start(void) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
# include "switch_x86_64.h"
#elif defined(__aarch64__)
# include "switch_aarch64.h"
#else
# error "fibers need a switch_<arch>.h: callee-saved registers, stack pointer, return"
#endif

/* 0, or -1: no memory.  number: for the colour. */
static int fiber_map(fiber_t *f, unsigned number)
{
	f->map = mmap(NULL, FIBER_GUARD + FIBER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->map == MAP_FAILED) {
		f->map = NULL;
		return -1;
	}
	mprotect(f->map, FIBER_GUARD, PROT_NONE);
	f->top = f->map + FIBER_GUARD + FIBER_STACK - (number % FIBER_COLOURS) * 64;
	f->sp = NULL;
	return 0;
}

static void fiber_unmap(fiber_t *f)
{
	if (f->map)
		munmap(f->map, FIBER_GUARD + FIBER_STACK);
	f->map = NULL;
}

/* The fiber's next switch runs entry(argument), which must never return: it switches away for good. */
static void fiber_prepare(fiber_t *f, void (*entry)(void *), void *argument)
{
	uint64_t *sp = (uint64_t *)f->top;

	f->sp = fiber_first_frame(sp, entry, argument);
}

#endif
