/* A CPU's turn: where it stops for the explorer, and what it finds when it goes on.
 *
 * A CPU is a fiber; the explorer (explore.h) runs on the stack of whoever called it and decides who goes on.
 */
#ifndef SHMM_CHECK_TURN_H
#define SHMM_CHECK_TURN_H

#include "tso.h"
#include "weak.h"

/* A system call orders like a full barrier: the host's kernel has one before it looks for sleepers, or at the word.  So does
 * an interrupt, on both sides: whoever takes it sees what was stored before it was sent. */
static void check_full_barrier(void)
{
	if (chk.model == CHECK_TSO)
		tso_drain(chk.id);
	if (chk.model == CHECK_WEAK)
		weak_fence(1, 1);
	clock_fence(1, 1);
}

/* Takes the interrupts that were delivered while this CPU was stopped.  Where operations run one at a time, whoever sent
 * the interrupt goes on first. */
static void check_take_interrupts(void)
{
	const shmm_site_t *site = chk.site;

	while (chk.me->deliver) {
		chk.me->deliver = 0;
		check_full_barrier();
		chk.live.busy |= 16u << chk.id;         /* not at rest, wherever it interrupts */
		chk.rooms.interrupt(chk.id);
		chk.live.busy &= ~(16u << chk.id);
		if (chk.serial)
			check_stop(CHECK_HANDLED);
	}
	chk.site = site;
}

/* Back to the explorer; returns when this CPU is to go on, after an interrupt if one was delivered. */
static void check_leave(int event)
{
	const shmm_site_t *site = chk.site;

	check_stop(event);
	chk.site = site;
	check_take_interrupts();
}

static __attribute__((noinline)) void check_choose(void)
{
	check_leave(CHECK_CHOICE);
}

/* Which of so many older values a load returns, 0 being the newest; usual: if nobody deviates. */
static uint32_t check_choose_value(uint32_t older, uint32_t usual)
{
	chk.answer = older;
	chk.usual = usual;
	check_leave(CHECK_READ);
	return chk.answer;
}

/* Before each access: the explorer may let another CPU run here. */
static inline void check_point(void)
{
	chk.me->steps++;
	if (__builtin_expect(--chk.fuel == 0, 0))
		check_choose();
}
#endif
