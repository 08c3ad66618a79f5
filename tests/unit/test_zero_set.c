/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/zero_set.h"
#include "tests/unit/unit.h"

static uint64_t span(const struct zero_set *set, uint64_t first, uint64_t count, bool wanted)
{
	bool is_in = !wanted;
	uint64_t length = zero_set_span(set, first, count, &is_in);

	ck_assert_int_eq(is_in, wanted);
	return length;
}

START_TEST(an_empty_set_is_one_span)
{
	struct zero_set set;

	zero_set_init(&set, UINT64_C(1) << 40);
	ck_assert_uint_eq(span(&set, 5, (UINT64_C(1) << 40) - 5, false), (UINT64_C(1) << 40) - 5);
	zero_set_done(&set);
}
END_TEST

START_TEST(spans_end_where_the_set_begins_and_ends)
{
	struct zero_set set;

	zero_set_init(&set, 200000);
	zero_set_add(&set, 65530, 12);
	zero_set_add(&set, 199999, 1);
	ck_assert_uint_eq(span(&set, 0, 200000, false), 65530);
	ck_assert_uint_eq(span(&set, 65530, 134470, true), 12);
	ck_assert_uint_eq(span(&set, 65535, 3, true), 3);
	ck_assert_uint_eq(span(&set, 65542, 134458, false), 134457);
	ck_assert_uint_eq(span(&set, 199999, 1, true), 1);
	zero_set_done(&set);
}
END_TEST

UNIT_MAIN("zero_set", an_empty_set_is_one_span, spans_end_where_the_set_begins_and_ends)
