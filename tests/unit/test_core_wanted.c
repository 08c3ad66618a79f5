/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/core/wanted.h"
#include "tests/unit/unit.h"

#define MIB (UINT64_C(1) << 20)

static const struct wanted_disk disk = {100 * MIB + 65536, 65536};
static struct wanted wanted;

static void tell(uint64_t offset, uint64_t length)
{
	const struct guest_range range = {offset, length};

	wanted_add(&wanted, &disk, &range, 1);
}

static void assert_range(size_t place, uint64_t offset, uint64_t length)
{
	ck_assert_uint_lt(place, wanted.count);
	ck_assert_uint_eq(wanted.ranges[place].offset, offset);
	ck_assert_uint_eq(wanted.ranges[place].length, length);
}

START_TEST(a_miss_is_its_window_and_two_behind_it)
{
	tell(5 * MIB + 1000, 4096);
	ck_assert_uint_eq(wanted.count, 3);
	for (uint64_t i = 0; i < 3; i++)
		assert_range(i, (5 + i) * MIB, MIB);
	wanted_done(&wanted);
	ck_assert_uint_eq(wanted.count, 0);
}
END_TEST

START_TEST(what_was_touched_goes_before_what_is_read_ahead_and_the_newest_before_the_rest)
{
	const struct guest_range told[] = {{50 * MIB, 1}, {10 * MIB, MIB + 1}};

	tell(80 * MIB, 1);
	wanted_add(&wanted, &disk, told, 2);
	assert_range(0, 50 * MIB, MIB);
	assert_range(1, 10 * MIB, MIB);
	assert_range(2, 11 * MIB, MIB);
	assert_range(3, 51 * MIB, MIB);
	assert_range(5, 12 * MIB, MIB);
	assert_range(7, 80 * MIB, MIB);
	ck_assert_uint_eq(wanted.count, 10);
	wanted_done(&wanted);
}
END_TEST

START_TEST(no_window_is_there_twice)
{
	for (int i = 0; i < 5; i++) {
		tell(20 * MIB, MIB);
		tell(21 * MIB, MIB);
	}
	ck_assert_uint_eq(wanted.count, 4);
	assert_range(0, 21 * MIB, MIB);
	assert_range(3, 20 * MIB, MIB);
	wanted_done(&wanted);
}
END_TEST

START_TEST(the_disks_end_cuts_its_last_window)
{
	tell(disk.size - 1, 1);
	ck_assert_uint_eq(wanted.count, 1);
	assert_range(0, 100 * MIB, 65536);
	wanted_done(&wanted);
}
END_TEST

START_TEST(what_the_disk_does_not_have_is_ignored)
{
	tell(disk.size, 1);
	tell(disk.size - 1, 2);
	tell(UINT64_MAX, 1);
	tell(UINT64_MAX, UINT64_MAX);
	tell(0, UINT64_MAX);
	tell(0, 0);
	ck_assert_uint_eq(wanted.count, 0);
	wanted_done(&wanted);
}
END_TEST

START_TEST(of_a_very_long_range_only_the_beginning_is_taken)
{
	tell(0, disk.size);
	ck_assert_uint_eq(wanted.count, 10);
	assert_range(9, 9 * MIB, MIB);
	wanted_done(&wanted);
}
END_TEST

START_TEST(of_too_many_the_oldest_are_forgotten)
{
	const struct wanted_disk large = {UINT64_C(1) << 50, 65536};

	for (uint64_t i = 0; i < 1000; i++) {
		const struct guest_range range = {i * 100 * MIB, 4096};

		wanted_add(&wanted, &large, &range, 1);
	}
	ck_assert_uint_eq(wanted.count, WANTED_MAX);
	assert_range(0, 99900 * MIB, MIB);
	wanted_done(&wanted);
}
END_TEST

START_TEST(a_window_is_no_smaller_than_a_cluster)
{
	const struct wanted_disk coarse = {101 * MIB, 2 * MIB};
	const struct guest_range range = {97 * MIB, 4096};

	wanted_add(&wanted, &coarse, &range, 1);
	ck_assert_uint_eq(wanted.count, 3);
	assert_range(0, 96 * MIB, 2 * MIB);
	assert_range(2, 100 * MIB, MIB);
	wanted_done(&wanted);
}
END_TEST

START_TEST(what_was_taken_is_cut_off)
{
	tell(5 * MIB, 1);
	wanted_cut(&wanted, 1, 6 * MIB + 65536);
	assert_range(1, 6 * MIB + 65536, MIB - 65536);
	wanted_cut(&wanted, 0, 6 * MIB);
	ck_assert_uint_eq(wanted.count, 2);
	assert_range(0, 6 * MIB + 65536, MIB - 65536);
	wanted_put_first(&wanted, (struct guest_range){50 * MIB, 65536});
	ck_assert_uint_eq(wanted.count, 3);
	assert_range(0, 50 * MIB, 65536);
	assert_range(2, 7 * MIB, MIB);
	wanted_done(&wanted);
}
END_TEST

UNIT_MAIN("core_wanted", a_miss_is_its_window_and_two_behind_it,
	what_was_touched_goes_before_what_is_read_ahead_and_the_newest_before_the_rest,
	no_window_is_there_twice, the_disks_end_cuts_its_last_window,
	what_the_disk_does_not_have_is_ignored, of_a_very_long_range_only_the_beginning_is_taken,
	of_too_many_the_oldest_are_forgotten, a_window_is_no_smaller_than_a_cluster,
	what_was_taken_is_cut_off)
