/* Protections that the check engine can take away, one at a time, to see whether anybody notices.
 *
 *   X(name, group, what is missing)
 *
 * A room asks mutant(SHMM_M_name) where the protection stands; on every other engine the answer is a constant no and
 * the question leaves no instruction.  Groups: "spf" is what the speculative fault rests on, "order" a barrier or an
 * acquire or release, "flush" what keeps translations and freed memory apart, "lock" locks and the waiting for them,
 * "notifier" what keeps a secondary MMU in step, "spare" what others stand in for, so that nobody can notice (docs/checking.md says which, and why it stays).
 */
#ifndef SHMM_ARCH_MUTANTS_H
#define SHMM_ARCH_MUTANTS_H

#define SHMM_MUTANTS(X) \
	X(NONE, "", "nothing is missing") \
	X(ODD, "spf", "speculation starts although mmap_seq is odd") \
	X(VMA_COPY, "spare", "the copy of the VMA is used unchecked") \
	X(PROBE_CHECK, "spf", "a look-up without the lock does not look at mmap_seq again") \
	X(SEQ1, "spf", "pte_map_lock does not look at mmap_seq before it takes the lock") \
	X(SEQ2, "spf", "pte_map_lock does not look at mmap_seq under the lock") \
	X(SEQ_BOTH, "spf", "pte_map_lock does not look at mmap_seq at all") \
	X(SEQ_PARITY_ONLY, "spf", "a check sees only whether mmap_seq is even") \
	X(VMA_MEMCMP, "spf", "a check compares the VMA with the copy instead of mmap_seq with its start") \
	X(PTL_SPIN, "spf", "a speculator waits for the page-table lock with interrupts off") \
	X(PTL_LOOP, "spf", "a speculator tries the page-table lock until it has it, with interrupts off") \
	X(WALK_UNPROTECTED, "spf", "the speculative walk neither disables interrupts nor enters an RCU section") \
	X(DOWNGRADE_EVEN, "spf", "mmap_write_downgrade takes mmap_seq back to what it was before the writer") \
	X(DOWNGRADE_EARLY, "spf", "munmap downgrades before it has taken the VMAs out of the tree") \
	X(DOWNGRADE_BELOW_STACK, "spf", "munmap downgrades although a stack above may grow into what it tears down") \
	X(SEQ_SILENT, "spf", "a writer does not move mmap_seq") \
	X(PTE_NONE, "spf", "a fresh page is put in place without looking whether the pte is still empty") \
	X(PTE_SAME, "spf", "a copied page is put in place without looking whether the pte is still what was copied") \
	X(PMD_SAME, "thp", "pte_map_lock does not look at the pmd entry, nor again under the lock") \
	X(PMD_UNDER_PTL, "thp", "pte_map_lock looks at the pmd entry before it takes the lock, and not under it") \
	X(HUGE_PMD_NONE, "thp", "a huge page is put in place without looking whether the pmd entry is still empty") \
	X(SPLIT_REFS_LATE, "thp", "a split huge page gets its references after its table can be seen") \
	X(DEPOSIT_FREE_NOW, "thp", "a deposited table is free at once, without a grace period") \
	X(COLLAPSE_NO_FLUSH, "thp", "a collapse flushes and interrupts nobody after it has cleared the pmd entry") \
	X(COLLAPSE_TWICE, "thp", "a collapse under the read lock does not look whether another one was first") \
	X(GUP_IRQ_ON, "thp", "get_user_pages_fast walks with interrupts on") \
	X(GUP_NO_RECHECK, "spare", "get_user_pages_fast does not look at the entries again once it has the page") \
	X(VMA_FREE_NOW, "spf", "an unlinked VMA is free at once, without a grace period") \
	X(VMA_LINKS_REUSED, "spf", "waiting for its grace period, a VMA loses its child links") \
	X(TABLE_FREE_NOW, "spf", "a page table is free at once, before any flush or grace period") \
	X(PTL_FREED, "spf", "a page table's lock is free as soon as the table is unlinked") \
	X(MB_SENDER, "order", "no full barrier between a shootdown's requests and its look at the targets") \
	X(MB_TARGET, "order", "no full barrier between interrupts off and the look at the mailbox") \
	X(MB_GRACE, "order", "no full barrier between a grace period's beginning and its look at the CPUs") \
	X(MB_KERNEL, "order", "no full barrier at the entry to the kernel") \
	X(WMB_BEGIN, "order", "no write barrier after mmap_seq turns odd") \
	X(WMB_END, "order", "no write barrier before mmap_seq turns even") \
	X(RMB_START, "order", "no read barrier after the first look at mmap_seq") \
	X(RMB_CHECK, "order", "no read barrier before the second look at mmap_seq") \
	X(PUBLISH_VMA, "order", "a VMA is linked into the tree by a relaxed store") \
	X(PUBLISH_TABLE, "order", "a page table or page is linked in by a relaxed store") \
	X(UNLOCK_RELAXED, "order", "a spinlock is released by a relaxed store") \
	X(SPIN_RELAXED, "order", "who has waited for a spinlock takes it without an acquire") \
	X(UP_READ_RELAXED, "order", "up_read has no release") \
	X(IRQ_ENABLE_RELAXED, "order", "interrupts are turned on by a relaxed store") \
	X(IPI_LOST, "flush", "a shootdown's request is not posted") \
	X(IPI_ACK_LOST, "flush", "a shootdown does not wait for CPUs with interrupts off") \
	X(SHOOTDOWN_CLOCK, "flush", "a shootdown takes a clock that reads 0 for a sign that nobody was asked") \
	X(MAILBOX_UNREAD, "flush", "an instruction begins without a look at the mailbox") \
	X(FREE_BEFORE_FLUSH, "flush", "frames are freed before the flush") \
	X(FLUSH_BEFORE_ZAP, "flush", "translations are flushed before the pte is cleared, and not after") \
	X(MPROTECT_NO_FLUSH, "flush", "mprotect does not flush") \
	X(UFFD_NO_CHECK, "spf", "speculation maps a page that is registered with userfaultfd") \
	X(UFFD_WP_NO_CHECK, "spf", "speculation writes to a page that userfaultfd protects") \
	X(UFFD_WP_NO_FLUSH, "flush", "userfaultfd's write-protection does not flush") \
	X(UFFD_NO_RECHECK, "lock", "who waits for userfaultfd does not look again once it can be found") \
	X(NUMA_SECOND_LOCK, "spf", "do_numa_page takes its second lock without a look at mmap_seq, as in the series") \
	X(MIGRATE_NO_FLUSH, "flush", "a page that a hint fault moves is copied without a flush") \
	X(SWAP_NO_FLUSH, "flush", "a page is written to swap and freed without a flush") \
	X(SWAP_EARLY, "flush", "a swap entry can be seen before the slot holds the page") \
	X(SWAP_READ_EARLY, "flush", "a slot is read before the page-table lock says that it is still ours") \
	X(ZAP_NO_LOCK, "flush", "ptes are zapped without their lock") \
	X(MREMAP_NO_FLUSH, "flush", "mremap does not flush the old addresses") \
	X(MREMAP_NO_PTL, "spf", "mremap moves ptes without their locks") \
	X(MREMAP_PMD_MOVE, "spf", "mremap moves a whole page table without its lock although others may speculate") \
	X(TRUNCATE_NO_RECHECK, "flush", "a fault maps a file's page without looking whether it was truncated meanwhile") \
	X(TRUNCATE_NO_FLUSH, "flush", "a truncation does not flush") \
	X(UNLINK_FILE_LATE, "flush", "munmap frees page tables while a truncation can still find the VMA") \
	X(RCU_READER_IGNORED, "lock", "a grace period does not wait for readers") \
	X(RWSEM_NO_WAKE, "lock", "whoever releases a rwsem wakes nobody") \
	X(RWSEM_READERS_IGNORED, "lock", "a writer takes a rwsem that readers hold") \
	X(RWSEM_SHARES_LATE, "lock", "readers that are woken together get their shares of the lock one after the other") \
	X(RWSEM_DOWNGRADE_GAP, "lock", "downgrade_write releases and then reads anew") \
	X(MCS_NODE_LATE, "lock", "a CPU clears its place in line for a spinlock when it can be found already") \
	X(MCS_HANDOFF, "lock", "the head of the line for a spinlock does not tell the next one that it is its turn") \
	X(ANON_VMA_RACE, "lock", "anon_vma_prepare does not look again under its lock") \
	X(ANON_VMA_LOCK, "lock", "anon_vma_prepare takes no lock") \
	X(STACK_GROW_NO_LOCK, "lock", "a stack grows without page_table_lock") \
	X(STACK_GROW_UNCHECKED, "lock", "a growing stack does not look again under its lock") \
	X(FORK_NO_FLUSH, "flush", "fork does not flush the parent's translations") \
	X(FORK_READ_LOCK, "lock", "fork holds the parent's mmap_lock for read") \
	X(NOTIFIER_NO_LOCK, "notifier", "a speculative copy of a page does not take mmu_notifier_lock") \
	X(NOTIFIER_REGISTER_NO_LOCK, "notifier", "registering an MMU notifier does not take mmu_notifier_lock") \
	X(NOTIFIER_REGISTER_NO_MMAP_LOCK, "notifier", "registering an MMU notifier does not take mmap_lock") \
	X(NOTIFIER_UNTOLD, "notifier", "whoever changes ptes tells no MMU notifier") \
	X(NOTIFIER_LATE, "notifier", "zapping tells the MMU notifier when the ptes are gone already") \
	X(NOTIFIER_NO_END, "notifier", "whoever has told an MMU notifier never says that the change is over") \
	X(NOTIFIER_MPROTECT, "notifier", "mprotect tells no MMU notifier") \
	X(NOTIFIER_FORK, "notifier", "fork tells no MMU notifier that it write-protects the parent") \
	X(SECONDARY_NO_RETRY, "notifier", "a secondary MMU uses what it looked up although an invalidation came between") \
	X(COW_ABA, "spf", "a copied page is held by no reference, and the VMA is compared instead of mmap_seq") \
	X(TABLE_FREE_FALLBACK, "spf", "RCU table freeing finds no page for its batch and frees after an interrupt") \
	X(LATCH_NO_BUMP, "spf", "a latched tree's readers are never sent to the other copy") \
	X(LATCH_NO_RETRY, "spf", "a reader of a latched tree does not look whether it was changed meanwhile") \
	X(LATCH_ONE_COPY, "spf", "a latched tree's second copy is not brought up to date")

enum shmm_mutant {
#define X(name, group, what) SHMM_M_##name,
	SHMM_MUTANTS(X)
#undef X
	SHMM_NMUTANT
};
#endif
