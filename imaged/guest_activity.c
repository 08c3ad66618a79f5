/* SPDX-License-Identifier: Apache-2.0 */
/* Busy time is the length of the union of all requests, so it is added up when the last one in flight ends.  The number in flight
 * and the moment since when are one word, changed by compare-and-swap: two words could be seen half changed, and an interval would be
 * counted twice or with the wrong beginning.  The clock is asked only by who begins or ends such a time. */
#include "imaged/guest_activity.h"

#include <string.h>

#include "common/check.h"
#include "common/clock.h"

#define COUNT_BITS 16
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
/* A range that grows longer than this gets a new neighbour instead, so that the newest end of a long read is told as new. */
#define MISSED_BYTES_MAX (UINT64_C(4) << 20)

static uint64_t flight_word(uint64_t since_us, uint64_t count)
{
	return since_us << COUNT_BITS | count;
}

static uint64_t count_of(uint64_t flight)
{
	return flight & COUNT_MASK;
}

static uint64_t since_of(uint64_t flight)
{
	return flight >> COUNT_BITS;
}

/* Another thread may have read the clock later and been first. */
static uint64_t passed_us(uint64_t since_us, uint64_t now_us)
{
	return now_us > since_us ? now_us - since_us : 0;
}

void guest_activity_init(struct guest_activity *activity)
{
	memset(activity, 0, sizeof *activity);
	pthread_mutex_init(&activity->lock, NULL);
	activity->taken_us = clock_monotonic_us();
}

void guest_activity_done(struct guest_activity *activity)
{
	pthread_mutex_destroy(&activity->lock);
}

void guest_activity_begin(struct guest_activity *activity)
{
	uint64_t flight = atomic_load(&activity->flight), next;

	do {
		bug_if(count_of(flight) == COUNT_MASK);
		next = count_of(flight) == 0 ? flight_word(clock_monotonic_us(), 1) : flight + 1;
	} while (!atomic_compare_exchange_weak(&activity->flight, &flight, next));
	atomic_fetch_add_explicit(&activity->requests, 1, memory_order_relaxed);
}

void guest_activity_end(struct guest_activity *activity)
{
	uint64_t flight = atomic_load(&activity->flight), now_us = 0;

	do {
		bug_if(count_of(flight) == 0);
		if (count_of(flight) == 1)
			now_us = clock_monotonic_us();
	} while (!atomic_compare_exchange_weak(
		&activity->flight, &flight, count_of(flight) == 1 ? 0 : flight - 1));
	if (count_of(flight) == 1)
		atomic_fetch_add(&activity->busy_us, passed_us(since_of(flight), now_us));
}

/* ---- misses */

static uint64_t end_of(struct guest_range range)
{
	return range.offset + range.length;
}

static bool grow(struct guest_range *range, uint64_t offset, uint64_t end)
{
	uint64_t from = range->offset < offset ? range->offset : offset;
	uint64_t to = end_of(*range) > end ? end_of(*range) : end;

	if (offset > end_of(*range) || end < range->offset || to - from > MISSED_BYTES_MAX)
		return false;
	*range = (struct guest_range){from, to - from};
	return true;
}

static void keep_missed(struct guest_activity *activity, uint64_t offset, uint64_t length)
{
	for (size_t i = 0; i < activity->missed_count; i++)
		if (grow(&activity->missed[i], offset, offset + length))
			return;
	activity->missed[activity->missed_next] = (struct guest_range){offset, length};
	activity->missed_next = (activity->missed_next + 1) % GUEST_ACTIVITY_MISSED_MAX;
	if (activity->missed_count < GUEST_ACTIVITY_MISSED_MAX)
		activity->missed_count++;
}

void guest_activity_missed(struct guest_activity *activity, uint64_t offset, uint64_t length)
{
	if (length == 0 || length > UINT64_MAX - offset ||
		!atomic_load_explicit(&activity->is_watched, memory_order_relaxed))
		return;
	if (pthread_mutex_trylock(&activity->lock) != 0)
		return;
	keep_missed(activity, offset, length);
	pthread_mutex_unlock(&activity->lock);
}

void guest_activity_watch(struct guest_activity *activity, bool is_watched)
{
	if (atomic_exchange(&activity->is_watched, is_watched) == is_watched)
		return;
	pthread_mutex_lock(&activity->lock);
	activity->missed_count = activity->missed_next = 0;
	pthread_mutex_unlock(&activity->lock);
}

/* ---- taking */

/* Counts the busy time that is not over yet up to now, and lets it begin anew. */
static void settle_flight(struct guest_activity *activity, uint64_t now_us)
{
	uint64_t flight = atomic_load(&activity->flight);

	while (count_of(flight) > 0 && since_of(flight) < now_us) {
		if (!atomic_compare_exchange_weak(
			    &activity->flight, &flight, flight_word(now_us, count_of(flight))))
			continue;
		atomic_fetch_add(&activity->busy_us, now_us - since_of(flight));
		return;
	}
}

static void take_missed(struct guest_activity *activity, struct guest_activity_taken *taken)
{
	size_t place = activity->missed_next;

	taken->missed_count = activity->missed_count;
	for (size_t i = 0; i < activity->missed_count; i++) {
		place = (place + GUEST_ACTIVITY_MISSED_MAX - 1) % GUEST_ACTIVITY_MISSED_MAX;
		taken->missed[i] = activity->missed[place];
	}
	activity->missed_count = activity->missed_next = 0;
}

void guest_activity_take(struct guest_activity *activity, struct guest_activity_taken *ret_taken)
{
	struct guest_load *load = &ret_taken->load;
	uint64_t now_us = clock_monotonic_us();

	settle_flight(activity, now_us);
	load->requests = atomic_exchange(&activity->requests, 0);
	load->busy_us = atomic_exchange(&activity->busy_us, 0);
	pthread_mutex_lock(&activity->lock);
	load->interval_us = passed_us(activity->taken_us, now_us);
	activity->taken_us = now_us;
	take_missed(activity, ret_taken);
	pthread_mutex_unlock(&activity->lock);
	if (load->interval_us == 0)
		load->interval_us = 1;
	/* A request that ended between the clock and the counters. */
	if (load->busy_us > load->interval_us)
		load->busy_us = load->interval_us;
}
