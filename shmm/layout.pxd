"""What lies in shared memory, as the rooms see it.  layout.h alone defines and explains it."""

from shmm.arch.arch cimport a32, a64, p32, p64, u8, u32, u64, i64

cdef extern from "layout.h" nogil:
    const u64 SHMM_MAGIC
    const u64 SHMM_VERSION
    const u64 SHMM_PAGE_SHIFT, SHMM_PAGE_SIZE
    const u64 SHMM_PMD_SHIFT
    const u64 SHMM_PTRS_PER
    const u64 SHMM_TASK_SIZE
    const u64 SHMM_MMAP_BASE, SHMM_MMAP_MIN
    const u64 SHMM_BRK_BASE, SHMM_LEGACY_BASE, SHMM_32BIT_BASE, SHMM_32BIT_END
    const u64 SHMM_PTE_PRESENT, SHMM_PTE_WRITE, SHMM_PTE_USER, SHMM_PTE_ACCESSED, SHMM_PTE_DIRTY, SHMM_PTE_PROTNONE
    const u64 SHMM_PTE_SPECIAL, SHMM_PTE_UFFD_WP, SHMM_PTE_NX, SHMM_PTE_PFN, SHMM_PTE_PSE, SHMM_HPAGE_SIZE
    const u64 SHMM_MAX_CPU, SHMM_MAX_MM, SHMM_MAX_NODE, SHMM_MAX_HUGE, SHMM_MAX_MAP_COUNT
    const u64 SHMM_STACK_GUARD_GAP, SHMM_RLIMIT_STACK
    const u64 SHMM_TLB_L1_SETS, SHMM_TLB_L1_WAYS, SHMM_TLB_L2_SETS, SHMM_TLB_L2_WAYS
    const u64 SHMM_ASIDS
    const u64 SHMM_PCP_BATCH, SHMM_PCP_HIGH
    const u64 SHMM_LRU_BATCH
    const u64 SHMM_SWAP_CLUSTER_MAX
    const u64 SHMM_RSS_BATCH
    const u64 SHMM_CHARGE_BATCH
    const u64 SHMM_VMA_BATCH
    const u64 SHMM_SECONDARY_ENTRIES, SHMM_LATCH_LINKS
    const u64 SHMM_HIST_BUCKETS
    const u64 SHMM_VM_READ, SHMM_VM_WRITE, SHMM_VM_EXEC, SHMM_VM_SHARED, SHMM_VM_MAYREAD, SHMM_VM_MAYWRITE
    const u64 SHMM_VM_MAYEXEC, SHMM_VM_MAYSHARE, SHMM_VM_GROWSDOWN, SHMM_VM_LOCKED, SHMM_VM_SEQ_READ
    const u64 SHMM_VM_RAND_READ, SHMM_VM_DONTCOPY, SHMM_VM_NORESERVE, SHMM_VM_DONTDUMP, SHMM_VM_HUGEPAGE
    const u64 SHMM_VM_NOHUGEPAGE, SHMM_VM_PFNMAP, SHMM_VM_IO, SHMM_VM_DONTEXPAND, SHMM_VM_ACCOUNT, SHMM_VM_WIPEONFORK
    const u64 SHMM_VM_MIXEDMAP, SHMM_VM_SPECIAL, SHMM_VM_FORKED, SHMM_VM_UFFD_MISSING, SHMM_VM_UFFD_WP
    const u64 SHMM_VMA_POISON
    const u64 SHMM_SIGBUS
    const u64 SHMM_STOPPED
    const u64 SHMM_IRQ_OFF
    const u64 SHMM_KERNEL
    const u64 SHMM_ASLEEP
    const u64 SHMM_ENTRY_ONE, SHMM_ENTRY_MASK
    const u64 SHMM_SECTION_ONE
    const u64 SHMM_IPI_VALID, SHMM_IPI_ALL, SHMM_IPI_MAX_PAGES
    const u32 SHMM_SCHEME_MMAP_LOCK, SHMM_SCHEME_SPF
    const u32 SHMM_WALK_IRQ, SHMM_WALK_RCU
    const u32 SHMM_TABLE_FREE_IPI, SHMM_TABLE_FREE_RCU
    const u32 SHMM_FAST_MREMAP_SINGLE, SHMM_FAST_MREMAP_OFF, SHMM_FAST_MREMAP_LOCKED
    const u32 SHMM_IPI_MAILBOX, SHMM_IPI_SIGNAL
    const u32 SHMM_VMA_FREE_AUTO, SHMM_VMA_FREE_RCU
    const u32 SHMM_VMA_TREE_RBTREE, SHMM_VMA_TREE_LATCHED
    const u32 SHMM_THP_NEVER, SHMM_THP_MADVISE, SHMM_THP_ALWAYS, SHMM_COLLAPSE_WRITE, SHMM_COLLAPSE_READ
    const u32 SHMM_FRAME_FREE, SHMM_FRAME_ANON, SHMM_FRAME_FILE, SHMM_FRAME_TABLE, SHMM_FRAME_ZERO
    ctypedef struct spinlock_t:
        a32 owner, tail
    ctypedef struct rwsem_t:
        a64 count
        a32 owner
        spinlock_t wait_lock
        p32 wait_head
        p32 wait_tail
    ctypedef struct percpu_rwsem_t:
        a32 block
        spinlock_t writer
        a32 slow
        u32 index
    ctypedef struct pool_t:
        spinlock_t lock
        p32 head
        a64 free
    ctypedef struct node_t:
        pool_t zone
        spinlock_t lru_lock
        p32 lru_head, lru_tail
        p64 lru_pages
    ctypedef struct tlb_entry_t:
        p64 tag
        p64 pte
    ctypedef struct notifier_t:
        spinlock_t lock
        a32 subscriptions, in_progress
        p64 seq
        tlb_entry_t entry[1]
    ctypedef struct cpu_t:
        a64 state
        a32 mm
        a32 doing
        a64 doing_addr
        a32 host_pid
        a32 online
        a64 ipi_req
        a32 wake
        a32 turn_wake
        p32 waiter_type
        p32 waiter_next
        a32 uffd_wait
        p32 uffd_next, uffd_told, uffd_reason
        p64 uffd_addr
        a32 queue_next, queue_ready
        p32 irq_depth
        p32 rcu_depth
        p32 pcp_head
        p32 pcp_count
        p32 vma_head
        p32 vma_count
        p32 lru_count
        p32 charge_stock
        p64 rss_anon
        p64 rss_file
        p64 rng
        p64 tlb_gen
        p32 tlb_victim
        p32 poll_count
        p32 lru_frame[1]
        p32 lru_gen[1]
        p32 asid_mm[1]
        p64 asid_gen[1]
        p32 asid_current
        p32 asid_victim
        p32 foreign_head, foreign_count
        p32 rcu_wait_head
        p32 rcu_next_head
        p64 rcu_target
        p32 rcu_wait_count
        p32 rcu_next_count
        p64 rcu_snapshot
        p32 rcu_done
        a32 percpu_readers[1]
        a64 counter[1]
        a32 shootdown_hist[1]
        a64 failed_pc
        a64 failed_result
        a64 failed_expect
        a64 rt_lock
        p64 program_first
        p64 program_len
        tlb_entry_t tlb_l1[1]
        tlb_entry_t tlb_l2[1]
    ctypedef struct mm_t:
        rwsem_t mmap_lock
        a64 mmap_seq
        a32 vma_root
        p32 vma_first
        p32 vma_last
        p32 map_count
        p64 mmap_base
        p64 start_brk
        p64 brk
        p64 start_stack
        p64 total_vm
        p64 locked_vm
        a32 latch_seq, latch_root
        p32 pgd
        a32 users
        p32 in_use
        spinlock_t page_table_lock
        p32 pmd_huge_pte
        a64 rss_anon
        a64 rss_file
        a64 pgtables
        percpu_rwsem_t notifier_lock
        spinlock_t uffd_lock
        p32 uffd_head, uffd_tail
        a32 uffd_events
        a64 cpumask[1]
        notifier_t notifier
        p32 latch_changes
        p32 latch_link[1]
    ctypedef struct vma_t:
        a64 start
        a64 end
        a32 left
        a32 right
        a64 flags
        a64 pgoff
        a32 file
        a32 anon_vma
        a32 latch_left, latch_right
        p32 parent
        p32 red
        p32 prev
        p32 next
        p64 subtree_gap
        p32 mm
        p32 rcu_next
        p32 freed
        p32 i_mmap_prev, i_mmap_next, in_i_mmap
    ctypedef struct anon_vma_t:
        a32 refs
        p32 next
    ctypedef struct swap_slot_t:
        p32 count, next
    ctypedef struct file_t:
        a64 npages
        p64 first
        a32 refs
        p32 shmem
        a64 slots
        p64 size
        spinlock_t i_mmap_lock
        p32 i_mmap
    ctypedef struct frame_t:
        a32 refs
        a32 kind
        a32 gen
        a32 exclusive
        spinlock_t ptl
        p32 next
        p32 lru_prev
        p32 lru_next
        p32 on_lru
        p32 level
    ctypedef struct seg_t:
        u64 magic
        u64 abi
        u64 size
        u32 version
        u32 ncpu
        u32 nmm
        u32 nvma
        u32 nanon
        u32 nfile
        u32 ncache
        u32 nframe
        u32 ninsn, nnode, nhuge, frame_end
        u64 cpu_off
        u64 mm_off
        u64 vma_off
        u64 anon_off
        u64 file_off
        u64 cache_off
        u64 frame_off
        u64 program_off
        u64 result_off
        u64 memory_off, swap_off
        u32 scheme
        u32 walk_policy
        u32 table_free_policy
        u32 ipi_policy
        u32 force_speculation
        u32 zeroing
        u32 paranoid
        u32 fault_around
        u32 shared_core, queued_spinlocks
        u32 thp, collapse_policy, fast_mremap, rcu_poll_every
        u32 stack_growth, thp_align, max_map_count, rlimit_as, rlimit_stack, totalram
        u32 mmu_notifier, preempt_rt, vma_free_policy, vma_tree
        u32 creator_pid
        u64 creator_start
        u32 nswap
        u8 cpu_node[1]
        a32 stop, ready, finished
        a32 barrier_count, barrier_gen, barrier_parties
        a64 turn
        a64 clock_since, clock_ns
        node_t node[1]
        pool_t huge_pool
        pool_t vma_pool
        pool_t anon_pool
        pool_t swap_pool
        spinlock_t cache_lock
        p32 files_used
        p64 cache_used
        a64 charged
        a64 rcu_seq
        spinlock_t rcu_lock
    ctypedef struct shmm_insn_t:
        unsigned short op
        u8 dst, base, len_reg, opf
        unsigned short reserved
        u32 prot, flags
        u64 addr, len, count
        i64 value, expect
        u64 aux
    ctypedef struct vcpu_t:
        seg_t *g
        cpu_t *me
        cpu_t *cpus
        mm_t *mms
        vma_t *vmas
        anon_vma_t *anons
        file_t *files
        a32 *cache
        swap_slot_t *slots
        frame_t *frames
        const shmm_insn_t *program
        a64 *result
        u8 *memory
        u32 *gather
        u32 gather_size
        u32 soft_irq, alone
        u32 id, node
    bint several_nodes(const vcpu_t*) noexcept
    void vcpu_bind(vcpu_t*, void* base, u32 id, u32* gather, u32 gather_size) noexcept

