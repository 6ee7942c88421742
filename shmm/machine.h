/* The emulated machine and its kernel's limits: constants only.  What lies in shared memory is in layout.h. */
#ifndef SHMM_MACHINE_H
#define SHMM_MACHINE_H

/* ---- the emulated machine: x86-64 with 4-level tables -------------------------------------------------
 *
 *   47     39 38     30 29     21 20     12 11       0
 *   +--------+---------+---------+---------+----------+
 *   |  pgd   |   pud   |   pmd   |   pte   |  offset  |
 *   +--------+---------+---------+---------+----------+
 */
#define SHMM_PAGE_SHIFT   12
#define SHMM_PAGE_SIZE    (1ull << SHMM_PAGE_SHIFT)
#define SHMM_PMD_SHIFT    21
#define SHMM_HPAGE_SIZE   (1ull << SHMM_PMD_SHIFT)
#define SHMM_PTRS_PER     512u
#define SHMM_TASK_SIZE    0x7ffffffff000ull        /* first address a program cannot have */
#define SHMM_MMAP_BASE    0x7ffff7fff000ull        /* top-down search starts here, unless the mm says otherwise */
#define SHMM_MMAP_MIN     0x10000ull               /* vm.mmap_min_addr */
#define SHMM_BRK_BASE     0x555555559000ull
#define SHMM_LEGACY_BASE  0x2aaaaaaab000ull        /* a third of it: where a search from below starts */
#define SHMM_32BIT_BASE   0x40000000ull            /* and with MAP_32BIT, */
#define SHMM_32BIT_END    0x80000000ull            /* which ends here */

#define SHMM_PTE_PRESENT  0x001ull
#define SHMM_PTE_WRITE    0x002ull
#define SHMM_PTE_USER     0x004ull
#define SHMM_PTE_ACCESSED 0x020ull
#define SHMM_PTE_DIRTY    0x040ull
#define SHMM_PTE_PSE      0x080ull                 /* of a pmd entry: it maps 2 MiB itself, and points to no table */
#define SHMM_PTE_PROTNONE 0x100ull                 /* mapped, but no access: the MMU sees not-present */
#define SHMM_PTE_SPECIAL  0x200ull                 /* no reference is held on the frame: the zero page */
#define SHMM_PTE_UFFD_WP  0x400ull                 /* userfaultfd answers the next write; also in swap entries */
#define SHMM_PTE_NX       0x8000000000000000ull
#define SHMM_PTE_PFN      0x000ffffffffff000ull

/* ---- limits --------------------------------------------------------------------------------------------*/
#define SHMM_MAX_CPU      1024u
#define SHMM_MAX_MM       64u
#define SHMM_MAX_NODE     8u
#define SHMM_MAX_HUGE     4096u                    /* huge pages */
#define SHMM_MAX_MAP_COUNT 65530u                  /* vm.max_map_count */
#define SHMM_STACK_GUARD_GAP (256ull << SHMM_PAGE_SHIFT)  /* stack_guard_gap: kept free below what may grow down */
#define SHMM_RLIMIT_STACK 2048u                    /* pages: 8 MiB */
#define SHMM_TLB_L1_SETS  16u
#define SHMM_TLB_L1_WAYS  4u
#define SHMM_TLB_L2_SETS  128u
#define SHMM_TLB_L2_WAYS  4u
#define SHMM_ASIDS        6u                       /* address spaces a TLB remembers, as x86 Linux */
#define SHMM_PCP_BATCH    63u                      /* frames moved between a CPU's list and the zone at once */
#define SHMM_PCP_HIGH     378u
#define SHMM_LRU_BATCH    15u                      /* PAGEVEC_SIZE of 5.17 */
#define SHMM_SWAP_CLUSTER_MAX 32u                  /* frames released under one hold of an lru_lock */
#define SHMM_RSS_BATCH    64                       /* TASK_RSS_EVENTS_THRESH */
#define SHMM_CHARGE_BATCH 64u                      /* MEMCG_CHARGE_BATCH */
#define SHMM_VMA_BATCH    16u
#define SHMM_SECONDARY_ENTRIES 16u                 /* translations of a secondary MMU, direct-mapped */
#define SHMM_LATCH_LINKS  39u                      /* links that one insertion or removal changes, at most */
#define SHMM_HIST_BUCKETS 512u                     /* 64 powers of two, 8 steps each */

/* VMA flags: the kernel's values. */
#define SHMM_VM_READ      0x0001ull
#define SHMM_VM_WRITE     0x0002ull
#define SHMM_VM_EXEC      0x0004ull
#define SHMM_VM_SHARED    0x0008ull
#define SHMM_VM_MAYREAD   0x0010ull
#define SHMM_VM_MAYWRITE  0x0020ull
#define SHMM_VM_MAYEXEC   0x0040ull
#define SHMM_VM_MAYSHARE  0x0080ull
#define SHMM_VM_GROWSDOWN 0x0100ull
#define SHMM_VM_PFNMAP    0x0400ull
#define SHMM_VM_UFFD_MISSING 0x0200ull
#define SHMM_VM_UFFD_WP   0x1000ull
#define SHMM_VM_LOCKED    0x2000ull
#define SHMM_VM_IO        0x4000ull
#define SHMM_VM_SEQ_READ  0x8000ull
#define SHMM_VM_RAND_READ 0x10000ull
#define SHMM_VM_DONTCOPY  0x20000ull
#define SHMM_VM_DONTEXPAND 0x40000ull
#define SHMM_VM_ACCOUNT   0x100000ull
#define SHMM_VM_NORESERVE 0x200000ull
#define SHMM_VM_WIPEONFORK 0x2000000ull
#define SHMM_VM_DONTDUMP  0x4000000ull
#define SHMM_VM_MIXEDMAP  0x10000000ull
#define SHMM_VM_HUGEPAGE  0x20000000ull
#define SHMM_VM_NOHUGEPAGE 0x40000000ull

/* Never merged: what is not ordinary memory, or must keep its size ([vvar], [vdso]). */
#define SHMM_VM_SPECIAL   (SHMM_VM_IO | SHMM_VM_DONTEXPAND | SHMM_VM_PFNMAP | SHMM_VM_MIXEDMAP)
/* Ours, in a bit that no flag of the kernel has: the VMA got its anon_vma by fork, so that its list of anon_vmas is not
 * singular (mm/anon.pxd). */
#define SHMM_VM_FORKED    (1ull << 60)

#define SHMM_VMA_POISON   0xdead4ead00000000ull    /* start and end of a freed VMA */

/* An access that failed says so as a negative errno; SIGBUS has none of its own. */
#define SHMM_SIGBUS       1007
/* The run was stopped while an operation that may be given up (a barrier, a turn) was waiting. */
#define SHMM_STOPPED      1008
#endif
