/* The program format: what a CPU does, as a flat array of 64-byte records, the same for every executor.
 *
 *   effective address  A = addr + R[base]
 *   effective length   L = len + R[len_reg]
 *
 * Registers are 64-bit and private to the CPU.  R[0] is always 0, R[14] is the task's number (0 ..), R[15] the
 * number of tasks; the others start at 0.  An operation with a result puts it in R[dst] (writes to R[0] are
 * dropped).  A failing operation results in a negative errno; a failing access in -EFAULT (SIGSEGV) or
 * -SHMM_SIGBUS.
 *
 * Beside the program lies one result word per record, written each time the record has run: an operation's result;
 * for LOAD, STORE, FETCH and TOUCH the number of faults taken, or the failure.  With OPF_EXPECT the result (of a
 * LOAD: the byte) must equal `expect`; without it a negative result of a system call or access ends the program
 * and is reported, unless OPF_MAY_FAIL is set.
 */
#ifndef SHMM_PROGRAM_H
#define SHMM_PROGRAM_H

#include <stdint.h>

#define SHMM_OPS(X) \
	X(END)       /* the program is over */                                                              \
	X(NOP)                                                                                              \
	X(MMAP)      /* R[dst] = mmap(A, L, prot, flags, file `value`, byte offset `aux`) */                \
	X(MUNMAP)    /* munmap(A, L) */                                                                     \
	X(MPROTECT)  /* mprotect(A, L, prot) */                                                             \
	X(MADVISE)   /* madvise(A, L, `value`) */                                                           \
	X(BRK)       /* R[dst] = brk(A) */                                                                  \
	X(MREMAP)    /* R[dst] = mremap(A, L, new length `count`, flags, new address `aux`) */               \
	X(TRUNCATE)  /* ftruncate(file `value`, `aux` bytes) */                                             \
	X(NUMA)      /* a scan for NUMA balancing comes by A .. A + L: the next accesses there are hint faults */ \
	X(NOTIFIER)  /* an MMU notifier: `value` 1 registers, 0 unregisters the secondary MMU's */          \
	X(SECONDARY) /* R[dst] = the byte at A, through the secondary MMU; OPF_WRITE stores `value` */      \
	X(GUP)       /* R[dst] = the byte at A, through a page pinned by get_user_pages_fast */             \
	X(USERFAULT) /* userfaultfd answers faults in A .. A + L: `value` 1 missing, 2 write-protected; 0 ends it */ \
	X(UFFDIO)    /* a message or an answer: `value` SHMM_UFFDIO_*, A, L, byte `count`, mode `aux`, R[dst] */ \
	X(PROBE)     /* 1 if a VMA maps A, else 0: an exception that only looks up its VMA (uprobes) */    \
	X(LOAD)      /* R[dst] = the byte at A */                                                           \
	X(STORE)     /* the byte at A = value */                                                            \
	X(FETCH)     /* execute at A */                                                                     \
	X(TOUCH)     /* `count` accesses at A, A + stride, ... with stride = L; OPF_WRITE stores `value` */ \
	X(LEA)       /* R[dst] = R[base] * count + R[len_reg] + value */                                    \
	X(RAND)      /* R[dst] = value + aux * (random below count) */                                      \
	X(JMP)       /* to record `value` */                                                                \
	X(DJNZ)      /* R[dst] -= 1; if it is not 0, to record `value` */                                   \
	X(BARRIER)   /* wait for all tasks */                                                               \
	X(OPS)       /* count `count` units of work */                                                      \
	X(TURN)      /* wait until event `value` is next (replay) */                                        \
	X(CLOCK)     /* the measured time goes on (`value` 1) or stands still (0); one CPU says so for all */  \
	X(NEXT)      /* event `value` is next; wake CPU `count` */                                          \
	X(MM)        /* run address space `value` from now on: a thread of it */                            \
	X(EXEC)      /* run a fresh, empty address space in slot `value`; addr = mmap_base, aux = brk */    \
	X(FORK)      /* slot `value` becomes a copy of the current address space */                         \
	X(EXIT)      /* leave the current address space; the last one out frees it */

enum shmm_op {
#define X(name) SHMM_OP_##name,
	SHMM_OPS(X)
#undef X
	SHMM_NOP_COUNT
};

/* What a UFFDIO record does: READ (waits) and POLL give the address of a fault that nobody has been told of. */
enum { SHMM_UFFDIO_READ = 0, SHMM_UFFDIO_POLL, SHMM_UFFDIO_COPY, SHMM_UFFDIO_ZEROPAGE, SHMM_UFFDIO_WRITEPROTECT,
       SHMM_UFFDIO_UNPROTECT, SHMM_UFFDIO_WAKE };

#define SHMM_OPF_EXPECT   1u    /* the result must equal `expect` */
#define SHMM_OPF_MAY_FAIL 2u    /* a negative result is fine */
#define SHMM_OPF_WRITE    4u    /* TOUCH: stores, not loads */
#define SHMM_OPF_COUNT    8u    /* each access (TOUCH) or the record itself is one unit of work */

typedef struct {
	uint16_t op;
	uint8_t dst, base, len_reg, opf;
	uint16_t reserved;
	uint32_t prot, flags;
	uint64_t addr, len, count;
	int64_t value, expect;
	uint64_t aux;
} shmm_insn_t;

_Static_assert(sizeof(shmm_insn_t) == 64, "a record is 64 bytes");

#define SHMM_REGS 16
#endif