cdef extern from "program.h" nogil:
    const u32 SHMM_REGS
    const u32 SHMM_OPF_EXPECT, SHMM_OPF_MAY_FAIL, SHMM_OPF_WRITE, SHMM_OPF_COUNT
    const u32 SHMM_OP_END, SHMM_OP_NOP, SHMM_OP_MMAP, SHMM_OP_MUNMAP, SHMM_OP_MPROTECT, SHMM_OP_MADVISE, SHMM_OP_BRK
    const u32 SHMM_OP_MREMAP, SHMM_OP_TRUNCATE, SHMM_OP_NUMA, SHMM_OP_GUP, SHMM_OP_USERFAULT, SHMM_OP_UFFDIO
    const u32 SHMM_OP_NOTIFIER, SHMM_OP_SECONDARY
    const u32 SHMM_UFFDIO_READ, SHMM_UFFDIO_POLL, SHMM_UFFDIO_COPY, SHMM_UFFDIO_ZEROPAGE, SHMM_UFFDIO_WRITEPROTECT
    const u32 SHMM_UFFDIO_UNPROTECT, SHMM_UFFDIO_WAKE
    const u32 SHMM_OP_PROBE, SHMM_OP_CLOCK, SHMM_OP_LOAD, SHMM_OP_STORE, SHMM_OP_FETCH, SHMM_OP_TOUCH, SHMM_OP_LEA
    const u32 SHMM_OP_RAND, SHMM_OP_JMP, SHMM_OP_DJNZ, SHMM_OP_BARRIER, SHMM_OP_OPS, SHMM_OP_TURN, SHMM_OP_NEXT
    const u32 SHMM_OP_MM, SHMM_OP_EXEC, SHMM_OP_FORK, SHMM_OP_EXIT

