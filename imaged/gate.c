/* SPDX-License-Identifier: Apache-2.0 */
/* All atomics are sequentially consistent, and each side of a pair first says and then looks: who enters counts itself and then
 * looks at epoch and closings; who waits changes epoch or closings and then looks at the counters.  So of two that meet at least
 * one sees the other.  The same holds between who leaves (counts down, looks for waiters) and who waits (counts itself, looks at
 * the counters), so no wake-up is lost. */
#include "imaged/gate.h"

#include <errno.h>
#include <time.h>

#include "common/check.h"
#include "common/clock.h"

void gate_init(struct gate *gate)
{
	pthread_condattr_t attributes;

	for (unsigned side = 0; side < 2; side++)
		atomic_init(&gate->sides[side].inside, 0);
	atomic_init(&gate->epoch, 0);
	atomic_init(&gate->closings, 0);
	atomic_init(&gate->waiters, 0);
	pthread_mutex_init(&gate->lock, NULL);
	pthread_mutex_init(&gate->grace, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&gate->left, &attributes);
	pthread_cond_init(&gate->opened, NULL);
	pthread_condattr_destroy(&attributes);
}

void gate_done(struct gate *gate)
{
	bug_if(atomic_load(&gate->sides[0].inside) + atomic_load(&gate->sides[1].inside) != 0);
	pthread_cond_destroy(&gate->opened);
	pthread_cond_destroy(&gate->left);
	pthread_mutex_destroy(&gate->grace);
	pthread_mutex_destroy(&gate->lock);
}

void gate_leave(struct gate *gate, unsigned side)
{
	if (atomic_fetch_sub(&gate->sides[side].inside, 1) != 1 || atomic_load(&gate->waiters) == 0)
		return;
	pthread_mutex_lock(&gate->lock);
	pthread_cond_broadcast(&gate->left);
	pthread_mutex_unlock(&gate->lock);
}

static void wait_until_open(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	while (atomic_load(&gate->closings) > 0)
		pthread_cond_wait(&gate->opened, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

unsigned gate_enter(struct gate *gate)
{
	for (;;) {
		unsigned epoch = atomic_load(&gate->epoch);
		bool is_closed;

		atomic_fetch_add(&gate->sides[epoch & 1].inside, 1);
		is_closed = atomic_load(&gate->closings) > 0;
		if (!is_closed && atomic_load(&gate->epoch) == epoch)
			return epoch & 1;
		gate_leave(gate, epoch & 1);
		if (is_closed)
			wait_until_open(gate);
	}
}

void gate_open(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	bug_if(atomic_load(&gate->closings) == 0);
	atomic_fetch_sub(&gate->closings, 1);
	pthread_cond_broadcast(&gate->opened);
	pthread_mutex_unlock(&gate->lock);
}

static bool is_empty(struct gate *gate)
{
	return atomic_load(&gate->sides[0].inside) == 0 && atomic_load(&gate->sides[1].inside) == 0;
}

static struct timespec time_after(uint64_t timeout_ms)
{
	uint64_t deadline_us = clock_monotonic_us() + timeout_ms * 1000;

	return (struct timespec){.tv_sec = (time_t)(deadline_us / 1000000),
		.tv_nsec = (long)(deadline_us % 1000000 * 1000)};
}

/* Which of two counters is empty first, or how often one is in between, does not matter: closed, they only fall. */
bool gate_close(struct gate *gate, uint64_t timeout_ms)
{
	struct timespec deadline = time_after(timeout_ms);
	bool has_emptied;

	atomic_fetch_add(&gate->closings, 1);
	atomic_fetch_add(&gate->waiters, 1);
	pthread_mutex_lock(&gate->lock);
	while (!(has_emptied = is_empty(gate)) &&
		pthread_cond_timedwait(&gate->left, &gate->lock, &deadline) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&gate->lock);
	atomic_fetch_sub(&gate->waiters, 1);
	if (!has_emptied)
		gate_open(gate);
	return has_emptied;
}

void gate_wait_grace(struct gate *gate)
{
	unsigned side;

	pthread_mutex_lock(&gate->grace);
	side = atomic_fetch_add(&gate->epoch, 1) & 1;
	atomic_fetch_add(&gate->waiters, 1);
	pthread_mutex_lock(&gate->lock);
	while (atomic_load(&gate->sides[side].inside) > 0)
		pthread_cond_wait(&gate->left, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
	atomic_fetch_sub(&gate->waiters, 1);
	pthread_mutex_unlock(&gate->grace);
}
