/* What lies in shared memory: this file alone defines it.
 *
 *     +-----------+ 0            seg_t: magic, ABI hash, geometry, policies, run control, nodes, pools, RCU
 *     | seg_t     |
 *     +-----------+ cpu_off      cpu_t[ncpu]     one per emulated CPU: state word, mailbox, TLB, counters
 *     | cpus      |
 *     +-----------+ mm_off       mm_t[nmm]       address spaces: mmap_lock, mmap_seq, tree root, pgd
 *     | mms       |
 *     +-----------+ vma_off      vma_t[nvma]     type-stable: a slot never becomes anything but a VMA
 *     | vmas      |
 *     +-----------+ anon_off     anon_vma_t[nanon]
 *     | anon_vmas |
 *     +-----------+ file_off     file_t[nfile]   the page cache's files, and
 *     | files     | cache_off    a32[ncache]     its slots: the frame of each file page, or 0
 *     |           | swap_off     swap_slot_t[nswap]   the swap area's slots: who refers to them
 *     +-----------+ frame_off    frame_t[nframe] what the kernel keeps in struct page
 *     | frames    |
 *     +-----------+ program_off  shmm_insn_t[ninsn]: the CPUs' programs (program.h), and
 *     | programs  | result_off   a64[ninsn]: what each record resulted in when it last ran
 *     +-----------+ memory_off   the frames' contents, 4 KiB each; page tables live here too
 *     | memory    |
 *     +-----------+              the contents of swap slots, 4 KiB each: page nframe + slot of the memory
 *     | swap      |
 *     +-----------+ size
 *
 * Everything refers to everything by index, never by pointer: 0 is "none" for every kind of index, so slot 0
 * of each array is never used (frame 0 is the zero page, which is mapped but never allocated).
 * A group of fields has one writer or one lock, said above it, and its own cache lines.
 *
 * Invariants.  Each is a function in mm/invariants.pxd; they hold whenever no CPU is inside an operation.
 *   I1  VMAs of one mm do not overlap, the list and the tree hold the same VMAs in address order, the tree is
 *       a red-black tree (equal black heights, no red child of a red node) and each subtree gap is the largest
 *       gap below its node.  A latched tree's second copy has the links of the first.
 *   I2  A present PTE maps a frame that is in use, inside a VMA of its mm that allows what the PTE allows, and
 *       a frame's reference count is the number of PTEs and page-cache slots that hold it.
 *   I3  A TLB entry that a CPU uses translates to a frame that has not been freed since the entry was filled:
 *       no translation outlives the munmap that returned.  (Looked at when it is used, under --paranoid; a breach
 *       is counted in `violations`.)
 *       A huge pmd lies in one VMA, anonymous and private; it is one reference on its huge page, and each PTE that
 *       maps a part of a huge page is one; they are counted in the head frame.  An mm has deposited as many tables
 *       as it has huge pmds.
 *   I4  Frames are conserved: in use + free = all; what is in use is a page, a page table or page cache, and
 *       after the last exit nothing is in use that was not before.  A free frame is in exactly one list, and
 *       free lists and LRU lists hold frames of their node only.  An anon_vma's count is the number of VMAs
 *       that point to it.  A swap slot's count is the number of swap entries in tables that name it, and a slot
 *       that none names is in the free list.
 *   I5  Counters add up: speculative attempts = successes + aborts, aborts = the sum of the named aborts (plus the
 *       failed mmu_notifier_trylocks, which have no name in the series), frames allocated - freed = frames in use.
 *   I6  mmap_seq is even, every lock is free and nobody in line for one when no operation runs; interrupts are on.
 *       Nobody has mmap_lock for reading beside a writer (looked at under --paranoid, `reader_beside_writer`).
 *   I7  A translation that a secondary MMU uses maps the frame that the page table maps there, and allows no more
 *       (looked at when it is used, under --paranoid, too; counted in `secondary_stale`); no invalidation is under way.
 *   I8  With PREEMPT_RT no sleeping lock is waited for with interrupts off (counted in `rt_atomic_sleep`).
 */
#ifndef SHMM_LAYOUT_H
#define SHMM_LAYOUT_H

#include "arch.h"
#include "counters.h"
#include "machine.h"
#include "program.h"
#include "words.h"

#define SHMM_MAGIC        0x314d4d4853ull          /* "SHMM1" */
#define SHMM_VERSION      1u

