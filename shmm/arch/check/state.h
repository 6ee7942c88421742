/* What the checker knows: its CPUs, its undo log, what it found.
 *
 * Idea: exploring schedules means to come back to the same moment again and again.  Everything that a run changes is
 * either in live_t, which is small and copied whole at a checkpoint, or in memory whose old words go to the undo log
 * before they change (the segment, the shadow, views), or on a fiber's stack, which is copied too.  So a run is not
 * begun anew for each schedule: only what follows the last choice is executed again.
 *
 * The hash of the segment is kept up to date word by word, so that a state that was verified once is recognised (64
 * bits; two different states could be taken for one with a probability of about n*n / 2^65 for n states).
 */
#ifndef SHMM_CHECK_STATE_H
#define SHMM_CHECK_STATE_H

#include <stdlib.h>
#include <string.h>
#include "../fiber.h"

enum {
	CHECK_CPUS = 4,
	CHECK_HELD = 8,                 /* locks of one CPU */
	CHECK_WATCH = 16,               /* words that a spin loop looks at */
	CHECK_GATHER = 24,              /* frames of one mmu_gather */
	CHECK_OPS = 32,                 /* records of all programs */
	CHECK_BUFFER = 24,              /* stores of one store buffer */
	CHECK_LOCATIONS = 2048,         /* words with a history, memory model weak */
	CHECK_STACK = 12 * 1024,        /* bytes of a suspended fiber */
	CHECK_FRAMES = 96,              /* open choices of the depth-first search */
	CHECK_DEVIATIONS = 1 << 14,
	CHECK_UNDO = 1 << 21,
	CHECK_SEEN = 1 << 17,
	CHECK_TRACE = 1 << 16,
};

enum check_model { CHECK_SC, CHECK_TSO, CHECK_WEAK };
enum check_status { CHECK_READY, CHECK_SPINS, CHECK_SLEEPS, CHECK_DONE };

/* Why a fiber came back to the explorer. */
enum check_event {
	CHECK_CHOICE, CHECK_READ, CHECK_BLOCKED, CHECK_REST, CHECK_HANDLED, CHECK_ENDED, CHECK_VIOLATION,
};

/* Who can be given a turn: bit e of a mask.  A CPU, the drain of its store buffer, its interrupt, its timer. */
enum { CHECK_DRAIN = 4, CHECK_INTERRUPT = 8, CHECK_TIMER = 12, CHECK_ENTITIES = 16, CHECK_OLD_VALUE = 16 };

typedef struct { const char *file, *function; int line; } shmm_site_t;
typedef uint64_t vclock_t;              /* four clocks of 16 bits, CPU 0 lowest */

/* Two words for each 4 bytes of the segment.  Of a plain cell: who read and wrote it last, and when.  Of an atomic
 * cell: what its last store publishes. */
typedef struct {
	vclock_t clock;                 /* plain: the readers' clocks; atomic: released with the value */
	uint64_t write;                 /* plain: the writer's clock << 8 | cpu + 1; 0: nobody yet */
} shadow_t;

typedef struct { uint32_t offset; uint32_t rank; } held_t;
typedef struct { uint32_t offset, size; uint64_t value; vclock_t clock; } buffered_t;
typedef struct { uint32_t n; buffered_t store[CHECK_BUFFER]; } buffer_t;

typedef struct {
	void *sp;
	uint32_t stamp;                 /* changes whenever the fiber runs: whose copy of the stack is still good */
	uint32_t steps;                 /* accesses so far */
	uint8_t status, timed, pending, deliver;
	uint8_t tracking, nwatch, nheld, coarse;
	uint32_t stores;                /* words changed */
	uint32_t others;                /* the others' stores when the loop's turn began */
	uint32_t futex;                 /* offset of the word it sleeps on */
	uint64_t timeout, clock_ns;
	vclock_t now, acquired, released;
	const shmm_site_t *waits_at;
	held_t held[CHECK_HELD];
	uint32_t watch[CHECK_WATCH];
	uint32_t watch_size[CHECK_WATCH];
	uint64_t watched[CHECK_WATCH];
	uint32_t gather[CHECK_GATHER];
} check_cpu_t;

typedef struct {
	uint64_t hash;
	uint32_t undo, deviations, messages, arena;
	uint32_t cost;
	uint32_t current;
	uint32_t busy;                  /* CPUs inside an operation */
	uint32_t returned;              /* operations that have ended */
	uint32_t preceding[CHECK_OPS];  /* which had ended when this one began */
	uint32_t drained[CHECK_CPUS];   /* tso: stores that have left the buffer, */
	uint32_t last_store[CHECK_OPS]; /* and how many must have for the operation's to be visible */
	check_cpu_t cpu[CHECK_CPUS];    /* the last member: only those that exist are copied */
} live_t;

typedef struct { uint64_t *word, old; } undo_t;
typedef struct { uint32_t step; uint8_t cpu, entity, argument; } deviation_t;

typedef struct {
	uint32_t alternatives;          /* not tried yet: entities, or old values */
	uint32_t costly, free;          /* those that use up the bound; all that do not */
	uint32_t stays;                 /* afterwards the CPU goes on by itself */
	uint32_t reads, usual;          /* the choice is which value a load returns */
	uint32_t stamp[CHECK_CPUS], bytes[CHECK_CPUS];
	live_t live;
	buffer_t buffer[CHECK_CPUS];
	uint8_t stack[CHECK_CPUS][CHECK_STACK];
} frame_choice_t;

typedef struct {
	uint64_t value, old;
	uint32_t step, offset;
	const shmm_site_t *site;
	uint8_t cpu, kind, size;
} trace_t;

