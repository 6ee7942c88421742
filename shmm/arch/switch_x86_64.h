/* The fiber switch of x86-64 (System V): rbx, rbp, r12 to r15 and the stack pointer.
 *
 *   sp ->  r15 r14 r13 r12 rbx rbp  return address
 *
 * endbr64 where an indirect branch may land (IBT).  The unwinder stops at fiber_start: its return address is undefined.
 */
#ifndef SHMM_ARCH_SWITCH_X86_64_H
#define SHMM_ARCH_SWITCH_X86_64_H

__asm__(
	".pushsection .text\n"
	".p2align 4\n"
	".type shmm_fiber_switch,@function\n"
	"shmm_fiber_switch:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size shmm_fiber_switch,.-shmm_fiber_switch\n"
	".p2align 4\n"
	".type shmm_fiber_start,@function\n"
	"shmm_fiber_start:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined rip\n"
	"	endbr64\n"
	"	movq %r12, %rdi\n"
	"	callq *%rbx\n"
	"	ud2\n"
	"	.cfi_endproc\n"
	".size shmm_fiber_start,.-shmm_fiber_start\n"
	".popsection\n");

/* sp is 64-byte aligned; at fiber_start it must be a multiple of 16, for the call that follows. */
static void *fiber_first_frame(uint64_t *sp, void (*entry)(void *), void *argument)
{
	*--sp = 0;
	*--sp = 0;
	*--sp = (uint64_t)(uintptr_t)shmm_fiber_start;
	*--sp = 0;                              /* rbp */
	*--sp = (uint64_t)(uintptr_t)entry;     /* rbx */
	*--sp = (uint64_t)(uintptr_t)argument;  /* r12 */
	*--sp = 0;                              /* r13 */
	*--sp = 0;                              /* r14 */
	*--sp = 0;                              /* r15 */
	return sp;
}

#endif