cdef extern from "layout.h" nogil:
    # counters: an index into cpu_t.counter
    const u32 SHMM_NCOUNTER
    const u32 SHMM_C_ops, SHMM_C_pgfault, SHMM_C_user_faults, SHMM_C_faults_classic, SHMM_C_faults_segv
    const u32 SHMM_C_gup_faults, SHMM_C_stack_growths
    const u32 SHMM_C_faults_sigbus, SHMM_C_faults_oom, SHMM_C_spf_attempt, SHMM_C_spf_abort, SHMM_C_spf_success
    const u32 SHMM_C_SPF_ABORT_ODD, SHMM_C_SPF_ABORT_UNMAPPED, SHMM_C_SPF_ABORT_NO_SPECULATE
    const u32 SHMM_C_SPF_ABORT_VMA_COPY, SHMM_C_SPF_ABORT_ACCESS_ERROR, SHMM_C_SPF_ABORT_PUD, SHMM_C_SPF_ABORT_PMD
    const u32 SHMM_C_SPF_ABORT_ANON_VMA, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_SEQ1, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PMD
    const u32 SHMM_C_SPF_ABORT_PTE_MAP_LOCK_PTL, SHMM_C_SPF_ABORT_PTE_MAP_LOCK_SEQ2, SHMM_C_SPF_ABORT_USERFAULTFD
    const u32 SHMM_C_SPF_ABORT_FAULT, SHMM_C_SPF_ABORT_SWAP, SHMM_C_SPF_ATTEMPT_ANON, SHMM_C_SPF_ATTEMPT_NUMA
    const u32 SHMM_C_SPF_ATTEMPT_PTE, SHMM_C_SPF_ATTEMPT_WP, SHMM_C_syscalls, SHMM_C_mmap, SHMM_C_munmap
    const u32 SHMM_C_mprotect, SHMM_C_brk, SHMM_C_madvise, SHMM_C_fork, SHMM_C_mremap
    const u32 SHMM_C_truncate, SHMM_C_truncate_raced
    const u32 SHMM_C_ptes_moved, SHMM_C_pmds_moved, SHMM_C_probe_speculated, SHMM_C_probe_locked
    const u32 SHMM_C_pgalloc, SHMM_C_pgfree, SHMM_C_nr_page_table_pages, SHMM_C_pgreuse, SHMM_C_pgcopy
    const u32 SHMM_C_thp_fault_alloc, SHMM_C_thp_fault_fallback, SHMM_C_thp_collapse_alloc
    const u32 SHMM_C_thp_collapse_alloc_failed, SHMM_C_thp_split_pmd, SHMM_C_nr_anon_transparent_hugepages
    const u32 SHMM_C_gup_fast, SHMM_C_gup_slow
    const u32 SHMM_C_zone_refill, SHMM_C_zone_drain, SHMM_C_lru_drain, SHMM_C_charge_refill, SHMM_C_tlb_hit
    const u32 SHMM_C_tlb_hit_l2, SHMM_C_tlb_miss, SHMM_C_nr_tlb_local_flush_one, SHMM_C_nr_tlb_local_flush_all
    const u32 SHMM_C_nr_tlb_remote_flush, SHMM_C_nr_tlb_remote_flush_received, SHMM_C_shootdown_waits
    const u32 SHMM_C_rwsem_read_fast, SHMM_C_rwsem_read_slow, SHMM_C_rwsem_read_sleep, SHMM_C_rwsem_write_fast
    const u32 SHMM_C_rwsem_write_slow, SHMM_C_rwsem_write_spin, SHMM_C_rwsem_write_sleep, SHMM_C_rwsem_handoff
    const u32 SHMM_C_ptl_contended, SHMM_C_spinlock_queued, SHMM_C_rcu_grace_periods, SHMM_C_rcu_callbacks
    const u32 SHMM_C_pgmajfault, SHMM_C_pswpin, SHMM_C_pswpout, SHMM_C_numa_pte_updates, SHMM_C_numa_hint_faults
    const u32 SHMM_C_numa_hint_faults_local, SHMM_C_numa_pages_migrated, SHMM_C_pgmigrate_success
    const u32 SHMM_C_pgmigrate_fail, SHMM_C_userfaultfd, SHMM_C_userfaults
    const u32 SHMM_C_rcu_backpressure, SHMM_C_violations, SHMM_C_unexpected
    const u32 SHMM_C_notifier_trylock_failed, SHMM_C_mmu_notifier_register, SHMM_C_mmu_notifier_invalidate
    const u32 SHMM_C_secondary_hit, SHMM_C_secondary_fill, SHMM_C_secondary_retry, SHMM_C_secondary_stale
    const u32 SHMM_C_reader_beside_writer, SHMM_C_rt_lock_sleep, SHMM_C_rt_atomic_sleep
