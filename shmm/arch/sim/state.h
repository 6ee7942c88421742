/* The state of a simulated machine: its figures, its CPUs, its clock.
 *
 * Time is a count of picoseconds in 64 bits (half a year): an integer, so that the same run gives the same document on
 * every machine and every Python, and fine enough that a hit of 0.8 ns is not rounded away.
 *
 * One simulation per process: the state is one static variable, its hottest fields first.
 */
#ifndef SHMM_SIM_STATE_H
#define SHMM_SIM_STATE_H

#include "../fiber.h"

typedef uint64_t ps_t;                          /* virtual time, picoseconds */

enum { SIM_CPUS = 1024, SIM_WATCH = 4, SIM_GATHER = 8192, SIM_SOCKETS = 16 };
#define SIM_NEVER (~0ull)
#define SIM_CALL __attribute__((noinline)) static
/* On the way to a switch of fibers: a return that comes after one, to where another fiber was called from, is predicted
 * wrong, so the fewer the better. */
#define SIM_INLINE static inline __attribute__((always_inline))

/* What things cost on the machine, ps (cluster/machines says what each means).  Beyond its figures: channel, how long a
 * node's memory is busy with one page; lookahead, less than which hits may run ahead of the others; jitter, by how much
 * lumps of work vary up and down, in 1/1024. */
#define SIM_COSTS(X) \
	X(hit) X(rmw) X(fence) X(smt) X(cluster) X(socket) X(remote) X(memory) X(memory_remote) X(reader) X(retention) X(clear) X(copy) \
	X(channel) X(exception) X(trap) X(syscall) X(ipi_send) X(ipi_deliver) X(ipi_handle) X(sleep_block) X(sleep_wake) \
	X(sleep_resume) X(pause) X(lookahead) X(jitter)
typedef struct {
#define X(name) uint32_t name;
	SIM_COSTS(X)
#undef X
} sim_machine_t;

/* Where the time goes.  Work is what is left: a hit adds to the clock and to nothing else. */
enum sim_part {
	SIM_EXCEPTION, SIM_CLEAR, SIM_BANDWIDTH, SIM_IPI_SEND, SIM_IPI_WAIT, SIM_INTERRUPT, SIM_RETRY, SIM_SLEEP, SIM_IDLE,
	SIM_PARTS
};
/* Whose line: the structures of layout.h that CPUs can meet on. */
#define SIM_STRUCTURES(X) \
	X(other) X(mmap_lock) X(vma_tree) X(mm) X(page_table_lock) X(rss) X(notifier_lock) X(cpumask) X(vma) X(anon_vma) \
	X(file) X(cpu_state) X(mailbox) X(wake) X(spin_queue) X(rcu) X(zone) X(pool) X(lru) X(charge) X(barrier) X(ptl) X(page_table) \
	X(frame) X(user_page)
enum sim_structure {
#define X(name) SIM_S_##name,
	SIM_STRUCTURES(X)
#undef X
	SIM_NSTRUCTURE
};
typedef struct {
	ps_t part[SIM_PARTS];
	ps_t transfer[SIM_NSTRUCTURE];          /* lines that come from elsewhere, and the queue for them */
	ps_t wait[SIM_NSTRUCTURE];              /* locks, spinning or asleep */
} sim_stack_t;

enum { SIM_TRACKING = 1, SIM_NOT_NOW = 2 };      /* the lines that a spin loop looks at; this turn does not count */
enum sim_mode { SIM_READY, SIM_QUEUED, SIM_PARKED, SIM_SLEEPING, SIM_DONE };

typedef struct {
	fiber_t fiber;
	ps_t clock;                             /* while it does not run; the running one's is sim.clock */
	ps_t drain;                             /* when the stores in its buffer have all arrived */
	ps_t irq_at;                            /* an interrupt arrives then; SIM_NEVER: none on the way */
	ps_t since;                             /* blocked since, or accounted for until */
	ps_t *blocked_on;                       /* the part of the stack that grows while it is blocked */
	ps_t spin_until;                        /* a bounded spin ends */
	uint32_t hit, rmw, fence;               /* scaled by its slowdown */
	uint32_t slowdown;                      /* 1/1024 */
	uint16_t id, core, cluster, socket;
	uint8_t mode, irq_masked, tracking, nseen, writes;      /* QUEUED to write */
	uint32_t seen[SIM_WATCH];               /* lines that a spin loop's last turn looked at */
	uint32_t watch_next[SIM_WATCH];         /* in the line's list of watchers: cpu * SIM_WATCH + k + 1 */
	uint32_t line;                          /* QUEUED for this line, in a list through */
	uint32_t queue_next;                    /* cpu + 1 */
	uint32_t mailbox;                       /* the line of its mailbox */
	const a32 *futex;                       /* SLEEPING on this word, in its bucket's list through */
	uint32_t futex_next;                    /* cpu + 1 */
	uint32_t stuck_on;                      /* the structure of what it last waited for */
	uint32_t lock;                          /* the line of the lock that it last began to wait for */
	uint64_t rng;
	sim_stack_t stack;
	ps_t attempt_since;                     /* a speculation: when it began, and the stack then */
	sim_stack_t attempt;
} sim_cpu_t;

