/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks agree with the system's and with each other. */
#include <time.h>

#include "common/clock.h"
#include "tests/unit/unit.h"

START_TEST(monotonic_time_never_goes_back)
{
	uint64_t before_us = clock_monotonic_us();

	for (int i = 0; i < 10000; i++) {
		uint64_t now_us = clock_monotonic_us();
		ck_assert_uint_ge(now_us, before_us);
		before_us = now_us;
	}
}
END_TEST

START_TEST(milliseconds_and_microseconds_are_of_one_clock)
{
	uint64_t before_us = clock_monotonic_us();
	uint64_t now_ms = clock_monotonic_ms();
	uint64_t after_us = clock_monotonic_us();

	ck_assert_uint_ge(now_ms, before_us / 1000);
	ck_assert_uint_le(now_ms, after_us / 1000);
}
END_TEST

START_TEST(real_time_counts_from_1970)
{
	time_t before = time(NULL);
	uint64_t now_us = clock_realtime_us();
	time_t after = time(NULL);

	/* time() may lag behind by a tick of the kernel */
	ck_assert_uint_ge(now_us / 1000000, (uint64_t)before);
	ck_assert_uint_le(now_us / 1000000, (uint64_t)after + 1);
}
END_TEST

UNIT_MAIN("clock", monotonic_time_never_goes_back, milliseconds_and_microseconds_are_of_one_clock,
	real_time_counts_from_1970)
