/* Executes records on the host's kernel: what exec/interpreter.pxd does on an emulated one, result for result.
 *
 * c is the block that holds the CPU's program, b the one whose stacks its process or thread uses. */
#ifndef SHMM_HOST_EXECUTE_H
#define SHMM_HOST_EXECUTE_H

#include <linux/futex.h>
#include <sys/resource.h>
#include <time.h>

#include "host/access.h"

#define HOST_WAIT_NS 20000000l          /* the longest sleep between two looks at the stop word */

static inline uint64_t host_now(void)
{
	struct timespec t = { 0, 0 };
	raw2(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void host_sleep_while(uint32_t *word, uint32_t value, long ns)
{
	struct timespec t = { 0, ns };
	raw4(SYS_futex, word, FUTEX_WAIT, value, ns ? &t : 0);
}

static inline void host_wake(uint32_t *word) { raw3(SYS_futex, word, FUTEX_WAKE, 0x7fffffff); }

/* Page faults that this thread has taken, also inside of system calls. */
static inline uint64_t host_faults(void)
{
	struct rusage used;
	used.ru_minflt = used.ru_majflt = 0;
	raw2(SYS_getrusage, RUSAGE_THREAD, &used);
	return (uint64_t)used.ru_minflt + (uint64_t)used.ru_majflt;
}

static inline int host_stopped(void) { return host_peek(&host_head()->stop) != 0; }
static inline const shmm_insn_t *host_record(uint64_t n)
{
	return (const shmm_insn_t *)(HOST_AREA + host_head()->records) + n;
}

/* Every 64th time, a look at the stop word.  1: stop. */
static inline int host_breathe(host_block_t *c)
{
	if (--c->countdown)
		return 0;
	c->countdown = 64;
	return host_stopped();
}

static int64_t host_wait_while(uint32_t *word, uint32_t value)
{
	while (host_get(word) == value) {
		if (host_stopped())
			return -SHMM_STOPPED;
		host_sleep_while(word, value, HOST_WAIT_NS);
	}
	return 0;
}

static int64_t host_barrier(void)
{
	host_head_t *h = host_head();
	uint32_t gen = host_get(&h->barrier_gen);
	if (host_add(&h->barrier_count, 1) + 1 == h->cpus) {
		host_note(&h->barrier_count, 0);
		host_put(&h->barrier_gen, gen + 1);
		host_wake(&h->barrier_gen);
		return 0;
	}
	return host_wait_while(&h->barrier_gen, gen);
}

static int64_t host_turn(uint64_t ticket)
{
	host_head_t *h = host_head();
	for (;;) {
		uint32_t seen = host_get(&h->turn_wake);        /* before the turn, so that no wake is lost */
		if (host_get(&h->turn) == ticket)
			return 0;
		int64_t err = host_wait_while(&h->turn_wake, seen);
		if (err)
			return err;
	}
}

static void host_next(uint64_t ticket)
{
	host_head_t *h = host_head();
	host_put(&h->turn, ticket);
	host_add(&h->turn_wake, 1);
	host_wake(&h->turn_wake);
}

static void host_clock(int runs)
{
	host_head_t *h = host_head();
	uint64_t since = host_peek(&h->clock_since);
	if (runs) {
		host_note(&h->clock_since, host_now());
	} else if (since) {
		host_note(&h->clock_ns, host_peek(&h->clock_ns) + host_now() - since);
		host_note(&h->clock_since, 0);
	}
}

/* xorshift64*, as on every engine. */
static uint64_t host_random(host_block_t *c)
{
	uint64_t x = c->rng;
	if (x == 0)
		x = 0x9e3779b97f4a7c15ull + c->task;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	c->rng = x;
	return x * 0x2545f4914f6cdd1dull >> 33;
}

/* `count` accesses: 0, or the failure of the first that failed. */
static int64_t host_touch(host_block_t *c, host_block_t *b, const shmm_insn_t *i, uint64_t addr, uint64_t stride)
{
	uint8_t byte;
	for (uint64_t n = 0; n < i->count; n++, addr += stride) {
		int64_t err = i->opf & SHMM_OPF_WRITE ? host_store(b, addr, (uint8_t)i->value) : host_load(b, addr, &byte);
		if (err)
			return err;
		if (i->opf & SHMM_OPF_COUNT)
			host_note(&c->ops, c->ops + 1);
		if (host_breathe(c))
			return -SHMM_STOPPED;
	}
	return 0;
}

static int64_t host_access(host_block_t *c, host_block_t *b, const shmm_insn_t *i, uint64_t addr, uint64_t length)
{
	uint8_t byte = 0;
	if (i->op == SHMM_OP_TOUCH)
		return host_touch(c, b, i, addr, length);
	if (i->op == SHMM_OP_STORE)
		return host_store(b, addr, (uint8_t)i->value);
	if (i->op == SHMM_OP_FETCH)
		return host_fetch(b, addr);
	int64_t ret = host_load(b, addr, &byte);
	if (ret >= 0) {
		c->reg[i->dst] = byte;
		c->loaded = byte;
	}
	return ret;
}

/* A file's descriptor.  File 0 is none; one that does not exist is no descriptor either. */
static int64_t host_fd(int64_t number)
{
	return number > 0 && number <= host_head()->nfiles ? host_head()->file[number].fd : -1;
}

/* 1 if a VMA maps addr, else 0: mincore() only looks that up, under the mmap lock. */
static int64_t host_probe(host_block_t *b, uint64_t addr)
{
	long ret = raw3(SYS_mincore, addr & ~(SHMM_PAGE_SIZE - 1), SHMM_PAGE_SIZE, (char *)b + HOST_SCRATCH);
	return ret == 0;
}

static int64_t host_syscall(host_block_t *c, host_block_t *b, const shmm_insn_t *i, uint64_t addr, uint64_t length)
{
	static const uint8_t counter[] = { HOST_C_mmap, HOST_C_munmap, HOST_C_mprotect, HOST_C_madvise, HOST_C_brk };
	int64_t ret = -ENOSYS;
	c->counter[HOST_C_syscalls]++;
	if (i->op <= SHMM_OP_BRK)
		c->counter[counter[i->op - SHMM_OP_MMAP]]++;
	switch (i->op) {
	case SHMM_OP_MMAP:
		ret = raw6(SYS_mmap, (long)addr, (long)length, i->prot, i->flags, (long)host_fd(i->value), (long)i->aux);
		break;
	case SHMM_OP_MUNMAP:
		return raw2(SYS_munmap, addr, length);
	case SHMM_OP_MPROTECT:
		return raw3(SYS_mprotect, addr, length, i->prot);
	case SHMM_OP_MADVISE:
		return raw3(SYS_madvise, addr, length, (int)i->value);
	case SHMM_OP_BRK:
		ret = raw1(SYS_brk, addr);
		break;
	case SHMM_OP_MREMAP:
		ret = raw5(SYS_mremap, addr, length, i->count, i->flags, i->aux);
		break;
	case SHMM_OP_TRUNCATE:
		return raw2(SYS_ftruncate, host_fd(i->value), i->aux);
	case SHMM_OP_PROBE:
		return host_probe(b, addr);
	}
	c->reg[i->dst] = (uint64_t)ret;
	return ret;
}

/* Registers, jumps and meetings; what is not a jump falls through to the next record. */
static int64_t host_control(host_block_t *c, const shmm_insn_t *i)
{
	switch (i->op) {
	case SHMM_OP_NOP:
		return 0;
	case SHMM_OP_LEA:
		c->reg[i->dst] = c->reg[i->base] * i->count + c->reg[i->len_reg] + (uint64_t)i->value;
		return 0;
	case SHMM_OP_RAND:
		c->reg[i->dst] = (uint64_t)i->value + i->aux * (i->count ? host_random(c) % i->count : 0);
		return 0;
	case SHMM_OP_OPS:
		host_note(&c->ops, c->ops + i->count);
		return 0;
	case SHMM_OP_BARRIER:
		return host_barrier();
	case SHMM_OP_CLOCK:
		host_clock(i->value != 0);
		return 0;
	case SHMM_OP_TURN:
		return host_turn((uint64_t)i->value);
	case SHMM_OP_NEXT:
		host_next((uint64_t)i->value);
		return 0;
	case SHMM_OP_DJNZ:
		if (--c->reg[i->dst] == 0)
			return 0;
		/* fall through */
	case SHMM_OP_JMP:
		c->pc = (uint64_t)i->value - 1;
		return host_stopped() ? -SHMM_STOPPED : 0;
	}
	return -EINVAL;
}

#endif