/* ---- parts ---------------------------------------------------------------------------------------------*/

/* mm/spinlock.pxd: cpu + 1 of the owner, and of the last in line (cpu_t.queue_next); 0: none.  Any CPU. */
typedef struct { a32 owner, tail; } spinlock_t;

/* mm/rwsem.pxd.  count: bit 0 writer, bit 1 waiters, bit 2 handoff, readers from bit 8. */
typedef struct {
	a64 count;                                 /* any CPU */
	a32 owner;                                 /* writer's cpu + 1, 0 when read-held or free */
	spinlock_t wait_lock;                      /* over the queue of cpu_t.waiter */
	p32 wait_head, wait_tail;                  /* under wait_lock: cpu + 1 */
} rwsem_t;

/* mm/percpu_rwsem.pxd.  Readers count in cpu_t.percpu_readers[index]. */
typedef struct {
	a32 block;                                 /* a writer wants it or has it */
	spinlock_t writer;                         /* who writes; only tried, the others sleep */
	a32 slow;                                  /* readers must use a full barrier (rcu_sync not idle) */
	uint32_t index;
} percpu_rwsem_t;

/* mm/frame.pxd: a stock of frames or objects, linked by index. */
typedef struct {
	_Alignas(64) spinlock_t lock;
	p32 head;                                  /* under lock */
	a64 free;                                  /* written under lock, read as a hint */
} pool_t;

/* One memory node: the frames of one range (mm/frame.pxd), and the LRU list of those in use (mm/lru.pxd). */
typedef struct {
	pool_t zone;                               /* taken in batches */
	_Alignas(64) spinlock_t lru_lock;
	p32 lru_head, lru_tail;                    /* under lru_lock, as lru_pages */
	p64 lru_pages;
} node_t;

typedef struct {
	p64 tag;                                   /* generation << 36 | virtual page number; 0: empty */
	p64 pte;                                   /* the PTE; bits 52..62: the frame's generation (I3) */
} tlb_entry_t;

/* mm/notifier.pxd: the MMU notifier of one address space, and its client, a secondary MMU. */
typedef struct {
	_Alignas(64) spinlock_t lock;              /* the client's (KVM's mmu_lock) */
	a32 subscriptions;                         /* NOTIFIER_*; written under lock, to register under more */
	a32 in_progress;                           /* under lock: invalidations begun and not ended */
	p64 seq;                                   /* under lock: invalidations ended */
	_Alignas(64) tlb_entry_t entry[SHMM_SECONDARY_ENTRIES];        /* under lock: its translations */
} notifier_t;

