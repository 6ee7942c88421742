/* What the host engine's processes share: one mapping of a memfd, at the same address in all of them.
 *
 *   head | one block for each CPU and each address space | records | results | faults | scratch text
 *
 * The launcher (Python) has it too.  A block is one aligned piece that holds all that executing needs beside the
 * program: a state, a signal stack and a stack.  So a signal handler finds its state by rounding down its stack
 * pointer, with no thread-local storage; and as all of it is shared memory that is present before the first record
 * runs, executing takes no page faults of its own and changes nothing that a program could see. */
#ifndef SHMM_HOST_STATE_H
#define SHMM_HOST_STATE_H

#include <stdint.h>

#include "program.h"

#define HOST_AREA       0x10000000000ull    /* where it is mapped: far from where the kernel puts things by itself */
#define HOST_BLOCK      65536ull
#define HOST_SCRATCH    6144ull             /* in a block: where stray accesses of a fetched instruction go */
#define HOST_ALTSTACK   8192ull
#define HOST_STACK      32768ull
#define HOST_FILES      256
#define HOST_LOADED_SHIFT 48                /* in a record's word of faults: above them, the byte that it loaded */
#define HOST_PLACE_NONE 0                   /* the CPU runs no address space (it left its last one) */

enum host_status {
	HOST_IDLE, HOST_RUNNING,
	HOST_ENDED,                 /* the programs are over; their processes wait to be looked at */
	HOST_DESTROYED,             /* a process died: the program took away what executes it */
	HOST_DEADLINE, HOST_CANCELLED,
	HOST_REFUSED                /* could not begin: head.error */
};
enum host_outcome { HOST_DONE, HOST_STOPPED, HOST_FAILED };
enum host_switch { HOST_STAY, HOST_JOIN, HOST_FRESH };
/* What a run is counted in, beside ops; the first six are system calls by kind. */
enum host_counter { HOST_C_mmap, HOST_C_munmap, HOST_C_mprotect, HOST_C_brk, HOST_C_madvise, HOST_C_fork,
	HOST_C_syscalls, HOST_C_pgfault, HOST_C_segv, HOST_C_sigbus, HOST_C_unexpected, HOST_NCOUNTER };

typedef struct {
	uint64_t pages;
	int64_t fd;
} host_file_t;

typedef struct {
	uint32_t status, error;
	/* set by the launcher before it starts */
	uint32_t cpus;
	uint32_t blocks;
	uint32_t threaded;          /* the CPUs are threads of one process, which begin together when `go` is set */
	uint32_t exact;             /* count the faults of each record, which costs two system calls each */
	uint32_t nfiles;
	uint64_t size;              /* of the mapping */
	uint64_t records, results, faults;          /* offsets */
	uint64_t deadline_ns;       /* monotonic */
	uint64_t image_begin, image_end;            /* of the module: the executor's code and constants */
	/* run control */
	_Alignas(64) uint32_t stop;
	uint32_t go;
	_Alignas(64) uint32_t ready;
	uint32_t finished;
	_Alignas(64) uint32_t barrier_count;
	uint32_t barrier_gen;
	_Alignas(64) uint64_t turn;
	uint32_t turn_wake;
	_Alignas(64) uint64_t clock_since;
	uint64_t clock_ns;
	/* who executes: block `running`; on its way elsewhere, the process there dies and the zygote starts the next */
	_Alignas(64) uint32_t running;
	uint32_t switch_how, switch_to;
	int32_t zygote;
	/* of the process that died, if one did */
	uint32_t dead_block;
	int32_t dead_signal, dead_exit;
	host_file_t file[HOST_FILES];
} host_head_t;

typedef struct {
	/* the program of the CPU with this number */
	_Alignas(64) uint64_t ops;  /* written by the CPU alone, while the launcher looks */
	uint64_t reg[SHMM_REGS];
	uint64_t pc, at, rng, first, len;           /* at: the record that is being executed, pc may be on its way */
	uint64_t counter[HOST_NCOUNTER];
	uint64_t begun_ns, ended_ns, faults_before;
	uint64_t failed_pc;         /* + 1 */
	int64_t failed_result, failed_expect;
	uint32_t task, countdown, outcome;
	int32_t core;               /* pinned to it, or -1 */
	uint32_t doing;
	uint8_t loaded;
	/* the process that runs address space number, or the thread of the CPU: whoever uses this block's stacks */
	_Alignas(64) int32_t pid;
	uint32_t fetching;
	uint32_t leaves;            /* its process ends because it was told to */
	uint32_t wake;
	int64_t failure;
	uint64_t fetch_at, fetch_stack;
} host_block_t;

_Static_assert(sizeof(host_head_t) <= HOST_BLOCK, "the head has the place of one block");
_Static_assert(sizeof(host_block_t) <= 4096, "a state has a page");

static inline host_head_t *host_head(void) { return (host_head_t *)HOST_AREA; }

static inline host_block_t *host_block(uint32_t number)
{
	return (host_block_t *)(HOST_AREA + HOST_BLOCK * (1 + (uint64_t)number));
}

static inline uint32_t host_number(const host_block_t *b)
{
	return (uint32_t)(((uint64_t)b - HOST_AREA) / HOST_BLOCK - 1);
}

static inline void *host_stack_top(host_block_t *b) { return (char *)b + HOST_BLOCK; }

#define host_get(p)         __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define host_put(p, x)      __atomic_store_n(p, x, __ATOMIC_RELEASE)
#define host_peek(p)        __atomic_load_n(p, __ATOMIC_RELAXED)
#define host_note(p, x)     __atomic_store_n(p, x, __ATOMIC_RELAXED)
#define host_add(p, x)      __atomic_fetch_add(p, x, __ATOMIC_ACQ_REL)

#endif
