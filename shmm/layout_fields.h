/* Every shared struct's fields with their C offsets, for the NumPy dtypes (layout.py). A field that is missing
 * here, or here and gone from layout.h, fails to compile or fails tests/test_layout.py. */
#ifndef SHMM_LAYOUT_FIELDS_H
#define SHMM_LAYOUT_FIELDS_H

#include "layout.h"

typedef struct {
	const char *structure, *name;
	size_t offset, size, item;       /* item: the size of one element, 0 for a structure */
	int is_signed;
	const char *nested;          /* the structure it holds, or 0 */
} shmm_field_t;

#define FIELD(s, f) { #s, #f, offsetof(s, f), sizeof(((s *)0)->f), \
	_Generic(((s *)0)->f, a32: 4, p32: 4, uint32_t: 4, a64: 8, p64: 8, uint64_t: 8, int64_t: 8, uint16_t: 2, \
		 uint8_t: 1, uint8_t *: 1, a32 *: 4, p32 *: 4, a64 *: 8, p64 *: 8, default: 0), \
	_Generic(((s *)0)->f, int64_t: 1, default: 0), \
	_Generic(((s *)0)->f, rwsem_t: "rwsem_t", percpu_rwsem_t: "percpu_rwsem_t", pool_t: "pool_t", \
		 spinlock_t: "spinlock_t", node_t *: "node_t", tlb_entry_t *: "tlb_entry_t", notifier_t: "notifier_t", \
		 default: (const char *)0) },

static const char *const shmm_counter_names[] = {
#define X(name) #name,
	SHMM_COUNTERS(X)
#undef X
};

static const char *const shmm_op_names[] = {
#define X(name) #name,
	SHMM_OPS(X)
#undef X
};

static const struct { const char *name; size_t size; } shmm_structs[] = {
#define STRUCTURE(s) { #s, sizeof(s) },
	STRUCTURE(spinlock_t) STRUCTURE(rwsem_t) STRUCTURE(percpu_rwsem_t) STRUCTURE(pool_t) STRUCTURE(node_t)
	STRUCTURE(tlb_entry_t) STRUCTURE(notifier_t)
	STRUCTURE(cpu_t) STRUCTURE(mm_t) STRUCTURE(vma_t) STRUCTURE(anon_vma_t) STRUCTURE(swap_slot_t)
	STRUCTURE(file_t) STRUCTURE(frame_t)
	STRUCTURE(seg_t) STRUCTURE(shmm_insn_t)
};
static const size_t shmm_nstructs = sizeof shmm_structs / sizeof shmm_structs[0];

