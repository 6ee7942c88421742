/* Calibration by two processes: lines that move, doorbells, sleep (calibrate.h has the rest). */
#ifndef SHMM_ARCH_CALIBRATE_PAIR_H
#define SHMM_ARCH_CALIBRATE_PAIR_H

enum { CAL_ROUNDS = 200, CAL_RINGS = 100, CAL_SLEEPS = 30, CAL_HANDOFFS = 20 };

/* ---- lines ---- */

/* Half a round trip: each waits with compare-and-exchange for the other's number and puts the next one.  The waiter's
 * failing attempts take the line too, as those of any lock's waiters do. */
static int cal_pingpong(cal_t *c)
{
	double t[CAL_CHUNKS];
	uint64_t turn = c->role;
	uint32_t turns = 0;
	for (int i = 0; i < CAL_CHUNKS; i++) {
		uint64_t start = now_ns();
		for (int n = 0; n < CAL_ROUNDS; n++, turn += 2)
			while (cmpxchg64(&c->area->line, turn, turn + 1) != turn)
				if (cal_expired(c, &turns))
					return -ETIMEDOUT;
		t[i] = (double)(now_ns() - start) / (2 * CAL_ROUNDS);
	}
	c->out->ops = CAL_CHUNKS * CAL_ROUNDS;
	c->out->value[0] = cal_median(t, CAL_CHUNKS);
	return 0;
}

static uint64_t cal_timed_load(const a64 *line)
{
	uint64_t start = cal_ticks();
	ld64_relaxed(line);
	return cal_ticks() - start;
}

/* One load of a line that the peer has just written, and nobody wants otherwise; the clock's own cost, with a load
 * that hits, is taken off. */
static int cal_handshake(cal_t *c)
{
	static double moved[CAL_SAMPLES], own[CAL_SAMPLES];
	cal_area_t *area = c->area;
	uint64_t start = now_ns(), first = cal_ticks();
	for (uint64_t i = 1; i <= CAL_SAMPLES; i++, c->out->ops++) {
		if (c->role) {
			if (cal_wait(c, &area->order, i))
				return -ETIMEDOUT;
			st64_relaxed(&area->line, i);
			st64_release(&area->done, i);   /* pairs with the acquire in cal_wait: the line is written by then */
			continue;
		}
		st64_release(&area->order, i);
		if (cal_wait(c, &area->done, i))
			return -ETIMEDOUT;
		moved[i - 1] = (double)cal_timed_load(&area->line);
		own[i - 1] = (double)cal_timed_load(&area->line);
	}
	double scale = (double)(now_ns() - start) / (double)(cal_ticks() - first);
	if (c->role == 0)
		c->out->value[0] = (cal_middle(moved, CAL_SAMPLES) - cal_middle(own, CAL_SAMPLES)) * scale;
	return 0;
}

/* Everybody adds to one line as fast as it can.  A value that is not the last own one plus one: the line was away. */
static int cal_contended(cal_t *c)
{
	c->out->value[1] = cal_timed(c, cal_loop_rmw, 500);
	fetch_add64(&c->area->order, 1);
	if (cal_wait(c, &c->area->order, c->processes))         /* nobody may still be busy with its own line */
		return -ETIMEDOUT;
	uint64_t start = now_ns(), now, last = 0;
	do
		for (int i = 0; i < 256; i++) {
			uint64_t seen = fetch_add64(&c->area->line, 1);
			c->out->losses += seen != last + 1;
			last = seen;
		}
	while (c->out->ops += 256, (now = now_ns()) - start < CAL_STRETCH_NS);
	c->out->value[0] = (double)(now - start) / (double)c->out->ops;
	return 0;
}

/* ---- interrupts, as far as a process can see them ---- */

static a64 *cal_rung;
static void cal_on_doorbell(int number) { (void)number; fetch_add64(cal_rung, 1); }

/* The time of a signal to oneself that is blocked: what kill() costs when nobody has to be interrupted. */
static double cal_kill_blocked(double *t)
{
	struct timespec none = { 0, 0 };
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, doorbell_signal());
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < CAL_RINGS; i++) {
		uint64_t start = now_ns();
		ring_doorbell((uint32_t)getpid());
		t[i] = (double)(now_ns() - start);
		sigtimedwait(&set, NULL, &none);
	}
	return cal_median(t, CAL_RINGS);
}

/* From kill() of a process that computes until its handler's answer is seen; kill() alone; kill() without a target. */
static int cal_signal(cal_t *c)
{
	double round[CAL_RINGS], sent[CAL_RINGS];
	cal_area_t *area = c->area;
	if (c->role)
		return cal_wait(c, &area->order, 1);
	c->out->value[2] = cal_kill_blocked(round);
	for (uint64_t i = 0; i < CAL_RINGS; i++) {
		uint64_t start = now_ns();
		ring_doorbell((uint32_t)ld64_relaxed(&area->pid));
		sent[i] = (double)(now_ns() - start);
		if (cal_wait(c, &area->done, i + 1))
			return -ETIMEDOUT;
		round[i] = (double)(now_ns() - start);
	}
	st64_release(&area->order, 1);
	c->out->value[0] = cal_median(round, CAL_RINGS);
	c->out->value[1] = cal_median(sent, CAL_RINGS);
	return 0;
}