/* ---- one CPU -------------------------------------------------------------------------------------------*/
typedef struct {
	/* owner writes, anyone reads */
	_Alignas(64) a64 state;                    /* see SHMM_IRQ_OFF */
	a32 mm;                                    /* the mm this CPU runs */
	a32 doing;                                 /* opcode in progress, for whoever finds this CPU dead */
	a64 doing_addr;
	a32 host_pid;
	a32 online;

	/* anyone writes: the IPI mailbox */
	_Alignas(64) a64 ipi_req;

	/* another CPU's waker writes: where this CPU sleeps */
	_Alignas(64) a32 wake;                     /* futex: rwsem grant */
	a32 turn_wake;                             /* futex: replay's turn */
	p32 waiter_type;                           /* under the rwsem's wait_lock */
	p32 waiter_next;                           /* under the rwsem's wait_lock: cpu + 1 */

	/* under mm_t.uffd_lock: its message in the queue of those who wait for userfaultfd; uffd_wait: a futex, 1: it does */
	_Alignas(64) a32 uffd_wait;
	p32 uffd_next, uffd_told, uffd_reason;     /* cpu + 1; has been read; VM_UFFD_* */
	p64 uffd_addr;
	/* neighbours in line for a spinlock write, the owner clears: who stands behind (cpu + 1), and its turn */
	_Alignas(64) a32 queue_next; a32 queue_ready;
	/* owner only, from here to the RCU snapshot */
	_Alignas(64) p32 irq_depth;
	p32 rcu_depth;
	p32 pcp_head, pcp_count;                   /* per-CPU frame list, of this CPU's node */
	p32 vma_head, vma_count;                   /* per-CPU VMA cache */
	p32 lru_count;
	p32 charge_stock;                          /* memcg charge already taken, in pages */
	p64 rss_anon, rss_file;                    /* signed: not yet in the mm's totals */
	p64 rng;
	p64 tlb_gen;                               /* last generation given out */
	p32 tlb_victim;
	p32 poll_count;
	p32 lru_frame[SHMM_LRU_BATCH + 1];         /* frames waiting for the LRU list, and */
	p32 lru_gen[SHMM_LRU_BATCH + 1];           /* their generations when they were added */
	p32 asid_mm[SHMM_ASIDS + 2];               /* mm + 1, 0: free slot */
	p64 asid_gen[SHMM_ASIDS];
	p32 asid_current, asid_victim;
	p32 foreign_head, foreign_count;           /* free frames of one other node */

	/* owner only: RCU callbacks, two lists linked through rcu_next: waiting for rcu_target, and newer */
	_Alignas(64) p32 rcu_wait_head;
	p32 rcu_next_head;
	p64 rcu_target;
	p32 rcu_wait_count, rcu_next_count;
	/* under seg_t.rcu_lock */
	_Alignas(64) p64 rcu_snapshot;             /* the state word when the grace period began */
	p32 rcu_done;

	_Alignas(64) a32 percpu_readers[SHMM_MAX_MM];

	/* owner writes with relaxed stores, anyone reads */
	_Alignas(128) a64 counter[SHMM_NCOUNTER];
	_Alignas(64) a32 shootdown_hist[SHMM_HIST_BUCKETS];    /* ns from first post to last acknowledgement */
	_Alignas(64) a64 failed_pc;                /* first unexpected result: its program counter + 1, */
	a64 failed_result, failed_expect;          /* what came and what was expected */
	a64 rt_lock;                               /* offset of the first lock that broke I8 */
	p64 program_first, program_len;            /* its records in the program region; set before the start */

	/* owner only, interrupts off */
	_Alignas(64) tlb_entry_t tlb_l1[SHMM_TLB_L1_SETS * SHMM_TLB_L1_WAYS];
	tlb_entry_t tlb_l2[SHMM_TLB_L2_SETS * SHMM_TLB_L2_WAYS];
} cpu_t;

/* ---- one address space ---------------------------------------------------------------------------------*/
typedef struct {
	/* any CPU: the line that classical faults fight over.  mmap_seq sits beside the lock as in the patch */
	_Alignas(64) rwsem_t mmap_lock;
	a64 mmap_seq;                              /* odd: a writer is at work.  Written under mmap_lock */

	/* written under mmap_lock for write; root is read locklessly */
	_Alignas(64) a32 vma_root;
	p32 vma_first, vma_last;                   /* ends of the address-ordered list */
	p32 map_count;
	p64 mmap_base;
	p64 start_brk, brk;
	p64 start_stack;                           /* an address in the first stack, 0: none */
	p64 total_vm;                              /* pages */
	p64 locked_vm;
	a32 latch_seq;                             /* odd: read the second tree (mm/latch_tree.pxd) */
	a32 latch_root;

	/* written at init and exit */
	_Alignas(64) p32 pgd;                      /* frame of the top table */
	a32 users;                                 /* CPUs that run it; spf is off while this is 1 */
	p32 in_use;

	_Alignas(64) spinlock_t page_table_lock;   /* installs of upper tables, huge pmds, anon_vma_prepare */
	p32 pmd_huge_pte;                          /* under page_table_lock: deposited tables, linked by `next` */

	_Alignas(64) a64 rss_anon;                 /* batched adds */
	a64 rss_file;
	a64 pgtables;                              /* table pages */

	_Alignas(64) percpu_rwsem_t notifier_lock; /* mmu_notifier_lock of v2 23/35 */

	_Alignas(64) spinlock_t uffd_lock;         /* mm/userfaultfd.pxd */
	p32 uffd_head, uffd_tail;                  /* under uffd_lock: cpu + 1 */
	a32 uffd_events;                           /* futex: how many messages there ever were */

	_Alignas(64) a64 cpumask[SHMM_MAX_CPU / 64];   /* CPUs whose TLB may hold it */

	notifier_t notifier;
	/* under mmap_lock for write: links of the first tree that the second does not have yet */
	p32 latch_changes;
	p32 latch_link[SHMM_LATCH_LINKS];
} mm_t;