/* What the engine's own .pyx knows and this does not: the layout and the rooms. */
typedef struct {
	void (*main)(uint32_t cpu);             /* the CPU's program, on its fiber */
	void (*interrupt)(uint32_t cpu);        /* the CPU takes an interrupt */
	int  (*irqs_on)(uint32_t cpu);
	uint32_t (*rank)(uint32_t offset);      /* of a lock; bit 8: a spinlock, bit 9: none may be inside it or around */
	int  (*verify)(int finished);           /* a state at rest: 0 or a violation has been said */
} check_rooms_t;

static struct {
	int on;                         /* accesses are choices, checked, logged */
	int slow;                       /* see check_slow */
	int running;                    /* on a fiber, not on the explorer's stack */
	int model, mutant, tracing;
	int serial;                     /* only whole operations take turns, at no cost */
	uint32_t fuel;                  /* accesses until the explorer wants to be asked */
	check_cpu_t *me;
	uint32_t id, lane;              /* its number, and where its clock is in a vclock_t: */
	vclock_t mine;                  /* these bits */
	uint8_t *base;
	uint32_t memory;                /* where the frames' contents begin */
	uint32_t ncpu, page_cells;      /* page_cells: shadow index of the first frame's cell */
	shadow_t *shadow;
	uint16_t *poisoned;             /* per 64 bytes: a bit for each 4 */
	uint64_t *maybe;                /* bit per word of the frames' contents: may be other than 0 */
	undo_t *undo;
	const shmm_site_t *site;
	uint64_t before;                /* the word of a read-modify-write, as it was */
	void *explorer;                 /* the stack of whoever explores */
	int event;
	uint32_t answer, usual;         /* how far back a load goes: what is asked, what is decided, what is usual */
	uint32_t stamp, limit;
	check_rooms_t rooms;
	fiber_t fiber[CHECK_CPUS];
	buffer_t buffer[CHECK_CPUS];    /* tso */
	deviation_t *deviation;
	trace_t *trace;
	uint32_t ntrace;
	struct { char invariant[24], what[200]; uint32_t cpu, offset; const shmm_site_t *site; int found; } violation;
	live_t live, first;
} chk = { .slow = 1 };

static uint32_t check_steps(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < chk.ncpu; i++)
		n += chk.live.cpu[i].steps;
	return n;
}

/* Whether an access must look at more than the common case; to be called when any of these changes. */
static inline void check_slow(void)
{
	chk.slow = !chk.on || chk.tracing || chk.model != CHECK_SC || chk.me->tracking;
}

static inline void check_save(uint64_t *word)
{
	chk.undo[chk.live.undo++] = (undo_t){ word, *word };
}

static void check_undo_to(uint32_t mark)
{
	for (uint32_t i = chk.live.undo; i-- > mark; )
		*chk.undo[i].word = chk.undo[i].old;
	chk.live.undo = mark;
}

static inline uint64_t check_mix(uint64_t place, uint64_t value)
{
	uint64_t x = (value ^ place * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
	return x ^ x >> 29;
}

/* Notes that a word of the segment changes, or just has. */
static inline void check_changed(uint64_t *word, uint64_t old, uint64_t new)
{
	uint32_t place = (uint32_t)((uint8_t *)word - chk.base) >> 3;

	chk.undo[chk.live.undo++] = (undo_t){ word, old };
	chk.live.hash ^= check_mix(place, old) ^ check_mix(place, new);
	chk.me->stores++;
	if (place >= chk.memory >> 3)
		chk.maybe[(place - (chk.memory >> 3)) >> 6] |= 1ull << (place & 63);
}

static inline void check_write_word(uint64_t *word, uint64_t new)
{
	uint64_t old = *word;

	if (old == new)
		return;
	check_changed(word, old, new);
	*word = new;
}

static inline uint64_t check_merge(uint64_t word, uint32_t offset, uint32_t size, uint64_t value)
{
	uint32_t shift = (offset & 7) * 8;
	uint64_t mask = size == 8 ? ~0ull : ((1ull << size * 8) - 1) << shift;

	return (word & ~mask) | (value << shift & mask);
}

static inline uint64_t check_peek(uint32_t offset, uint32_t size)
{
	uint64_t word = *(uint64_t *)(chk.base + (offset & ~7u)) >> (offset & 7) * 8;

	return size == 8 ? word : word & ((1ull << size * 8) - 1);
}

static inline void check_poke(uint32_t offset, uint32_t size, uint64_t value)
{
	uint64_t *word = (uint64_t *)(chk.base + (offset & ~7u));

	check_write_word(word, check_merge(*word, offset, size, value));
}

/* Back to the explorer, until it switches back. */
static void check_stop(int event)
{
	chk.event = event;
	shmm_fiber_switch(&chk.me->sp, chk.explorer);
}

/* The run is over: what is wrong, and where.  Never returns on a fiber. */
static void check_violate(const char *invariant, const char *what, uint32_t offset)
{
	if (!chk.violation.found) {
		chk.violation.found = 1;
		strncpy(chk.violation.invariant, invariant, sizeof(chk.violation.invariant) - 1);
		strncpy(chk.violation.what, what, sizeof(chk.violation.what) - 1);
		chk.violation.cpu = chk.id;
		chk.violation.offset = offset;
		chk.violation.site = chk.site;
	}
	if (chk.running)
		check_stop(CHECK_VIOLATION);
}

static inline void check_trace(int kind, uint32_t offset, uint32_t size, uint64_t old, uint64_t value)
{
	if (chk.tracing && chk.ntrace < CHECK_TRACE)
		chk.trace[chk.ntrace++] = (trace_t){ value, old, check_steps(), offset, chk.site, (uint8_t)chk.id,
						     (uint8_t)kind, (uint8_t)size };
}
#endif
