/* Runs programs: from the first record to the last, in one process after the other or in threads of one. */
#ifndef SHMM_HOST_RUN_H
#define SHMM_HOST_RUN_H

#include <sched.h>

#include "host/place.h"

static int64_t host_execute(host_block_t *c, host_block_t *b, const shmm_insn_t *i)
{
	uint64_t addr = i->addr + c->reg[i->base];
	uint64_t length = i->len + c->reg[i->len_reg];
	int place = host_head()->threaded || host_head()->running != HOST_PLACE_NONE;
	host_note(&c->doing, i->op);
	if (i->op >= SHMM_OP_LOAD && i->op <= SHMM_OP_TOUCH)
		return place ? host_access(c, b, i, addr, length) : -EINVAL;
	if (i->op >= SHMM_OP_MMAP && i->op <= SHMM_OP_PROBE)
		return place ? host_syscall(c, b, i, addr, length) : -EINVAL;
	if (i->op >= SHMM_OP_MM && i->op <= SHMM_OP_EXIT)
		return host_execute_mm(c, b, i);
	return host_control(c, i);
}

/* 1 if the program goes on.  Remembers the first surprise for the launcher. */
static int host_as_expected(host_block_t *c, uint64_t pc, const shmm_insn_t *i, int64_t result)
{
	if (i->opf & SHMM_OPF_EXPECT ? result == i->expect : (result >= 0 || i->opf & SHMM_OPF_MAY_FAIL))
		return 1;
	c->failed_result = result;
	c->failed_expect = i->expect;
	c->failed_pc = pc + 1;
	c->counter[HOST_C_unexpected]++;
	return 0;
}

/* The record at pc has run, with this result.  1 if the program goes on with the next. */
static int host_finish(host_block_t *c, uint64_t pc, int64_t result)
{
	const shmm_insn_t *i = host_record(c->first + pc);
	c->reg[0] = 0;
	host_note(&HOST_RESULT_WORDS(results)[c->first + pc], result);
	c->counter[HOST_C_segv] += result == -EFAULT;
	c->counter[HOST_C_sigbus] += result == -SHMM_SIGBUS;
	if (i->op == SHMM_OP_LOAD && result >= 0 && i->opf & SHMM_OPF_EXPECT)
		result = c->loaded;             /* what is expected of a load is the byte */
	if (!host_as_expected(c, pc, i, result))
		return 0;
	if (i->opf & SHMM_OPF_COUNT && i->op != SHMM_OP_TOUCH)
		host_note(&c->ops, c->ops + 1);
	c->pc++;
	return 1;
}

/* One record, with its faults counted if that is asked for; of an access they are the result. */
static int64_t host_step(host_block_t *c, host_block_t *b, const shmm_insn_t *i, uint64_t pc)
{
	int is_access = i->op >= SHMM_OP_LOAD && i->op <= SHMM_OP_TOUCH;
	int counted = host_head()->exact || (is_access && i->op != SHMM_OP_LOAD && i->opf & SHMM_OPF_EXPECT);
	uint64_t before = counted ? host_faults() : 0;
	c->loaded = 0;
	int64_t result = host_execute(c, b, i);
	if (counted) {
		uint64_t taken = host_faults() - before;
		HOST_RESULT_WORDS(faults)[c->first + pc] = (int64_t)(taken | (uint64_t)c->loaded << HOST_LOADED_SHIFT);
		if (is_access && result == 0)
			result = (int64_t)taken;
	}
	return result;
}

/* From record c->pc on.  HOST_DONE, HOST_STOPPED or HOST_FAILED. */
static uint32_t host_run(host_block_t *c, host_block_t *b)
{
	while (c->pc < c->len && host_record(c->first + c->pc)->op != SHMM_OP_END) {
		uint64_t pc = c->pc;
		c->at = pc;
		int64_t result = host_step(c, b, host_record(c->first + pc), pc);
		if (result == -SHMM_STOPPED)
			return HOST_STOPPED;
		if (!host_finish(c, pc, result))
			return HOST_FAILED;
		if (host_breathe(c))
			return HOST_STOPPED;
	}
	return HOST_DONE;
}

/* Waits for good: the launcher looks at this address space, and the zygote kills it. */
__attribute__((noreturn)) static void host_park(void)
{
	for (;;)
		raw4(SYS_ppoll, 0, 0, 0, 0);
}

static void host_end(host_block_t *c, uint32_t outcome)
{
	c->outcome = outcome;
	c->ended_ns = host_now();
	c->counter[HOST_C_pgfault] += host_faults() - c->faults_before;
	c->doing = SHMM_OP_END;
}

__attribute__((noreturn)) static void host_conclude(void)
{
	host_put(&host_head()->status, HOST_ENDED);
	raw2(SYS_kill, raw0(SYS_getppid), SIGUSR1);
	host_park();
}

/* A thread: waits for the others, runs its program, and is gone; the first one stays for the launcher. */
static void host_thread(void *block)
{
	host_block_t *c = block;
	host_head_t *h = host_head();
	host_catch(c);
	if (c->core >= 0) {
		uint64_t mask[16];
		for (int i = 0; i < 16; i++)
			mask[i] = c->core >> 6 == i ? 1ull << (c->core & 63) : 0;
		raw3(SYS_sched_setaffinity, 0, sizeof mask, mask);
	}
	c->faults_before = host_faults();
	host_add(&h->ready, 1);
	while (!host_get(&h->go))
		host_sleep_while(&h->go, 0, HOST_WAIT_NS);
	c->begun_ns = host_now();
	host_end(c, host_run(c, c));
	if (host_add(&h->finished, 1) + 1 == h->cpus)
		host_wake(&h->finished);
	if (c != host_block(0))
		for (;;)
			raw1(SYS_exit, 0);
	for (uint32_t n; (n = host_get(&h->finished)) != h->cpus;)
		host_sleep_while(&h->finished, n, HOST_WAIT_NS);
	host_conclude();
}

/* The process of several CPUs: this thread is the first. */
__attribute__((noreturn)) static void host_threads(void)
{
	host_head_t *h = host_head();
	unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	for (uint32_t cpu = 1; cpu < h->cpus; cpu++) {
		long err = raw_clone(flags, host_stack_top(host_block(cpu)), host_thread, host_block(cpu));
		if (err < 0) {
			h->error = (uint32_t)-err;
			host_put(&h->status, HOST_REFUSED);
			raw2(SYS_kill, raw0(SYS_getppid), SIGUSR1);
			host_park();
		}
	}
	host_thread(host_block(0));
	__builtin_unreachable();
}

/* Where every process begins: the first of a program, those that it forks, and fresh ones. */
static void host_process(void *block)
{
	host_block_t *b = block, *c = host_block(0);
	host_head_t *h = host_head();
	raw2(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	if (raw0(SYS_getppid) != h->zygote)
		host_exit(1);                   /* it died before we asked */
	host_populate();
	if (h->threaded)
		host_threads();
	host_catch(b);
	while (!host_get(&b->wake))
		host_sleep_while(&b->wake, 0, HOST_WAIT_NS);
	int first = c->begun_ns == 0, goes_on = 1;
	c->faults_before = host_faults();
	if (first)
		c->begun_ns = host_now();
	else
		goes_on = host_finish(c, c->pc, c->failure);
	host_end(c, goes_on ? host_run(c, b) : HOST_FAILED);
	host_conclude();
}

#endif
