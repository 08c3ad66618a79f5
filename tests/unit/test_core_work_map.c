/* SPDX-License-Identifier: Apache-2.0 */
/* The window of work over a device: pages in, pieces out, pieces back. */
#include <stdlib.h>
#include <string.h>

#include "broker/core/work_map.h"
#include "tests/unit/unit.h"

#define CLUSTER UINT64_C(65536)

static struct work_map map;
static struct err err;

static int add(uint64_t offset, uint64_t end, const struct work_run *runs, size_t count)
{
	struct work_run copies[8];
	struct msg_map_page page = {
		.offset = offset * CLUSTER, .end = end * CLUSTER, .runs = copies};

	for (size_t i = 0; i < count; i++)
		copies[i] = (struct work_run){
			runs[i].offset * CLUSTER, runs[i].length * CLUSTER, runs[i].work};
	page.runs_count = count;
	return work_map_add_page(&map, &page, &err);
}

static void begin(uint64_t clusters)
{
	work_map_init(&map, 0);
	work_map_reset(&map, clusters * CLUSTER, CLUSTER);
}

static void assert_taken(enum work work, uint64_t most, uint64_t offset, uint64_t length)
{
	struct guest_range range = {0, 0};

	ck_assert(work_map_take(&map, work, most * CLUSTER, &range));
	ck_assert_uint_eq(range.offset, offset * CLUSTER);
	ck_assert_uint_eq(range.length, length * CLUSTER);
}

static void assert_nothing(enum work work)
{
	struct guest_range range;

	ck_assert(!work_map_take(&map, work, CLUSTER, &range));
}

START_TEST(pieces_are_taken_from_the_beginning_in_the_size_asked_for)
{
	begin(100);
	ck_assert_int_eq(add(0, 100,
				 (struct work_run[]){
					 {0, 5, WORK_COPY}, {10, 2, WORK_ZERO}, {20, 1, WORK_COPY}},
				 3),
		0);

	assert_taken(WORK_COPY, 3, 0, 3);
	assert_taken(WORK_COPY, 3, 3, 2);
	assert_taken(WORK_COPY, 3, 20, 1);
	assert_nothing(WORK_COPY);
	assert_taken(WORK_ZERO, 9, 10, 2);

	ck_assert(work_map_is_exhausted(&map));
	work_map_done(&map);
}
END_TEST

START_TEST(what_comes_back_is_taken_first_and_melts_with_its_neighbours)
{
	begin(100);
	ck_assert_int_eq(add(0, 100, (struct work_run[]){{0, 10, WORK_COPY}}, 1), 0);
	assert_taken(WORK_COPY, 2, 0, 2);
	assert_taken(WORK_COPY, 2, 2, 2);

	work_map_put_back(&map, WORK_COPY, (struct guest_range){2 * CLUSTER, 2 * CLUSTER});

	ck_assert_uint_eq(work_map_bytes(&map, WORK_COPY), 8 * CLUSTER);
	assert_taken(WORK_COPY, 100, 2, 8);
	work_map_done(&map);
}
END_TEST

START_TEST(what_is_not_scanned_yet_does_not_come_back)
{
	begin(100);
	ck_assert_int_eq(add(0, 10, NULL, 0), 0);

	work_map_put_back(&map, WORK_COPY, (struct guest_range){8 * CLUSTER, 4 * CLUSTER});
	work_map_put_back(&map, WORK_COPY, (struct guest_range){20 * CLUSTER, CLUSTER});

	assert_taken(WORK_COPY, 100, 8, 2);
	assert_nothing(WORK_COPY);
	work_map_done(&map);
}
END_TEST

START_TEST(what_somebody_has_already_is_cut_out_wherever_it_lies)
{
	begin(100);
	ck_assert_int_eq(add(0, 100,
				 (struct work_run[]){{0, 10, WORK_COPY}, {12, 2, WORK_COPY},
					 {20, 10, WORK_COPY}},
				 3),
		0);

	work_map_exclude(&map, (struct guest_range){3 * CLUSTER, 2 * CLUSTER});
	work_map_exclude(&map, (struct guest_range){9 * CLUSTER, 14 * CLUSTER});

	assert_taken(WORK_COPY, 100, 0, 3);
	assert_taken(WORK_COPY, 100, 5, 4);
	assert_taken(WORK_COPY, 100, 23, 7);
	assert_nothing(WORK_COPY);
	ck_assert_uint_eq(work_map_bytes(&map, WORK_COPY), 0);
	work_map_done(&map);
}
END_TEST

