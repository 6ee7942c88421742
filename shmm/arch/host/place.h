/* Address spaces on the host are processes, and the one CPU of such a program is in one of them at a time.
 *
 *   FORK slot   a real fork; the child waits in its block until the CPU comes
 *   MM slot     the CPU goes on in that slot's process; the one it left exits, as the last thread out would
 *   EXEC slot   the same, in a fresh fork of the zygote: all that a program begins with, and nothing else
 *   EXIT        the same, in a process of no slot, where accesses and system calls fail with -EINVAL
 *
 * What the CPU is - registers, position, results - lies in shared memory, so to go elsewhere is to say where, and to
 * die.  The zygote has reaped the one before it lets the next one run: what an address space held has been given back
 * by then. */
#ifndef SHMM_HOST_PLACE_H
#define SHMM_HOST_PLACE_H

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "host/execute.h"

#define HOST_RESULT_WORDS(offset) ((int64_t *)(HOST_AREA + host_head()->offset))

static void host_process(void *block);

__attribute__((noreturn)) static inline void host_exit(int status)
{
	for (;;)
		raw1(SYS_exit_group, status);
}

/* What this process needs of itself is made present, so that no record's faults are the executor's own. */
static void host_populate(void)
{
	host_head_t *h = host_head();
	raw3(SYS_madvise, h->image_begin, h->image_end - h->image_begin, MADV_POPULATE_READ);
	raw3(SYS_madvise, HOST_AREA, h->size, MADV_POPULATE_WRITE);
}

/* 0 or a negative errno.  In the child, host_process() begins on the stack of its own block. */
static long host_spawn(uint32_t slot, unsigned long flags)
{
	host_block_t *b = host_block(slot);
	b->leaves = 0;
	host_note(&b->wake, 0);
	b->pid = -1;
	long pid = raw_clone(flags | SIGCHLD, host_stack_top(b), host_process, b);
	b->pid = pid < 0 ? 0 : (int32_t)pid;
	return pid < 0 ? pid : 0;
}

/* The CPU goes elsewhere; whoever comes next finishes the record with this result. */
__attribute__((noreturn)) static void host_leave(host_block_t *b, enum host_switch how, uint32_t to, int64_t result)
{
	host_head_t *h = host_head();
	host_block(0)->failure = result;
	h->switch_how = how;
	h->switch_to = to;
	b->leaves = 1;
	host_exit(0);
}

static int64_t host_fork(host_block_t *c, uint32_t slot)
{
	host_head_t *h = host_head();
	c->counter[HOST_C_syscalls]++;
	c->counter[HOST_C_fork]++;
	if (slot == 0 || slot >= h->blocks || h->running == HOST_PLACE_NONE)
		return -EINVAL;
	if (host_block(slot)->pid)
		return -EBUSY;
	return host_spawn(slot, CLONE_PARENT);      /* a sibling: the zygote is the parent of all */
}

/* Operations on whole address spaces; returns only if the CPU stays where it is. */
static int64_t host_execute_mm(host_block_t *c, host_block_t *b, const shmm_insn_t *i)
{
	host_head_t *h = host_head();
	uint32_t slot = (uint32_t)i->value;
	if (i->op == SHMM_OP_FORK)
		return host_fork(c, slot);
	if (i->op == SHMM_OP_EXIT) {
		if (h->running != HOST_PLACE_NONE)
			host_leave(b, HOST_FRESH, HOST_PLACE_NONE, 0);
		return 0;
	}
	if (slot == 0 || slot >= h->blocks)
		return -EINVAL;
	if (i->op == SHMM_OP_MM) {
		if (!host_block(slot)->pid)
			return -EINVAL;
		if (slot != h->running)
			host_leave(b, HOST_JOIN, slot, 0);
		return 0;
	}
	if (slot != h->running && host_block(slot)->pid)
		host_leave(b, HOST_FRESH, HOST_PLACE_NONE, -EBUSY);
	host_leave(b, HOST_FRESH, slot, 0);
}

#endif
