/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/format.h"
#include "tests/unit/unit.h"

START_TEST(bytes_have_the_largest_unit_that_fits)
{
	ck_assert_str_eq(format_bytes(0).is, "0 B");
	ck_assert_str_eq(format_bytes(1023).is, "1023 B");
	ck_assert_str_eq(format_bytes(1024).is, "1.0 KiB");
	ck_assert_str_eq(format_bytes(1536).is, "1.5 KiB");
	ck_assert_str_eq(format_bytes((100 << 20) - 1).is, "100 MiB");
	ck_assert_str_eq(format_bytes((1 << 30) - 1).is, "1.0 GiB");
	ck_assert_str_eq(format_bytes(UINT64_MAX).is, "16.0 EiB");
	ck_assert_str_eq(format_rate(3 << 20).is, "3.0 MiB/s");
}
END_TEST

START_TEST(a_share_is_100_percent_only_when_it_is_all)
{
	ck_assert_str_eq(format_share(0, 1000).is, "0%");
	ck_assert_str_eq(format_share(999, 1000).is, "99%");
	ck_assert_str_eq(format_share(UINT64_MAX - 1, UINT64_MAX).is, "99%");
	ck_assert_str_eq(format_share(1000, 1000).is, "100%");
	ck_assert_str_eq(format_share(0, 0).is, "100%");
}
END_TEST

START_TEST(times_have_two_units_at_most)
{
	ck_assert_str_eq(format_seconds(59).is, "59 s");
	ck_assert_str_eq(format_seconds(200).is, "3 min 20 s");
	ck_assert_str_eq(format_seconds(3600).is, "1 h 0 min");
	ck_assert_str_eq(format_seconds(UINT64_MAX).is, "213503982334601 days");
}
END_TEST

UNIT_MAIN("format", bytes_have_the_largest_unit_that_fits,
	a_share_is_100_percent_only_when_it_is_all, times_have_two_units_at_most)
