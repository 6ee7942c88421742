/* The zygote: the process whose forks execute programs, each in a fresh one.
 *
 * It began as a Python that loaded nothing but this module.  Then it has unmapped all that is not the module's own
 * image, the shared area or the kernel's, so its forks are cheap, take no faults of their own and begin with the same
 * few mappings.  It never executes Python again, and ends when the launcher's end of the socket is closed, however that
 * came about. */
#ifndef SHMM_HOST_ZYGOTE_H
#define SHMM_HOST_ZYGOTE_H

#include <fcntl.h>
#include <link.h>
#include <poll.h>

#include "host/run.h"

#define HOST_SIGNALS ((1ull << (SIGCHLD - 1)) | (1ull << (SIGUSR1 - 1)) | (1ull << (SIGIO - 1)))

/* Creates the files: of zeroes, each page written, so that all of them are cached and up to date. */
static int host_create_files(void)
{
	host_head_t *h = host_head();
	char name[] = "file", zero = 0;
	for (uint32_t n = 1; n <= h->nfiles; n++) {
		host_file_t *file = &h->file[n];
		file->fd = raw2(SYS_memfd_create, name, 1 /* MFD_CLOEXEC */);
		long err = file->fd < 0 ? (long)file->fd : raw2(SYS_ftruncate, file->fd, file->pages * SHMM_PAGE_SIZE);
		for (uint64_t page = 0; err >= 0 && page < file->pages; page++)
			err = raw4(SYS_pwrite64, file->fd, &zero, 1, page * SHMM_PAGE_SIZE);
		if (err < 0)
			return (int)-err;
	}
	return 0;
}

static void host_close_files(void)
{
	host_head_t *h = host_head();
	for (uint32_t n = 1; n <= h->nfiles; n++)
		if (h->file[n].fd > 0)
			raw1(SYS_close, h->file[n].fd);
	h->nfiles = 0;
}

/* Whether it is a child of ours.  What lies in the area a program may have overwritten, and no other process shall be
 * killed because of that. */
static int host_is_child(int32_t pid)
{
	return pid > 0 && raw5(SYS_waitid, P_PID, pid, 0, WEXITED | WNOHANG | WNOWAIT, 0) == 0;
}

/* Kills every process of the run and reaps it. */
static void host_kill_all(void)
{
	host_head_t *h = host_head();
	for (uint32_t n = 0; n < h->blocks; n++) {
		if (host_is_child(host_block(n)->pid))
			raw2(SYS_kill, host_block(n)->pid, SIGKILL);
		host_block(n)->pid = 0;
	}
	while (raw4(SYS_wait4, -1, 0, __WALL, 0) > 0)
		;
	host_close_files();
}

/* The process of block number begins, or goes on, as the one that the CPU is in. */
static void host_enter(enum host_switch how, uint32_t number)
{
	host_head_t *h = host_head();
	host_block_t *b = host_block(number);
	h->running = number;                    /* before it begins, and says where it goes from there */
	long err = how == HOST_FRESH ? host_spawn(number, 0) : 0;
	if (err < 0) {
		h->error = (uint32_t)-err;
		host_put(&h->status, HOST_REFUSED);
		return;
	}
	if (!host_is_child(b->pid)) {           /* it died before anyone knew it: its fork lacked what executes it */
		h->dead_block = number;
		host_put(&h->status, HOST_DESTROYED);
		return;
	}
	host_put(&b->wake, 1);
	host_wake(&b->wake);
}

/* A process has ended: either the CPU left it, or the program destroyed it. */
static void host_reaped(int pid, int how)
{
	host_head_t *h = host_head();
	uint32_t n = 0;
	while (n < h->blocks && host_block(n)->pid != pid)
		n++;
	if (n == h->blocks)
		return;
	host_block(n)->pid = 0;
	if (host_block(n)->leaves) {
		host_enter(h->switch_how, h->switch_to);
		return;
	}
	h->dead_block = n;
	h->dead_signal = WIFSIGNALED(how) ? WTERMSIG(how) : 0;
	h->dead_exit = WIFEXITED(how) ? WEXITSTATUS(how) : 0;
	host_put(&h->status, HOST_DESTROYED);
}

/* Waits until the run is over, in whatever way. */
static void host_supervise(int link)
{
	host_head_t *h = host_head();
	uint64_t signals = HOST_SIGNALS;
	while (host_get(&h->status) == HOST_RUNNING) {
		struct pollfd order = { .fd = link, .events = POLLIN };
		struct timespec zero = { 0, 0 }, left;
		int how = 0;
		long pid = raw4(SYS_wait4, -1, &how, WNOHANG | __WALL, 0);
		if (pid > 0) {
			host_reaped((int)pid, how);
			continue;
		}
		if (raw4(SYS_ppoll, &order, 1, &zero, 0) > 0) {
			host_put(&h->status, HOST_CANCELLED);
			return;
		}
		int64_t ns = (int64_t)(h->deadline_ns - host_now());
		if (ns <= 0) {
			host_put(&h->status, HOST_DEADLINE);
			return;
		}
		left.tv_sec = ns / 1000000000;
		left.tv_nsec = ns % 1000000000;
		raw4(SYS_rt_sigtimedwait, &signals, 0, &left, 8);
	}
}

static void host_start(void)
{
	host_head_t *h = host_head();
	h->error = (uint32_t)host_create_files();
	if (h->error) {
		host_put(&h->status, HOST_REFUSED);
		return;
	}
	host_put(&h->status, HOST_RUNNING);
	h->running = h->threaded ? 0 : 1;
	host_enter(HOST_FRESH, h->running);
}

