/* SPDX-License-Identifier: Apache-2.0 */
/* Ids are in their range and do not repeat. */
#include "common/random.h"
#include "tests/unit/unit.h"

#define DRAWS 4096

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

START_TEST(ids_are_within_1_and_2_to_the_62)
{
	for (int i = 0; i < DRAWS; i++) {
		uint64_t id = random_id();
		ck_assert_uint_ge(id, 1);
		ck_assert_uint_le(id, UINT64_C(1) << 62);
	}
}
END_TEST

START_TEST(ids_do_not_repeat_and_use_every_bit)
{
	static uint64_t ids[DRAWS];
	uint64_t ones = 0;
	uint64_t zeroes = 0;

	for (int i = 0; i < DRAWS; i++) {
		ids[i] = random_id();
		ones |= ids[i];
		zeroes |= ~ids[i];
	}
	qsort(ids, DRAWS, sizeof ids[0], compare);

	for (int i = 1; i < DRAWS; i++)
		ck_assert_uint_ne(ids[i - 1], ids[i]);
	uint64_t bits = (UINT64_C(1) << 62) - 1;
	ck_assert_uint_eq(ones & bits, bits);
	ck_assert_uint_eq(zeroes & bits, bits);
}
END_TEST

UNIT_MAIN("random", ids_are_within_1_and_2_to_the_62, ids_do_not_repeat_and_use_every_bit)