START_TEST(the_next_page_is_asked_for_only_when_little_is_left)
{
	begin(1 << 20); /* 64 GiB */
	ck_assert(work_map_wants_page(&map));

	ck_assert_int_eq(add(0, 1 << 19, (struct work_run[]){{0, 1 << 19, WORK_COPY}}, 1), 0);
	ck_assert(!work_map_wants_page(&map));
	assert_taken(WORK_COPY, 1 << 19, 0, 1 << 19);
	ck_assert(work_map_wants_page(&map));

	ck_assert_int_eq(add(1 << 19, 1 << 20, NULL, 0), 0);
	ck_assert(!work_map_wants_page(&map));
	work_map_done(&map);
}
END_TEST

START_TEST(a_page_that_cannot_be_is_refused_and_changes_nothing)
{
	begin(100);

	ck_assert_int_eq(add(1, 10, NULL, 0), -1);
	ck_assert_int_eq(add(0, 0, NULL, 0), -1);
	ck_assert_int_eq(add(0, 101, NULL, 0), -1);
	ck_assert_int_eq(add(0, 10, (struct work_run[]){{8, 3, WORK_COPY}}, 1), -1);
	ck_assert_int_eq(
		add(0, 10, (struct work_run[]){{4, 2, WORK_COPY}, {5, 1, WORK_COPY}}, 2), -1);
	ck_assert_int_eq(add(0, 10, (struct work_run[]){{4, 0, WORK_COPY}}, 1), -1);
	struct work_run crooked = {CLUSTER / 2, CLUSTER, WORK_COPY};
	struct msg_map_page page = {.end = 10 * CLUSTER, .runs = &crooked, .runs_count = 1};
	ck_assert_int_eq(work_map_add_page(&map, &page, &err), -1);

	ck_assert_uint_eq(map.scanned, 0);
	ck_assert_uint_eq(work_map_bytes(&map, WORK_COPY), 0);
	work_map_done(&map);
}
END_TEST

START_TEST(the_devices_tail_need_not_be_a_whole_cluster)
{
	struct work_run run = {CLUSTER, 100, WORK_COPY};
	struct msg_map_page page = {.end = CLUSTER + 100, .runs = &run, .runs_count = 1};
	struct guest_range range;

	work_map_init(&map, 0);
	work_map_reset(&map, CLUSTER + 100, CLUSTER);

	ck_assert_int_eq(work_map_add_page(&map, &page, &err), 0);
	ck_assert(work_map_take(&map, WORK_COPY, 10 * CLUSTER, &range));
	ck_assert_uint_eq(range.length, 100);
	work_map_done(&map);
}
END_TEST

/* Against a bitmap of clusters, with seeded dice. */
START_TEST(a_long_random_life_agrees_with_a_bitmap)
{
	enum { N = 200 };
	bool wanted[N] = {false};
	struct work_run all = {0, N, WORK_COPY};

	begin(N);
	ck_assert_int_eq(add(0, N, &all, 1), 0);
	memset(wanted, true, sizeof(wanted));
	srand(3);
	for (int round = 0; round < 20000; round++) {
		uint64_t first = (uint64_t)rand() % N, count = 1 + (uint64_t)rand() % 12, bytes = 0;
		struct guest_range range;

		count = first + count > N ? N - first : count;
		range = (struct guest_range){first * CLUSTER, count * CLUSTER};
		if (rand() % 3 == 0) {
			work_map_put_back(&map, WORK_COPY, range);
			memset(wanted + first, true, count);
		} else if (rand() % 2 == 0) {
			work_map_exclude(&map, range);
			memset(wanted + first, false, count);
		} else if (work_map_take(&map, WORK_COPY, count * CLUSTER, &range)) {
			for (uint64_t i = 0; i < range.length / CLUSTER; i++) {
				ck_assert(wanted[range.offset / CLUSTER + i]);
				wanted[range.offset / CLUSTER + i] = false;
			}
		}
		for (int i = 0; i < N; i++)
			bytes += wanted[i] ? CLUSTER : 0;
		ck_assert_uint_eq(work_map_bytes(&map, WORK_COPY), bytes);
	}
	work_map_done(&map);
}
END_TEST

UNIT_MAIN("core_work_map", pieces_are_taken_from_the_beginning_in_the_size_asked_for,
	what_comes_back_is_taken_first_and_melts_with_its_neighbours,
	what_is_not_scanned_yet_does_not_come_back,
	what_somebody_has_already_is_cut_out_wherever_it_lies,
	the_next_page_is_asked_for_only_when_little_is_left,
	a_page_that_cannot_be_is_refused_and_changes_nothing,
	the_devices_tail_need_not_be_a_whole_cluster, a_long_random_life_agrees_with_a_bitmap)
