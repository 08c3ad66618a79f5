/* SPDX-License-Identifier: Apache-2.0 */
/* The small pieces of the core: index, timers, bucket, meter. */
#include <stdlib.h>

#include "broker/core/bucket.h"
#include "broker/core/index.h"
#include "broker/core/meter.h"
#include "broker/core/timers.h"
#include "tests/unit/unit.h"

START_TEST(an_index_finds_what_was_added_and_not_what_was_removed)
{
	enum { N = 3000 };
	static int objects[N];
	static bool is_in[N];
	struct index index;

	index_init(&index, 12345);
	srand(1);
	for (int round = 0; round < 50000; round++) {
		int i = rand() % N;

		ck_assert_ptr_eq(
			index_find(&index, (uint64_t)i * 7), is_in[i] ? &objects[i] : NULL);
		if (is_in[i])
			index_remove(&index, (uint64_t)i * 7);
		else
			index_add(&index, (uint64_t)i * 7, &objects[i]);
		is_in[i] = !is_in[i];
	}
	size_t place = 0, counted = 0, expected = 0;
	while (index_next(&index, &place) != NULL)
		counted++;
	for (int i = 0; i < N; i++)
		expected += is_in[i];
	ck_assert_uint_eq(counted, expected);
	index_done(&index);
}
END_TEST

START_TEST(names_are_found_by_what_they_say)
{
	struct index index;
	char name[] = "disk0", same[] = "disk0";
	int object;

	index_init(&index, 1);
	ck_assert_ptr_null(index_find_name(&index, same));
	index_add_name(&index, name, &object);
	ck_assert_ptr_eq(index_find_name(&index, same), &object);
	ck_assert_ptr_null(index_find_name(&index, "disk"));
	index_remove_name(&index, same);
	ck_assert_ptr_null(index_find_name(&index, same));
	index_remove_name(&index, same);
	index_done(&index);
}
END_TEST

START_TEST(timers_come_in_the_order_of_their_time_however_they_were_moved)
{
	enum { N = 500 };
	static struct timer all[N];
	struct timers timers;
	struct timer *timer;
	uint64_t before = 0;
	int count = 0;

	timers_init(&timers);
	srand(2);
	for (int i = 0; i < N; i++) {
		timer_init(&all[i], NULL);
		timer_set(&timers, &all[i], (uint64_t)rand() % 1000);
	}
	for (int i = 0; i < N; i += 2)
		timer_set(&timers, &all[i], (uint64_t)rand() % 1000);
	for (int i = 0; i < N; i += 5)
		timer_stop(&timers, &all[i]);
	ck_assert_ptr_null(
		timers_take_due(&timers, 0) && timers_next_ms(&timers) > 0 ? &timers : NULL);
	while ((timer = timers_take_due(&timers, 2000)) != NULL) {
		ck_assert_uint_ge(timer->due_ms, before);
		ck_assert(!timer_is_set(timer));
		before = timer->due_ms;
		count++;
	}
	ck_assert_int_ge(count, N - N / 5 - 1);
	ck_assert_uint_eq(timers_next_ms(&timers), UINT64_MAX);
	timers_done(&timers);
}
END_TEST

START_TEST(a_bucket_lets_the_first_through_and_then_keeps_its_pace)
{
	struct bucket bucket;

	bucket_init(&bucket, 1000, 0);
	ck_assert(bucket_has_any(&bucket, 0));
	bucket_take(&bucket, 5000);
	ck_assert(!bucket_has_any(&bucket, 4998));
	ck_assert_uint_eq(bucket_ready_ms(&bucket), 5000);
	ck_assert(bucket_has_any(&bucket, 5000));
}
END_TEST

START_TEST(a_bucket_saves_little_while_nobody_takes)
{
	struct bucket bucket;

	bucket_init(&bucket, 1000000, 0);
	ck_assert(bucket_has_any(&bucket, 3600000));
	bucket_take(&bucket, 50000);
	ck_assert(!bucket_has_any(&bucket, 3600000));
}
END_TEST

START_TEST(what_is_given_back_may_be_taken_again)
{
	struct bucket bucket;

	bucket_init(&bucket, 1000, 0);
	bucket_take(&bucket, 5000);
	bucket_give_back(&bucket, 5000);
	ck_assert(bucket_has_any(&bucket, 0));
}
END_TEST

START_TEST(the_greatest_speeds_and_times_do_not_overflow)
{
	struct bucket bucket;

	bucket_init(&bucket, INT64_MAX, 0);
	for (int i = 0; i < 100; i++) {
		bucket_take(&bucket, INT64_MAX);
		bucket_has_any(&bucket, 1 + (uint64_t)i);
	}
	ck_assert(bucket_has_any(&bucket, UINT64_MAX / 2));
	bucket_init(&bucket, 1, 0);
	bucket_take(&bucket, INT64_MAX);
	ck_assert(!bucket_has_any(&bucket, 1000000));
	ck_assert_uint_gt(bucket_ready_ms(&bucket), 1000000);
	bucket_set_speed(&bucket, 0, 1000000);
	ck_assert(bucket_has_any(&bucket, 1000000));
}
END_TEST

START_TEST(a_meter_tells_the_last_two_seconds)
{
	struct meter meter;

	meter_init(&meter);
	ck_assert(!meter_is_known(&meter, 0));
	for (uint64_t now_ms = 100000; now_ms < 110000; now_ms += 10)
		meter_add(&meter, now_ms, 1000);
	ck_assert(meter_is_known(&meter, 110000));
	ck_assert_uint_ge(meter_rate(&meter, 110000), 95000);
	ck_assert_uint_le(meter_rate(&meter, 110000), 105000);
	ck_assert_uint_eq(meter_rate(&meter, 113000), 0);
	meter_add(&meter, UINT64_C(1) << 50, 5);
	ck_assert_uint_le(meter_rate(&meter, UINT64_C(1) << 50), 5);
}
END_TEST

UNIT_MAIN("core_pieces", an_index_finds_what_was_added_and_not_what_was_removed,
	names_are_found_by_what_they_say,
	timers_come_in_the_order_of_their_time_however_they_were_moved,
	a_bucket_lets_the_first_through_and_then_keeps_its_pace,
	a_bucket_saves_little_while_nobody_takes, what_is_given_back_may_be_taken_again,
	the_greatest_speeds_and_times_do_not_overflow, a_meter_tells_the_last_two_seconds)
