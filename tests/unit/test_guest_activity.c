/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/guest_activity.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/clock.h"
#include "tests/unit/unit.h"

#define MIB (UINT64_C(1) << 20)

/* Watched, and everything until now is taken. */
static struct guest_activity *watched_activity(struct guest_activity_taken *taken)
{
	struct guest_activity *activity = malloc(sizeof *activity);

	ck_assert_ptr_nonnull(activity);
	guest_activity_init(activity);
	guest_activity_watch(activity, true);
	guest_activity_take(activity, taken);
	return activity;
}

static void activity_free(struct guest_activity *activity)
{
	guest_activity_done(activity);
	free(activity);
}

static void spin_us(uint64_t microseconds)
{
	uint64_t until_us = clock_monotonic_us() + microseconds;

	while (clock_monotonic_us() < until_us)
		;
}

START_TEST(time_counts_once_whatever_overlaps_in_it)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);
	uint64_t began_us, ended_us, before_us = clock_monotonic_us();

	guest_activity_begin(activity);
	began_us = clock_monotonic_us();
	guest_activity_begin(activity);
	spin_us(2000);
	guest_activity_end(activity);
	ended_us = clock_monotonic_us();
	guest_activity_end(activity);
	spin_us(2000);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.load.requests, 2);
	ck_assert_uint_ge(taken.load.busy_us, ended_us - began_us);
	ck_assert_uint_ge(taken.load.interval_us, taken.load.busy_us + 2000);
	ck_assert_uint_le(taken.load.busy_us, clock_monotonic_us() - before_us - 2000);
	activity_free(activity);
}
END_TEST

START_TEST(a_request_that_goes_on_counts_in_each_interval)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);

	guest_activity_begin(activity);
	guest_activity_take(activity, &taken);
	for (int i = 0; i < 3; i++) {
		spin_us(1000);
		guest_activity_take(activity, &taken);
		ck_assert_uint_ge(taken.load.busy_us, 1000);
		ck_assert_uint_eq(taken.load.busy_us, taken.load.interval_us);
		ck_assert_uint_eq(taken.load.requests, 0);
	}
	guest_activity_end(activity);
	guest_activity_take(activity, &taken);
	spin_us(1000);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.load.busy_us, 0);
	activity_free(activity);
}
END_TEST

#define THREADS	 8
#define REQUESTS 20000

static atomic_int threads_done;

static void *make_requests(void *owner)
{
	struct guest_activity *activity = owner;

	for (uint64_t i = 0; i < REQUESTS; i++) {
		guest_activity_begin(activity);
		guest_activity_missed(activity, i * MIB, MIB);
		guest_activity_end(activity);
	}
	atomic_fetch_add(&threads_done, 1);
	return NULL;
}

START_TEST(many_threads_lose_no_request_and_no_time)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);
	pthread_t threads[THREADS];
	uint64_t requests = 0, busy_us = 0, interval_us = 0;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, make_requests, activity), 0);
	while (atomic_load(&threads_done) < THREADS) {
		guest_activity_take(activity, &taken);
		ck_assert_uint_le(taken.load.busy_us, taken.load.interval_us);
		ck_assert_uint_le(taken.missed_count, GUEST_ACTIVITY_MISSED_MAX);
		requests += taken.load.requests;
		busy_us += taken.load.busy_us;
		interval_us += taken.load.interval_us;
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	guest_activity_take(activity, &taken);
	busy_us += taken.load.busy_us;
	interval_us += taken.load.interval_us;
	ck_assert_uint_eq(requests + taken.load.requests, THREADS * REQUESTS);
	ck_assert_uint_eq(atomic_load(&activity->flight), 0);
	ck_assert_uint_gt(busy_us, 0);
	ck_assert_uint_le(busy_us, interval_us);
	activity_free(activity);
}
END_TEST

START_TEST(misses_that_touch_are_one_range_and_the_newest_comes_first)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);

	guest_activity_missed(activity, 10 * MIB, 4096);
	guest_activity_missed(activity, 90 * MIB, 4096);
	guest_activity_missed(activity, 10 * MIB + 4096, 4096);
	guest_activity_missed(activity, 10 * MIB - 512, 1024);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.missed_count, 2);
	ck_assert_uint_eq(taken.missed[0].offset, 90 * MIB);
	ck_assert_uint_eq(taken.missed[1].offset, 10 * MIB - 512);
	ck_assert_uint_eq(taken.missed[1].length, 8192 + 512);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.missed_count, 0);
	activity_free(activity);
}
END_TEST

START_TEST(of_too_many_misses_the_newest_are_kept)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);

	for (uint64_t i = 0; i < 100; i++)
		guest_activity_missed(activity, i * 8 * MIB, 4096);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.missed_count, GUEST_ACTIVITY_MISSED_MAX);
	for (uint64_t i = 0; i < taken.missed_count; i++)
		ck_assert_uint_eq(taken.missed[i].offset, (99 - i) * 8 * MIB);
	activity_free(activity);
}
END_TEST

START_TEST(a_long_read_is_told_as_pieces_of_4_mib)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);

	for (uint64_t i = 0; i < 24; i++)
		guest_activity_missed(activity, i * MIB / 2, MIB / 2);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.missed_count, 3);
	ck_assert_uint_eq(taken.missed[0].offset, 8 * MIB);
	ck_assert_uint_eq(taken.missed[0].length, 4 * MIB);
	activity_free(activity);
}
END_TEST

START_TEST(misses_count_only_while_somebody_watches)
{
	struct guest_activity_taken taken;
	struct guest_activity *activity = watched_activity(&taken);

	guest_activity_missed(activity, 0, 4096);
	guest_activity_watch(activity, false);
	guest_activity_missed(activity, 0, 4096);
	guest_activity_watch(activity, true);
	guest_activity_missed(activity, 8 * MIB, 0);
	guest_activity_missed(activity, UINT64_MAX - 1, 4096);
	guest_activity_take(activity, &taken);
	ck_assert_uint_eq(taken.missed_count, 0);
	activity_free(activity);
}
END_TEST

UNIT_MAIN("guest_activity", time_counts_once_whatever_overlaps_in_it,
	a_request_that_goes_on_counts_in_each_interval, many_threads_lose_no_request_and_no_time,
	misses_that_touch_are_one_range_and_the_newest_comes_first,
	of_too_many_misses_the_newest_are_kept, a_long_read_is_told_as_pieces_of_4_mib,
	misses_count_only_while_somebody_watches)
