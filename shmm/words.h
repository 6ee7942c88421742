/* What single words in shared memory say: policies, a CPU's state, its mailbox.  Where they lie is in layout.h. */
#ifndef SHMM_WORDS_H
#define SHMM_WORDS_H

/* Values of the policy fields of seg_t. */
enum { SHMM_SCHEME_MMAP_LOCK = 0, SHMM_SCHEME_SPF = 1 };
enum { SHMM_WALK_IRQ = 0, SHMM_WALK_RCU = 1 };                /* speculative_page_walk_begin */
enum { SHMM_TABLE_FREE_IPI = 0, SHMM_TABLE_FREE_RCU = 1 };    /* MMU_GATHER_RCU_TABLE_FREE */
enum { SHMM_IPI_MAILBOX = 0, SHMM_IPI_SIGNAL = 1 };
enum { SHMM_VMA_FREE_AUTO = 0, SHMM_VMA_FREE_RCU = 1 };       /* auto: at once while an mm has a single user */
enum { SHMM_VMA_TREE_RBTREE = 0, SHMM_VMA_TREE_LATCHED = 1 };
enum { SHMM_THP_NEVER = 0, SHMM_THP_MADVISE = 1, SHMM_THP_ALWAYS = 2 };
enum { SHMM_COLLAPSE_WRITE = 0, SHMM_COLLAPSE_READ = 1 };     /* how a collapse holds mmap_lock */
enum { SHMM_FAST_MREMAP_SINGLE = 0, SHMM_FAST_MREMAP_OFF = 1, SHMM_FAST_MREMAP_LOCKED = 2 };   /* mremap, whole pmds */

/* The state word of a CPU (cpu_t.state), written by its owner only:
 *
 *   63          32 31           8 7..3   2        1       0
 *   +-------------+--------------+----+--------+------+-------+
 *   | irq-off     | kernel       |    | ASLEEP |KERNEL|IRQ_OFF|
 *   | sections    | entries      |    |        |      |       |
 *   +-------------+--------------+----+--------+------+-------+
 *
 * The counts let an observer see that a section it once saw has ended, even if another began. */
#define SHMM_IRQ_OFF      1ull
#define SHMM_KERNEL       2ull
#define SHMM_ASLEEP       4ull
#define SHMM_ENTRY_ONE    (1ull << 8)
#define SHMM_ENTRY_MASK   0xffffff00ull
#define SHMM_SECTION_ONE  (1ull << 32)

/* A mailbox word (cpu_t.ipi_req): one TLB range, or everything.  0 is empty.
 *
 *   63      62..48   47..12        11..2    1..0
 *   +-----+--------+-------------+--------+------+
 *   |  1  | mm     | first page  | pages  |  0   |
 *   +-----+--------+-------------+--------+------+   pages == 0: the whole mm
 */
#define SHMM_IPI_VALID    (1ull << 63)
#define SHMM_IPI_ALL      (~0ull)
#define SHMM_IPI_MAX_PAGES 33u                     /* tlb_single_page_flush_ceiling */
#endif
