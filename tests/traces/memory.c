#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#define P 4096L
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
static void write_all(char *p, long pages, char with) { for (long i = 0; i < pages; i++) p[i * P] = with; }
static void in_a_child(char *p, long pages) { if (fork() == 0) { write_all(p, pages, 9); _exit(0); } wait(0); write_all(p, pages, 8); }
int main(void) {
	char *a = mmap(0, 64 * P, RW, ANON, -1, 0);
	write_all(a, 64, 1);
	char *b = mremap(a, 64 * P, 96 * P, MREMAP_MAYMOVE);            /* grows, with its pages */
	write_all(b, 96, 2);
	char *c = mremap(b, 32 * P, 32 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
	write_all(b, 32, 3);
	write_all(c, 32, 3);
	mremap(b + 32 * P, 64 * P, 16 * P, 0);                          /* shrinks */
	in_a_child(c, 32);
	char *h = mmap(0, 8 << 20, RW, ANON, -1, 0);                    /* huge pages, split by a child's and our writes */
	madvise(h, 8 << 20, MADV_HUGEPAGE);
	write_all(h, 2048, 1);
	in_a_child(h + (2 << 20), 200);
	madvise(h + (4 << 20), 100 * P, MADV_DONTNEED);
	write_all(h + (4 << 20), 120, 2);
	char *m = mmap(0, 64 * P, RW, ANON | MAP_POPULATE, -1, 0);
	in_a_child(m, 64);
	char *l = mmap(0, 64 * P, RW, ANON, -1, 0);
	mlock(l, 32 * P);
	in_a_child(l, 64);
	char *r = mmap(0, 64 * P, RW, ANON, -1, 0);
	int fd = open("/proc/self/exe", O_RDONLY);
	read(fd, r, 3 * P);                                             /* the kernel's faults */
	in_a_child(r, 64);
	char *w = mmap(0, 16 * P, RW, ANON, -1, 0);
	write_all(w, 16, 1);
	madvise(w, 16 * P, MADV_WIPEONFORK);
	in_a_child(w, 16);
	int s = memfd_create("m", 0);
	ftruncate(s, 32 * P);
	char *s1 = mmap(0, 32 * P, RW, MAP_SHARED, s, 0), *s2 = mmap(0, 32 * P, RW, MAP_SHARED, s, 0);
	write_all(s1, 32, 1);
	write_all(s2, 32, 2);
	in_a_child(s1, 32);
	char *f = mmap(0, 3 * P, RW, MAP_PRIVATE, fd, 0);
	f[0] = 1;
	mprotect(f, 3 * P, PROT_READ);
	in_a_child(c, 8);
	return 0;
}
