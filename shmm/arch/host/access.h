/* Loads, stores and fetches of a program on the host: real ones, whose fatal signals become results.
 *
 * A load or store is one known instruction.  If a signal says that it was that one, the handler goes on behind it with
 * a failure; a signal from anywhere else kills the process, because it was the executor that was hit: the program has
 * taken away or changed memory that is not its own.
 *
 * A fetch executes what lies at the address, so it is made harmless: all registers point into a scratch page of the
 * block, and the trap flag ends it after one instruction.  (Zeroes, which fresh pages hold, are `add %al, (%rax)`.)
 * Whatever signal comes then is the end of it, and only a page fault on the fetch itself is a failure. */
#ifndef SHMM_HOST_ACCESS_H
#define SHMM_HOST_ACCESS_H

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

#include "host/raw.h"
#include "host/state.h"
#include "machine.h"

#define HOST_SA_RESTORER 0x04000000ul
#define HOST_SIGSET      8

/* The kernel's own idea of a sigaction; the C library's differs. */
typedef struct {
	void (*handler)(int, siginfo_t *, void *);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
} host_sigaction_t;

#define HOST_FUNCTION(name)  "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n\t"
#define HOST_IS_HIDDEN       __attribute__((visibility("hidden")))

int  host_ld(uint64_t addr) HOST_IS_HIDDEN;                             /* the byte, or -1 */
int  host_st(uint64_t addr, uint8_t value) HOST_IS_HIDDEN;              /* 0, or -1 */
void host_refused(void) HOST_IS_HIDDEN;
void host_restorer(void) HOST_IS_HIDDEN;
void host_jump(uint64_t addr, uint64_t *stack, char *scratch) HOST_IS_HIDDEN;
void host_jumped(void) HOST_IS_HIDDEN;

#if defined(__x86_64__)
__asm__(".pushsection .text"
	HOST_FUNCTION(host_ld)       "movzbl (%rdi), %eax\n\tret"
	HOST_FUNCTION(host_st)       "movb %sil, (%rdi)\n\txor %eax, %eax\n\tret"
	HOST_FUNCTION(host_refused)  "mov $-1, %eax\n\tret"
	HOST_FUNCTION(host_restorer) "mov $15, %eax\n\tsyscall\n\tud2"
	/* an interrupt return to addr: the trap flag that it loads takes effect after the first instruction there */
	HOST_FUNCTION(host_jump)
	"push %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\tmov %rsp, (%rsi)\n\t"
	"mov %ss, %ecx\n\tpush %rcx\n\tpush %rdx\n\tpushfq\n\torq $0x100, (%rsp)\n\tmov %cs, %ecx\n\tpush %rcx\n\t"
	"push %rdi\n\t"
	"mov %rdx, %rax\n\tmov %rdx, %rbx\n\tmov %rdx, %rcx\n\tmov %rdx, %rsi\n\tmov %rdx, %rdi\n\tmov %rdx, %rbp\n\t"
	"mov %rdx, %r8\n\tmov %rdx, %r9\n\tmov %rdx, %r10\n\tmov %rdx, %r11\n\tmov %rdx, %r12\n\tmov %rdx, %r13\n\t"
	"mov %rdx, %r14\n\tmov %rdx, %r15\n\tiretq"
	HOST_FUNCTION(host_jumped)
	"pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbx\n\tpop %rbp\n\tret\n"
	".popsection\n");

#define HOST_PC(uc) (uc)->uc_mcontext.gregs[REG_RIP]

/* What a signal that ended a fetch means: whether the page at addr could not be fetched.  And ends it. */
static inline int64_t host_end_fetch(host_block_t *b, ucontext_t *at, int64_t failure)
{
	enum { PAGE_FAULT = 14, BY_FETCH = 0x10, TRAP_AND_DIRECTION = 0x500 };
	greg_t *reg = at->uc_mcontext.gregs;
	int refused = reg[REG_TRAPNO] == PAGE_FAULT && reg[REG_ERR] & BY_FETCH
	              && ((uint64_t)reg[REG_CR2] ^ b->fetch_at) < SHMM_PAGE_SIZE;
	reg[REG_EFL] &= ~TRAP_AND_DIRECTION;
	reg[REG_RSP] = (greg_t)b->fetch_stack;
	reg[REG_RIP] = (greg_t)host_jumped;
	return refused ? failure : 0;
}