/* ---- one VMA -------------------------------------------------------------------------------------------*/
typedef struct {
	/* written under mmap_lock for write with relaxed stores, read locklessly by a speculator */
	_Alignas(64) a64 start;
	a64 end;               /* poisoned when freed */
	a32 left, right;                           /* kept when freed: a descent may still pass through */
	a64 flags;
	a64 pgoff;
	a32 file;                                  /* 0: anonymous */
	a32 anon_vma;                              /* set once under mmap_lock for read + page_table_lock */
	a32 latch_left, latch_right;               /* as left and right, in the second tree */

	/* under mmap_lock for write */
	_Alignas(64) p32 parent;
	p32 red;
	p32 prev, next;
	p64 subtree_gap;                           /* the largest gap before any VMA of this subtree */
	p32 mm;
	p32 rcu_next;                              /* never overlaid on left and right */
	p32 freed;
} vma_t;

typedef struct {
	a32 refs;                                  /* VMAs that point here */
	p32 next;                                  /* free list, under seg_t.anon_pool.lock */
} anon_vma_t;

/* mm/swapfile.pxd: a page of the swap area. */
typedef struct {
	p32 count, next;                           /* under seg_t.swap_pool.lock: swap entries; free list */
} swap_slot_t;

/* ---- the page-cache stand-in -----------------------------------------------------------------------------*/
typedef struct {
	a64 npages;                                /* set when the file is made */
	p64 first;                                 /* its slots: cache[first .. first + npages) */
	a32 refs;
	p32 shmem;                                 /* anonymous shared memory, not a file */
} file_t;

/* ---- one frame: what struct page holds -------------------------------------------------------------------*/
typedef struct {
	_Alignas(64) a32 refs;
	a32 kind;                                  /* SHMM_FRAME_* */
	a32 gen;                                   /* freed how often (I3) */
	a32 exclusive;                             /* an anonymous page that only one mm can map */
	spinlock_t ptl;                            /* a table's lock; type-stable with the frame */
	p32 next;                                  /* free, RCU, gather or deposit list: one at a time */
	p32 lru_prev, lru_next;                    /* under its node's lru_lock */
	p32 on_lru;                                /* under its node's lru_lock */
	p32 level;                                 /* a table's level: 4 pgd .. 1 pte */
} frame_t;
enum { SHMM_FRAME_FREE = 0, SHMM_FRAME_ANON, SHMM_FRAME_FILE, SHMM_FRAME_TABLE, SHMM_FRAME_ZERO };

/* ---- the segment's head ------------------------------------------------------------------------------------*/
typedef struct {
	/* written before any CPU starts, constant afterwards: read without the door */
	uint64_t magic, abi, size;
	uint32_t version, ncpu, nmm, nvma, nanon, nfile, ncache, nframe, ninsn, nnode;
	uint32_t nhuge, frame_end;                 /* huge pages, behind nframe others; where they end (huge_frame.pxd) */
	uint64_t cpu_off, mm_off, vma_off, anon_off, file_off, cache_off, frame_off;
	uint64_t program_off, result_off, memory_off, swap_off;
	uint32_t scheme, walk_policy, table_free_policy, ipi_policy;
	uint32_t force_speculation, zeroing, paranoid, fault_around;     /* fault_around: pages, 1 is off */
	uint32_t shared_core, queued_spinlocks;    /* more CPUs than cores; see mm/spinlock.pxd */
	uint32_t thp, collapse_policy;
	uint32_t fast_mremap;                      /* SHMM_FAST_MREMAP_*: mm/move_page_tables.pxd */
	uint32_t rcu_poll_every;                   /* of so many polls for RCU, one looks at every CPU's state */
	uint32_t stack_growth;                     /* VMAs with VM_GROWSDOWN grow, with a guard gap below (mm/stack.pxd) */
	uint32_t thp_align;                        /* mappings of whole 2 MiB begin at a boundary (mm/find_vma.pxd) */
	uint32_t max_map_count;                    /* vm.max_map_count */
	uint32_t rlimit_as, rlimit_stack;          /* RLIMIT_AS (0: none) and RLIMIT_STACK, in pages */
	uint32_t totalram;                         /* pages that one request may ask for (OVERCOMMIT_GUESS); 0: any */
	uint32_t mmu_notifier, preempt_rt;         /* CONFIG_MMU_NOTIFIER; CONFIG_PREEMPT_RT */
	uint32_t vma_free_policy, vma_tree;
	uint32_t creator_pid;
	uint64_t creator_start;
	uint32_t nswap;                            /* slots of the swap area, 0: there is none */
	uint8_t cpu_node[SHMM_MAX_CPU];            /* of memory; of a frame: frame_node (mm/frame.pxd) */

	/* run control: written by the launcher and at barriers */
	_Alignas(64) a32 stop;                     /* polled by every loop of a program */
	a32 ready, finished;                       /* CPUs at the gate, and those whose program ended */
	_Alignas(64) a32 barrier_count;
	a32 barrier_gen, barrier_parties;          /* the first a futex */
	_Alignas(64) a64 turn;                     /* replay: the event whose turn it is */
	_Alignas(64) a64 clock_since; a64 clock_ns; /* CLOCK: runs since (now_ns; 0: stands still), had run for */

	node_t node[SHMM_MAX_NODE];
	pool_t huge_pool;                          /* heads of free huge pages */
	pool_t vma_pool;                           /* taken in batches */
	pool_t anon_pool;
	pool_t swap_pool;                          /* mm/swapfile.pxd */
	_Alignas(64) spinlock_t cache_lock;        /* gives files their slots */
	p32 files_used;
	p64 cache_used;
	_Alignas(64) a64 charged;                  /* memcg usage, pages, stocks included */

	_Alignas(64) a64 rcu_seq;                  /* odd: a grace period is in progress */
	spinlock_t rcu_lock;                       /* who drives it; only tried */
} seg_t;

