/* What is counted, per CPU (cpu_t.counter): one list, from which come the enum, the names and the reports.
 * Names are those of /proc/vmstat, and of the series' CONFIG_SPECULATIVE_PAGE_FAULT_STATS (v2 31/35). */
#ifndef SHMM_COUNTERS_H
#define SHMM_COUNTERS_H

#define SHMM_COUNTERS(X) \
	X(ops)                          /* what the workload counts */                                    \
	X(pgfault)                      /* handle_mm_fault entries: an abort past entry counts twice */   \
	X(user_faults)                  /* exceptions from user mode: once per fault */                   \
	X(faults_classic)               /* faults that took the mmap lock */                              \
	X(gup_faults)                   /* taken by the kernel to populate; min_flt counts them too */       \
	X(faults_segv) X(faults_sigbus) X(faults_oom)                                                     \
	X(stack_growths)                /* faults that made a VMA grow downwards */                        \
	X(spf_attempt) X(spf_abort) X(spf_success)                                                        \
	X(SPF_ABORT_ODD) X(SPF_ABORT_UNMAPPED) X(SPF_ABORT_NO_SPECULATE) X(SPF_ABORT_VMA_COPY)            \
	X(SPF_ABORT_ACCESS_ERROR) X(SPF_ABORT_PUD) X(SPF_ABORT_PMD) X(SPF_ABORT_ANON_VMA)                 \
	X(SPF_ABORT_PTE_MAP_LOCK_SEQ1) X(SPF_ABORT_PTE_MAP_LOCK_PMD) X(SPF_ABORT_PTE_MAP_LOCK_PTL)        \
	X(SPF_ABORT_PTE_MAP_LOCK_SEQ2) X(SPF_ABORT_USERFAULTFD) X(SPF_ABORT_FAULT) X(SPF_ABORT_SWAP)      \
	X(SPF_ATTEMPT_ANON) X(SPF_ATTEMPT_NUMA) X(SPF_ATTEMPT_PTE) X(SPF_ATTEMPT_WP)                      \
	X(syscalls) X(mmap) X(munmap) X(mprotect) X(brk) X(madvise) X(fork)                               \
	X(mremap)                                                                                         \
	X(truncate) X(truncate_raced)   /* calls; faults whose page was truncated before they could map it */ \
	X(ptes_moved) X(pmds_moved)     /* by mremap: one at a time, and tables whole */                  \
	X(probe_speculated)             /* look-ups of a VMA that took no lock */                         \
	X(probe_locked)                 /* and those that took the mmap lock */                           \
	X(pgalloc) X(pgfree)            /* frames taken and given back, tables included */                \
	X(nr_page_table_pages)          /* tables allocated minus freed */                                \
	X(pgreuse)                      /* write-protect faults that kept their page */                   \
	X(pgcopy)                       /* and those that copied it */                                    \
	X(pgmajfault)                   /* faults that read from swap */                                  \
	X(pswpin) X(pswpout)            /* pages read from swap, and written */                           \
	X(numa_pte_updates)             /* ptes that were made hints for NUMA balancing */                \
	X(numa_hint_faults) X(numa_hint_faults_local)                                                     \
	X(numa_pages_migrated) X(pgmigrate_success) X(pgmigrate_fail)                                     \
	X(thp_fault_alloc)              /* faults that mapped a huge page */                              \
	X(thp_fault_fallback)           /* and those that wanted one and found none */                    \
	X(thp_collapse_alloc) X(thp_collapse_alloc_failed)                                                \
	X(thp_split_pmd)                /* huge pmds that became tables */                                \
	X(nr_anon_transparent_hugepages) /* huge pmds, those of all address spaces */                     \
	X(gup_fast) X(gup_slow)         /* pages pinned without a lock, and under mmap_lock */            \
	X(userfaultfd)                  /* its system calls */                                            \
	X(userfaults)                   /* faults that the program was asked to answer */                 \
	X(zone_refill) X(zone_drain) X(lru_drain) X(charge_refill)                                        \
	X(tlb_hit) X(tlb_hit_l2) X(tlb_miss)                                                              \
	X(nr_tlb_local_flush_one) X(nr_tlb_local_flush_all)                                               \
	X(nr_tlb_remote_flush)          /* shootdowns sent to at least one other CPU */                   \
	X(nr_tlb_remote_flush_received)                                                                   \
	X(shootdown_waits)              /* targets that had interrupts off and were waited for */         \
	X(rwsem_read_fast) X(rwsem_read_slow) X(rwsem_read_sleep)                                         \
	X(rwsem_write_fast) X(rwsem_write_slow) X(rwsem_write_spin) X(rwsem_write_sleep) X(rwsem_handoff) \
	X(ptl_contended) X(spinlock_queued)     /* waits in line for a spinlock */                        \
	X(notifier_trylock_failed)      /* speculative copies given up for it: nameless in the series */  \
	X(mmu_notifier_register)        /* clients that registered */                                     \
	X(mmu_notifier_invalidate)      /* ranges that a registered client was told of */                 \
	X(secondary_hit)                /* accesses of a secondary MMU through a translation it had */    \
	X(secondary_fill) X(secondary_retry)    /* translations it made, or not: one was being taken away */ \
	X(secondary_stale)              /* broken promises (I7) */                                        \
	X(rt_lock_sleep)                /* waits for a spinlock that sleep, with PREEMPT_RT */            \
	X(rt_atomic_sleep)              /* spinlocks waited for with interrupts off, with PREEMPT_RT (I8) */ \
	X(rcu_grace_periods) X(rcu_callbacks) X(rcu_backpressure)                                         \
	X(reader_beside_writer)         /* readers of mmap_lock that found a writer inside (--paranoid) */ \
	X(violations)                   /* invariants found broken while running (--paranoid) */          \
	X(unexpected)                   /* operations whose result was not the expected one */

enum shmm_counter {
#define X(name) SHMM_C_##name,
	SHMM_COUNTERS(X)
#undef X
	SHMM_NCOUNTER
};
#endif