static int64_t host_fetch(host_block_t *b, uint64_t addr)
{
	if (addr >= SHMM_TASK_SIZE)
		return -EFAULT;
	b->fetch_at = addr;
	b->fetching = 1;
	host_jump(addr, &b->fetch_stack, (char *)b + HOST_SCRATCH);
	return b->failure;
}
#elif defined(__aarch64__)
__asm__(".pushsection .text"
	HOST_FUNCTION(host_ld)       "ldrb w0, [x0]\n\tret"
	HOST_FUNCTION(host_st)       "strb w1, [x0]\n\tmov w0, #0\n\tret"
	HOST_FUNCTION(host_refused)  "mov w0, #-1\n\tret"
	HOST_FUNCTION(host_restorer) "mov x8, #139\n\tsvc 0\n"
	".popsection\n");

#define HOST_PC(uc) (uc)->uc_mcontext.pc

static inline int64_t host_end_fetch(host_block_t *b, ucontext_t *at, int64_t failure)
{
	(void)b, (void)at;
	return failure;
}

static int64_t host_fetch(host_block_t *b, uint64_t addr)
{
	(void)b, (void)addr;
	return -ENOSYS;             /* refused before a program begins: there is no trap flag */
}
#endif

static inline void host_raise(int number, void (*handler)(int, siginfo_t *, void *))
{
	host_sigaction_t action = { handler, SA_SIGINFO | SA_ONSTACK | HOST_SA_RESTORER, host_restorer, 0 };
	if (!handler)
		action.flags = 0;
	raw4(SYS_rt_sigaction, number, &action, 0, HOST_SIGSET);
}

static void host_on_signal(int number, siginfo_t *info, void *context)
{
	host_block_t *b = (host_block_t *)((uint64_t)__builtin_frame_address(0) & ~(HOST_BLOCK - 1));
	ucontext_t *at = context;
	uint64_t pc = (uint64_t)HOST_PC(at);
	int64_t failure = number == SIGBUS ? -SHMM_SIGBUS : number == SIGSEGV ? -EFAULT : 0;
	(void)info;
	if (b->fetching) {
		b->fetching = 0;
		b->failure = host_end_fetch(b, at, failure);
	} else if (failure && (pc == (uint64_t)host_ld || pc == (uint64_t)host_st)) {
		b->failure = failure;
		HOST_PC(at) = (__typeof__(HOST_PC(at)))host_refused;
	} else {
		host_raise(number, 0);          /* it happens again, and is the end */
	}
}

/* In each process and thread: the signals that end accesses, on the block's own signal stack. */
static inline void host_catch(host_block_t *b)
{
	static const int8_t caught[] = { SIGSEGV, SIGBUS, SIGTRAP, SIGILL, SIGFPE };
	stack_t stack = { .ss_sp = (char *)b + HOST_ALTSTACK, .ss_size = HOST_STACK - HOST_ALTSTACK };
	for (unsigned i = 0; i < sizeof caught; i++)
		host_raise(caught[i], host_on_signal);
	raw2(SYS_sigaltstack, &stack, 0);
	b->fetching = 0;
}

static int64_t host_load(host_block_t *b, uint64_t addr, uint8_t *value)
{
	int byte = addr < SHMM_TASK_SIZE ? host_ld(addr) : -1;
	if (byte < 0)
		return addr < SHMM_TASK_SIZE ? b->failure : -EFAULT;
	*value = (uint8_t)byte;
	return 0;
}

static int64_t host_store(host_block_t *b, uint64_t addr, uint8_t value)
{
	if (addr >= SHMM_TASK_SIZE)
		return -EFAULT;
	return host_st(addr, value) ? b->failure : 0;
}

#endif
