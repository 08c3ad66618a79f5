/* SPDX-License-Identifier: Apache-2.0 */
/* The set against an array of booleans. */
#include <string.h>

#include "imaged/run_set.h"
#include "tests/unit/unit.h"

#define CLUSTERS 200

static void same(const struct run_set *set, const bool *is_in)
{
	uint64_t total = 0, next = 0;

	for (size_t i = 0; i < set->count; i++) {
		const struct run *run = &set->runs[i];

		ck_assert_uint_gt(run->count, 0);
		ck_assert(i == 0 || run->first > next);
		for (; next < run->first; next++)
			ck_assert(!is_in[next]);
		for (; next < run->first + run->count; next++)
			ck_assert(is_in[next]);
		total += run->count;
	}
	for (; next < CLUSTERS; next++)
		ck_assert(!is_in[next]);
	ck_assert_uint_eq(total, set->total);
}

START_TEST(runs_join_and_split_as_an_array_of_booleans_does)
{
	struct run_set set = {.runs = NULL};
	bool is_in[CLUSTERS] = {false};
	uint64_t random = 7;

	for (int step = 0; step < 20000; step++) {
		uint64_t first, count = 1;

		random = random * UINT64_C(6364136223846793005) + 1;
		first = (random >> 33) % CLUSTERS;
		while (first + count < CLUSTERS && count < (random >> 50) % 20 &&
			is_in[first + count] == is_in[first])
			count++;
		ck_assert_int_eq(run_set_overlaps(&set, first, count), is_in[first]);
		if (is_in[first])
			run_set_remove(&set, first, count);
		else
			run_set_add(&set, first, count);
		memset(is_in + first, !is_in[first], count);
		same(&set, is_in);
	}
	run_set_done(&set);
}
END_TEST

START_TEST(the_best_run_is_the_smallest_with_room)
{
	struct run_set set = {.runs = NULL};
	struct run largest[3];

	run_set_add(&set, 0, 10);
	run_set_add(&set, 20, 4);
	run_set_add(&set, 30, 6);
	run_set_add(&set, 40, 1);
	ck_assert_uint_eq(run_set_best(&set, 1)->first, 40);
	ck_assert_uint_eq(run_set_best(&set, 4)->first, 20);
	ck_assert_uint_eq(run_set_best(&set, 5)->first, 30);
	ck_assert_uint_eq(run_set_best(&set, 7)->first, 0);
	ck_assert_ptr_null(run_set_best(&set, 11));
	ck_assert_uint_eq(run_set_largest(&set, largest, 3), 3);
	ck_assert_uint_eq(largest[0].count, 10);
	ck_assert_uint_eq(largest[1].count, 6);
	ck_assert_uint_eq(largest[2].count, 4);
	run_set_done(&set);
}
END_TEST

START_TEST(what_was_chosen_moves_as_far_as_it_is_there)
{
	struct run_set from = {0}, to = {0}, chosen;

	run_set_add(&from, 10, 10);
	run_set_add(&from, 30, 10);
	run_set_copy(&from, &chosen);
	run_set_remove(&from, 12, 3);
	run_set_remove(&from, 30, 10);
	run_set_add(&from, 50, 5);
	run_set_move(&from, &chosen, &to);
	ck_assert_uint_eq(from.total, 5);
	ck_assert_uint_eq(to.total, 7);
	ck_assert(run_set_overlaps(&to, 10, 2));
	ck_assert(!run_set_overlaps(&to, 12, 3));
	ck_assert(run_set_overlaps(&to, 15, 5));
	run_set_done(&from);
	run_set_done(&to);
	run_set_done(&chosen);
}
END_TEST

UNIT_MAIN("run_set", runs_join_and_split_as_an_array_of_booleans_does,
	the_best_run_is_the_smallest_with_room, what_was_chosen_moves_as_far_as_it_is_there)