/* One line of memory in the directory. */
typedef struct {
	uint64_t busy : 63;                     /* time: nobody gets it before, but see line_free_at */
	uint64_t contended : 1;                 /* somebody has queued for it once */
	uint32_t owner;                         /* cpu + 1 alone, LINE_EXACT set if it is contended; LINE_SHARED | slot:
						 * these may read it; 0: memory has it */
	uint32_t crowd;                         /* who queues for it or watches it: a crowd_t, or 0 */
} line_t;
#define LINE_SHARED 0x80000000u
#define LINE_EXACT  0x40000000u

typedef struct { uint32_t head, tail, watchers, next; } crowd_t;

/* A page's contents, as far as a program's own bytes go (page.h). */
typedef struct {
	uint32_t owner;
	uint16_t offset;
	uint8_t value, kind;
} page_t;

/* What the engine asks of the rooms. */
typedef struct {
	void (*main)(uint32_t cpu);
	void (*interrupt)(uint32_t cpu);
	int (*irqs_on)(uint32_t cpu);
	int (*is_table)(uint32_t pfn);
	void (*snapshot)(int which);            /* 0: what is measured goes on, 1: it stands still */
} sim_rooms_t;

enum sim_status { SIM_RUNNING, SIM_FINISHED, SIM_STUCK, SIM_CUT_TIME, SIM_CUT_ACCESSES };
enum sim_phase { SIM_WARMING, SIM_MEASURING, SIM_MEASURED };

static struct {
	/* the running CPU's, hot */
	ps_t clock, limit;                      /* limit: until then a hit needs no second look; 0 while nothing runs */
	uintptr_t base;
	line_t *line;
	uint32_t tag;                           /* cpu + 1 */
	uint32_t hit;
	uint64_t accesses;
	sim_cpu_t *me;
	uint64_t *sharer;                       /* bitmaps of 1 << word_shift words each, by slot */
	uint32_t word_shift, id;

	uint64_t *tree;                         /* sim/tree.h */
	uint32_t leaves, ncpu;
	uint64_t *clusters;                     /* of each slot: where its sharers are */
	uint32_t nslot, free_slot, max_slot;
	uint32_t *slot_next;
	crowd_t *crowd;
	uint32_t ncrowd, free_crowd, max_crowd;
	uint32_t memory_line, frame_line, after_frames;         /* first lines of the contents, the frames, the rest */
	uint8_t *structure;                     /* of each line before the frames */
	page_t *page;
	uint64_t socket_clusters[SIM_SOCKETS];
	ps_t channel[SIM_SOCKETS];              /* until then a node's memory is busy */
	uint32_t bucket_head[256], bucket_tail[256];
	sim_machine_t cost;
	sim_rooms_t rooms;
	uint64_t rng;
	uint64_t size, memory_off, pages;       /* of the segment; its frames are divided among so many nodes */
	uint32_t nodes, swap_pages;             /* these lie behind the frames */
	a32 *stop;                              /* the run's stop word */

	/* measuring */
	ps_t warm, least, most;                 /* warm up and measure for so long at least; give up at most then */
	ps_t begun, since, lasted;              /* it began; it goes on since; it had gone on for so long before */
	uint64_t round_pc, rounds, first_round, least_rounds;
	uint64_t pause_at, most_accesses, switches;
	uint64_t accesses_begun, accesses_ended;
	void *host_sp;
	int phase, status, on, out_of_memory, clocked, counting;
	uint32_t live;
	sim_cpu_t cpu[SIM_CPUS];
} sim;

static inline uint32_t sim_random(uint64_t *state, uint32_t below)
{
	uint64_t x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return (uint32_t)((x * 0x2545f4914f6cdd1dull >> 32) * below >> 32);
}

static inline uint32_t sim_scaled(const sim_cpu_t *cpu, uint32_t ps)
{
	return (uint32_t)((uint64_t)ps * cpu->slowdown >> 10);
}

/* A lump of work of the running CPU: a part of its time stack, never twice quite the same length.
 * Why: equal lumps lock the CPUs' phases, and then every access to a shared line meets another. */
static inline void sim_lump(enum sim_part part, uint32_t ps)
{
	sim_cpu_t *me = sim.me;
	uint32_t j = sim.cost.jitter;
	uint64_t time = sim_scaled(me, ps);

	time = time * (1024 - j + (j ? sim_random(&me->rng, 2 * j + 1) : 0)) >> 10;
	sim.clock += time;
	me->stack.part[part] += time;
}
#endif
