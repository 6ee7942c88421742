/* Who is next: a winner tree over the CPUs.
 *
 * A leaf holds a CPU's key, its time and its number in one word, so that ties have an order and a comparison is one
 * instruction; SIM_NEVER for the running CPU and for those that only another can wake.  Each inner node holds the lesser
 * of its two, the root the next to run.  A CPU is in the tree once at most: no sequence number is needed beside it.
 * Why not a heap: the path is short, fixed and without branches. */
#ifndef SHMM_SIM_TREE_H
#define SHMM_SIM_TREE_H

#include "state.h"

static inline uint64_t sim_key(ps_t time, uint32_t cpu) { return time << 10 | cpu; }
static inline ps_t key_time(uint64_t key) { return key >> 10; }
static inline uint32_t key_cpu(uint64_t key) { return key & (SIM_CPUS - 1); }

static inline void tree_set(uint32_t cpu, uint64_t key)
{
	uint64_t *tree = sim.tree;
	uint32_t i = sim.leaves + cpu;

	tree[i] = key;
	while (i > 1) {
		uint64_t other = tree[i ^ 1];

		key = key < other ? key : other;
		i >>= 1;
		if (tree[i] == key)
			return;                 /* nothing changes further up */
		tree[i] = key;
	}
}

static inline uint64_t tree_first(void) { return sim.tree[1]; }
static inline uint64_t tree_key(uint32_t cpu) { return sim.tree[sim.leaves + cpu]; }
#endif