static const shmm_field_t shmm_fields[] = {
	FIELD(spinlock_t, owner) FIELD(spinlock_t, tail)

	FIELD(rwsem_t, count) FIELD(rwsem_t, owner) FIELD(rwsem_t, wait_lock) FIELD(rwsem_t, wait_head)
	FIELD(rwsem_t, wait_tail)

	FIELD(percpu_rwsem_t, block) FIELD(percpu_rwsem_t, writer) FIELD(percpu_rwsem_t, slow)
	FIELD(percpu_rwsem_t, index)

	FIELD(pool_t, lock) FIELD(pool_t, head) FIELD(pool_t, free)

	FIELD(node_t, zone) FIELD(node_t, lru_lock) FIELD(node_t, lru_head) FIELD(node_t, lru_tail)
	FIELD(node_t, lru_pages)

	FIELD(tlb_entry_t, tag) FIELD(tlb_entry_t, pte)

	FIELD(notifier_t, lock) FIELD(notifier_t, subscriptions) FIELD(notifier_t, in_progress) FIELD(notifier_t, seq)
	FIELD(notifier_t, entry)

	FIELD(cpu_t, state) FIELD(cpu_t, mm) FIELD(cpu_t, doing) FIELD(cpu_t, doing_addr) FIELD(cpu_t, host_pid)
	FIELD(cpu_t, online) FIELD(cpu_t, ipi_req) FIELD(cpu_t, wake) FIELD(cpu_t, turn_wake)
	FIELD(cpu_t, waiter_type) FIELD(cpu_t, waiter_next) FIELD(cpu_t, uffd_wait) FIELD(cpu_t, uffd_next)
	FIELD(cpu_t, uffd_told) FIELD(cpu_t, uffd_reason) FIELD(cpu_t, uffd_addr) FIELD(cpu_t, queue_next)
	FIELD(cpu_t, queue_ready) FIELD(cpu_t, irq_depth) FIELD(cpu_t, rcu_depth) FIELD(cpu_t, pcp_head)
	FIELD(cpu_t, pcp_count) FIELD(cpu_t, vma_head) FIELD(cpu_t, vma_count) FIELD(cpu_t, lru_count)
	FIELD(cpu_t, charge_stock) FIELD(cpu_t, rss_anon) FIELD(cpu_t, rss_file) FIELD(cpu_t, rng)
	FIELD(cpu_t, tlb_gen) FIELD(cpu_t, tlb_victim) FIELD(cpu_t, poll_count) FIELD(cpu_t, lru_frame)
	FIELD(cpu_t, lru_gen) FIELD(cpu_t, asid_mm) FIELD(cpu_t, asid_gen) FIELD(cpu_t, asid_current)
	FIELD(cpu_t, asid_victim) FIELD(cpu_t, foreign_head) FIELD(cpu_t, foreign_count)
	FIELD(cpu_t, rcu_wait_head) FIELD(cpu_t, rcu_next_head) FIELD(cpu_t, rcu_target)
	FIELD(cpu_t, rcu_wait_count) FIELD(cpu_t, rcu_next_count) FIELD(cpu_t, rcu_snapshot) FIELD(cpu_t, rcu_done)
	FIELD(cpu_t, percpu_readers) FIELD(cpu_t, counter) FIELD(cpu_t, shootdown_hist) FIELD(cpu_t, failed_pc)
	FIELD(cpu_t, failed_result) FIELD(cpu_t, failed_expect) FIELD(cpu_t, rt_lock) FIELD(cpu_t, program_first)
	FIELD(cpu_t, program_len) FIELD(cpu_t, tlb_l1) FIELD(cpu_t, tlb_l2)

	FIELD(mm_t, mmap_lock) FIELD(mm_t, mmap_seq) FIELD(mm_t, vma_root) FIELD(mm_t, vma_first)
	FIELD(mm_t, vma_last) FIELD(mm_t, map_count) FIELD(mm_t, mmap_base) FIELD(mm_t, start_brk) FIELD(mm_t, brk)
	FIELD(mm_t, start_stack) FIELD(mm_t, total_vm) FIELD(mm_t, locked_vm) FIELD(mm_t, latch_seq)
	FIELD(mm_t, latch_root) FIELD(mm_t, pgd) FIELD(mm_t, users) FIELD(mm_t, in_use)
	FIELD(mm_t, page_table_lock) FIELD(mm_t, pmd_huge_pte) FIELD(mm_t, rss_anon) FIELD(mm_t, rss_file)
	FIELD(mm_t, pgtables) FIELD(mm_t, notifier_lock) FIELD(mm_t, uffd_lock) FIELD(mm_t, uffd_head)
	FIELD(mm_t, uffd_tail) FIELD(mm_t, uffd_events) FIELD(mm_t, cpumask) FIELD(mm_t, notifier)
	FIELD(mm_t, latch_changes) FIELD(mm_t, latch_link)

	FIELD(vma_t, start) FIELD(vma_t, end) FIELD(vma_t, left) FIELD(vma_t, right) FIELD(vma_t, flags)
	FIELD(vma_t, pgoff) FIELD(vma_t, file) FIELD(vma_t, anon_vma) FIELD(vma_t, latch_left)
	FIELD(vma_t, latch_right) FIELD(vma_t, parent) FIELD(vma_t, red) FIELD(vma_t, prev) FIELD(vma_t, next)
	FIELD(vma_t, subtree_gap) FIELD(vma_t, mm) FIELD(vma_t, rcu_next) FIELD(vma_t, freed)

	FIELD(anon_vma_t, refs) FIELD(anon_vma_t, next)

	FIELD(swap_slot_t, count) FIELD(swap_slot_t, next)

	FIELD(file_t, npages) FIELD(file_t, first) FIELD(file_t, refs) FIELD(file_t, shmem)

	FIELD(frame_t, refs) FIELD(frame_t, kind) FIELD(frame_t, gen) FIELD(frame_t, exclusive) FIELD(frame_t, ptl)
	FIELD(frame_t, next) FIELD(frame_t, lru_prev) FIELD(frame_t, lru_next) FIELD(frame_t, on_lru)
	FIELD(frame_t, level)

	FIELD(seg_t, magic) FIELD(seg_t, abi) FIELD(seg_t, size) FIELD(seg_t, version) FIELD(seg_t, ncpu)
	FIELD(seg_t, nmm) FIELD(seg_t, nvma) FIELD(seg_t, nanon) FIELD(seg_t, nfile) FIELD(seg_t, ncache)
	FIELD(seg_t, nframe) FIELD(seg_t, ninsn) FIELD(seg_t, nnode) FIELD(seg_t, nhuge) FIELD(seg_t, frame_end)
	FIELD(seg_t, cpu_off) FIELD(seg_t, mm_off) FIELD(seg_t, vma_off) FIELD(seg_t, anon_off)
	FIELD(seg_t, file_off) FIELD(seg_t, cache_off) FIELD(seg_t, frame_off) FIELD(seg_t, program_off)
	FIELD(seg_t, result_off) FIELD(seg_t, memory_off) FIELD(seg_t, swap_off) FIELD(seg_t, scheme)
	FIELD(seg_t, walk_policy) FIELD(seg_t, table_free_policy) FIELD(seg_t, ipi_policy)
	FIELD(seg_t, force_speculation) FIELD(seg_t, zeroing) FIELD(seg_t, paranoid) FIELD(seg_t, fault_around)
	FIELD(seg_t, shared_core) FIELD(seg_t, queued_spinlocks) FIELD(seg_t, thp) FIELD(seg_t, collapse_policy)
	FIELD(seg_t, fast_mremap) FIELD(seg_t, rcu_poll_every) FIELD(seg_t, stack_growth) FIELD(seg_t, thp_align)
	FIELD(seg_t, max_map_count) FIELD(seg_t, rlimit_as) FIELD(seg_t, rlimit_stack) FIELD(seg_t, totalram)
	FIELD(seg_t, mmu_notifier) FIELD(seg_t, preempt_rt) FIELD(seg_t, vma_free_policy) FIELD(seg_t, vma_tree)
	FIELD(seg_t, creator_pid) FIELD(seg_t, creator_start) FIELD(seg_t, nswap) FIELD(seg_t, cpu_node)
	FIELD(seg_t, stop) FIELD(seg_t, ready) FIELD(seg_t, finished) FIELD(seg_t, barrier_count)
	FIELD(seg_t, barrier_gen) FIELD(seg_t, barrier_parties) FIELD(seg_t, turn) FIELD(seg_t, clock_since)
	FIELD(seg_t, clock_ns) FIELD(seg_t, node) FIELD(seg_t, huge_pool) FIELD(seg_t, vma_pool)
	FIELD(seg_t, anon_pool) FIELD(seg_t, swap_pool) FIELD(seg_t, cache_lock) FIELD(seg_t, files_used)
	FIELD(seg_t, cache_used) FIELD(seg_t, charged) FIELD(seg_t, rcu_seq) FIELD(seg_t, rcu_lock)

	FIELD(shmm_insn_t, op) FIELD(shmm_insn_t, dst) FIELD(shmm_insn_t, base) FIELD(shmm_insn_t, len_reg)
	FIELD(shmm_insn_t, opf) FIELD(shmm_insn_t, reserved) FIELD(shmm_insn_t, prot) FIELD(shmm_insn_t, flags)
	FIELD(shmm_insn_t, addr) FIELD(shmm_insn_t, len) FIELD(shmm_insn_t, count) FIELD(shmm_insn_t, value)
	FIELD(shmm_insn_t, expect) FIELD(shmm_insn_t, aux)
};

static const size_t shmm_nfields = sizeof shmm_fields / sizeof shmm_fields[0];
#endif
