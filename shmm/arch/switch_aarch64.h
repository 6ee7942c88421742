/* The fiber switch of aarch64 (AAPCS64): x19 to x30, d8 to d15 and the stack pointer, 160 bytes.
 *
 * x30 is saved unsigned and returned through: with return-address signing (PAC) that is fine, for this function signs
 * nothing.  bti c: an indirect call may land here.
 */
#ifndef SHMM_ARCH_SWITCH_AARCH64_H
#define SHMM_ARCH_SWITCH_AARCH64_H

__asm__(
	".pushsection .text\n"
	".p2align 4\n"
	".type shmm_fiber_switch,%function\n"
	"shmm_fiber_switch:\n"
	"	.cfi_startproc\n"
	"	hint #34\n"
	"	sub sp, sp, #160\n"
	"	stp x19, x20, [sp, #0]\n"
	"	stp x21, x22, [sp, #16]\n"
	"	stp x23, x24, [sp, #32]\n"
	"	stp x25, x26, [sp, #48]\n"
	"	stp x27, x28, [sp, #64]\n"
	"	stp x29, x30, [sp, #80]\n"
	"	stp d8, d9, [sp, #96]\n"
	"	stp d10, d11, [sp, #112]\n"
	"	stp d12, d13, [sp, #128]\n"
	"	stp d14, d15, [sp, #144]\n"
	"	mov x9, sp\n"
	"	str x9, [x0]\n"
	"	mov sp, x1\n"
	"	ldp x19, x20, [sp, #0]\n"
	"	ldp x21, x22, [sp, #16]\n"
	"	ldp x23, x24, [sp, #32]\n"
	"	ldp x25, x26, [sp, #48]\n"
	"	ldp x27, x28, [sp, #64]\n"
	"	ldp x29, x30, [sp, #80]\n"
	"	ldp d8, d9, [sp, #96]\n"
	"	ldp d10, d11, [sp, #112]\n"
	"	ldp d12, d13, [sp, #128]\n"
	"	ldp d14, d15, [sp, #144]\n"
	"	add sp, sp, #160\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size shmm_fiber_switch,.-shmm_fiber_switch\n"
	".p2align 4\n"
	".type shmm_fiber_start,%function\n"
	"shmm_fiber_start:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined x30\n"
	"	hint #36\n"
	"	mov x0, x20\n"
	"	blr x19\n"
	"	brk #1\n"
	"	.cfi_endproc\n"
	".size shmm_fiber_start,.-shmm_fiber_start\n"
	".popsection\n");

static void *fiber_first_frame(uint64_t *sp, void (*entry)(void *), void *argument)
{
	sp -= 20;
	for (int i = 0; i < 20; i++)
		sp[i] = 0;
	sp[0] = (uint64_t)(uintptr_t)entry;             /* x19 */
	sp[1] = (uint64_t)(uintptr_t)argument;          /* x20 */
	sp[11] = (uint64_t)(uintptr_t)shmm_fiber_start; /* x30 */
	return sp;
}

#endif