static int cal_time_membarriers(double *value)
{
	double t[CAL_RINGS];
	for (int i = 0; i < CAL_RINGS; i++) {
		uint64_t start = now_ns();
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0))
			return -errno;
		t[i] = (double)(now_ns() - start);
	}
	*value = cal_median(t, CAL_RINGS);
	return 0;
}

/* An expedited membarrier interrupts whoever runs and has registered, and waits for the answers: with the peer, and
 * without it. */
static int cal_membarrier(cal_t *c)
{
	cal_area_t *area = c->area;
	int status = 0;
	if (c->role) {
		if (cal_wait(c, &area->order, 1))
			return -ETIMEDOUT;
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0))
			return -errno;
		st64_release(&area->done, 1);
		return cal_wait(c, &area->order, 2);
	}
	status = cal_time_membarriers(&c->out->value[1]);
	st64_release(&area->order, 1);
	if (status || cal_wait(c, &area->done, 1))
		return status ? status : -ETIMEDOUT;
	status = cal_time_membarriers(&c->out->value[0]);
	st64_release(&area->order, 2);
	return status;
}

/* ---- sleep ---- */

static long cal_futex(a32 *word, int op, uint32_t value)
{
	struct timespec limit = { 0, 100000000 };
	return syscall(SYS_futex, &word->v, op, value, op == FUTEX_WAIT ? &limit : NULL, NULL, 0);
}

/* The peer of cal_futex_wake(): sleeps, and notes when it runs again. */
static int cal_sleeper(cal_t *c)
{
	cal_area_t *area = c->area;
	for (uint32_t i = 0; i < CAL_SLEEPS; i++) {
		if (cal_wait(c, &area->order, i + 1))
			return -ETIMEDOUT;
		st64_release(&area->done, 2 * i + 1);
		while (ld32_acquire(&area->word) == i)
			if (cal_futex(&area->word, FUTEX_WAIT, i) && cal_given_up(c))
				return -ETIMEDOUT;
		st64_relaxed(&area->stamp, now_ns());
		st64_release(&area->done, 2 * i + 2);
	}
	return 0;
}

/* futex_wake() of a process that sleeps on another core: the call, and from its beginning until the sleeper runs. */
static int cal_futex_wake(cal_t *c)
{
	double wake[CAL_SLEEPS], resume[CAL_SLEEPS];
	cal_area_t *area = c->area;
	for (uint32_t i = 0; i < CAL_SLEEPS; i++) {
		st64_release(&area->order, i + 1);
		if (cal_wait(c, &area->done, 2 * i + 1))
			return -ETIMEDOUT;
		cal_idle(c, CAL_SETTLE_NS);
		uint64_t start = now_ns();
		st32_release(&area->word, i + 1);
		c->out->losses += cal_futex(&area->word, FUTEX_WAKE, 1) != 1;  /* nobody slept */
		wake[i] = (double)(now_ns() - start);
		if (cal_wait(c, &area->done, 2 * i + 2))
			return -ETIMEDOUT;
		resume[i] = (double)(ld64_relaxed(&area->stamp) - start);
		c->out->ops++;
	}
	c->out->value[0] = cal_median(wake, CAL_SLEEPS);
	c->out->value[1] = cal_median(resume, CAL_SLEEPS);
	return 0;
}

static int cal_futex_pair(cal_t *c) { return c->role ? cal_sleeper(c) : cal_futex_wake(c); }

/* Two processes on one core that wake each other and sleep, in turns: ns for each change of the runner. */
static int cal_handoff(cal_t *c)
{
	double t[CAL_CHUNKS];
	a32 *word = &c->area->word;
	uint32_t turn = c->role;
	for (int i = 0; i < CAL_CHUNKS; i++) {
		uint64_t start = now_ns();
		for (int n = 0; n < CAL_HANDOFFS; n++, turn += 2) {
			for (uint32_t seen; (seen = ld32_acquire(word)) != turn; )
				if (cal_futex(word, FUTEX_WAIT, seen) && cal_given_up(c))
					return -ETIMEDOUT;
			st32_release(word, turn + 1);
			cal_futex(word, FUTEX_WAKE, 1);
		}
		t[i] = (double)(now_ns() - start) / (2 * CAL_HANDOFFS);
	}
	c->out->value[0] = cal_median(t, CAL_CHUNKS);
	return 0;
}

/* Before the gate: what role 1 must have in place when role 0 begins. */
static void cal_prepare(cal_t *c)
{
	struct sigaction action = { .sa_handler = cal_on_doorbell, .sa_flags = SA_RESTART };
	if (c->role != 1)
		return;
	cal_rung = &c->area->done;
	sigemptyset(&action.sa_mask);
	sigaction(doorbell_signal(), &action, NULL);
	st64_release(&c->area->pid, (uint64_t)getpid());
}

#endif