/* ---- what one executor carries with it: constants only, private, not in shared memory --------------------- */
typedef struct {
	seg_t *g;
	cpu_t *me;
	cpu_t *cpus;
	mm_t *mms;
	vma_t *vmas;
	anon_vma_t *anons;
	file_t *files;
	a32 *cache;
	swap_slot_t *slots;
	frame_t *frames;
	const shmm_insn_t *program;
	a64 *result;
	uint8_t *memory;
	uint32_t *gather;                          /* scratch of one mmu_gather */
	uint32_t gather_size;
	uint32_t id, node;
	uint32_t soft_irq;                         /* the signal delivery is in force */
	uint32_t alone;                            /* nobody runs beside it: it must not sleep for another CPU */
} vcpu_t;

_Static_assert(sizeof(vma_t) == 128, "a VMA is two lines: what a speculator reads, and the rest");
_Static_assert(sizeof(frame_t) == 64, "one line per frame, as struct page");
_Static_assert(offsetof(mm_t, mmap_seq) < 64, "mmap_seq shares the mmap_lock's line, as in the patch");
_Static_assert(offsetof(cpu_t, ipi_req) % 64 == 0, "the mailbox has its own line");
_Static_assert(sizeof(cpu_t) % 128 == 0, "CPUs do not share lines, nor adjacent-line prefetches");
_Static_assert(sizeof(node_t) == 128, "a node is two lines: its zone, and its LRU list");
_Static_assert(sizeof(tlb_entry_t) == 16, "four TLB ways are one line");

/* ---- from a base address to the parts ---------------------------------------------------------------------*/
static inline void vcpu_bind(vcpu_t *c, void *base, uint32_t id, uint32_t *gather, uint32_t gather_size)
{
	uint8_t *b = (uint8_t *)base;
	seg_t *g = (seg_t *)base;

	c->g = g;
	c->cpus = (cpu_t *)(b + g->cpu_off);
	c->me = c->cpus + id;
	c->mms = (mm_t *)(b + g->mm_off);
	c->vmas = (vma_t *)(b + g->vma_off);
	c->anons = (anon_vma_t *)(b + g->anon_off);
	c->files = (file_t *)(b + g->file_off);
	c->cache = (a32 *)(b + g->cache_off);
	c->slots = (swap_slot_t *)(b + g->swap_off);
	c->frames = (frame_t *)(b + g->frame_off);
	c->program = (const shmm_insn_t *)(b + g->program_off);
	c->result = (a64 *)(b + g->result_off);
	c->memory = b + g->memory_off;
	c->gather = gather;
	c->gather_size = gather_size;
	c->id = id;
	c->node = g->cpu_node[id];
	c->alone = 0;
	c->soft_irq = g->ipi_policy == SHMM_IPI_SIGNAL;
}

/* Said to be improbable, so that what only several nodes need stays out of the code that one node executes. */
#define several_nodes(c) __builtin_expect_with_probability((c)->g->nnode > 1, 0, 1.0)
#endif