/* Obeys the launcher: r runs what lies in the shared area, k ends its processes.  One byte is the answer to each. */
__attribute__((noreturn)) static void host_serve(int link)
{
	char order = 'i';                       /* idle: the first answer comes without an order */
	raw3(SYS_write, link, &order, 1);
	while (raw3(SYS_read, link, &order, 1) == 1) {
		if (order == 'r') {
			host_start();
			host_supervise(link);
		} else {
			host_kill_all();
		}
		raw3(SYS_write, link, &order, 1);
	}
	host_kill_all();
	host_exit(0);
}

/* ---- how a Python becomes one ------------------------------------------------------------------------------------ */

static int host_is_kept(uint64_t start, uint64_t end, uint64_t stack)
{
	const host_head_t *h = host_head();
	return (start < HOST_AREA + h->size && end > HOST_AREA) || (start <= stack && stack < end)
	       || start >= SHMM_TASK_SIZE;
}

static uint64_t host_hex(const char **text)
{
	uint64_t value = 0;
	for (;; (*text)++) {
		char c = **text;
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
		if (digit < 0)
			return value;
		value = value << 4 | (uint64_t)digit;
	}
}

/* Unmaps what lies in [start, end) and is not part of [from, to). */
static void host_unmap_around(uint64_t start, uint64_t end, uint64_t from, uint64_t to)
{
	if (to <= start || end <= from) {
		raw2(SYS_munmap, start, end - start);
		return;
	}
	if (start < from)
		raw2(SYS_munmap, start, from - start);
	if (to < end)
		raw2(SYS_munmap, to, end - to);
}

/* Unmaps all but the image, the area and the stack.  buffer: in the area, for the text of /proc/self/maps. */
static void host_prune(char *buffer, long size, uint64_t start_brk)
{
	char path[] = "/proc/self/maps";
	raw1(SYS_brk, start_brk);               /* first: without the heap's mapping the end stays where it is */
	long fd = raw4(SYS_openat, AT_FDCWD, path, O_RDONLY, 0), length = 0, got;
	while ((got = raw3(SYS_read, fd, buffer + length, size - 1 - length)) > 0)
		length += got;
	raw1(SYS_close, fd);
	buffer[length] = 0;
	for (const char *at = buffer; *at;) {
		uint64_t start = host_hex(&at);
		at++;
		uint64_t end = host_hex(&at);
		while (*at && *at++ != '\n')
			;
		if (!host_is_kept(start, end, (uint64_t)__builtin_frame_address(0)))
			host_unmap_around(start, end, host_head()->image_begin, host_head()->image_end);
	}
}

/* The image that holds an address: where it begins and ends, as its program headers say.  (The kernel may have merged
 * what it mapped for the image's zeroes with somebody else's memory.) */
typedef struct {
	uint64_t inside, begin, end;
} host_image_t;

static int host_find_image(struct dl_phdr_info *info, size_t size, void *wanted)
{
	host_image_t *image = wanted;
	uint64_t begin = UINT64_MAX, end = 0;
	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];
		uint64_t at = info->dlpi_addr + part->p_vaddr;
		if (part->p_type != PT_LOAD)
			continue;
		begin = at < begin ? at : begin;
		end = at + part->p_memsz > end ? at + part->p_memsz : end;
	}
	if (image->inside < begin || image->inside >= end)
		return 0;
	image->begin = begin & ~(SHMM_PAGE_SIZE - 1);
	image->end = (end + SHMM_PAGE_SIZE - 1) & ~(SHMM_PAGE_SIZE - 1);
	return 1;
}

/* This process, a Python of one thread, becomes the zygote.  Returns only if the area could not be mapped. */
static int host_become_zygote(int link, int memory, uint64_t size, uint64_t start_brk, uint64_t limit)
{
	uint64_t signals = HOST_SIGNALS, none[2] = { 0, 0 }, most[2] = { limit, limit };
	host_image_t image = { (uint64_t)host_serve, 0, 0 };
	long at = raw6(SYS_mmap, (long)HOST_AREA, (long)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0);
	if (at != (long)HOST_AREA)
		return (int)-at;
	dl_iterate_phdr(host_find_image, &image);
	host_head()->image_begin = image.begin;
	host_head()->image_end = image.end;
	for (int number = 1; number <= 64; number++)
		host_raise(number, 0);
	/* a launcher that is gone is no reason to die before what it started is dead */
	host_raise(SIGPIPE, (void (*)(int, siginfo_t *, void *))SIG_IGN);
	raw4(SYS_rt_sigprocmask, SIG_SETMASK, &signals, 0, 8);
	raw5(SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0);
	raw4(SYS_prlimit64, 0, RLIMIT_CORE, none, 0);
	if (limit)
		raw4(SYS_prlimit64, 0, RLIMIT_AS, most, 0);
	host_prune((char *)host_block(0), HOST_BLOCK * host_head()->blocks, start_brk);
	for (int fd = 0; fd < 1024; fd++)
		if (fd != link)
			raw1(SYS_close, fd);
	host_head()->zygote = (int32_t)raw0(SYS_getpid);
	raw3(SYS_fcntl, link, F_SETOWN, host_head()->zygote);
	raw3(SYS_fcntl, link, F_SETFL, O_ASYNC);
	host_put(&host_head()->status, HOST_IDLE);
	host_serve(link);
}

#endif
