/* SPDX-License-Identifier: Apache-2.0 */
/* The zero test against every place where a single bit can hide. */
#include <string.h>

#include "tests/unit/unit.h"
#include "common/zero_test.h"

START_TEST(no_bytes_at_all_are_zero)
{
	ck_assert(bytes_are_zero("x", 0));
}
END_TEST

START_TEST(a_bit_at_any_place_of_any_length_is_seen)
{
	static unsigned char bytes[1024 + 64];

	for (size_t start = 0; start < 9; start++) {
		for (size_t length = 0; length < 600; length += length < 300 ? 1 : 37) {
			ck_assert(bytes_are_zero(bytes + start, length));
			for (size_t at = 0; at < length; at++) {
				bytes[start + at] = (unsigned char)(1u << (at % 8));
				ck_assert(!bytes_are_zero(bytes + start, length));
				bytes[start + at] = 0;
			}
		}
	}
}
END_TEST

START_TEST(neighbours_are_not_looked_at)
{
	unsigned char bytes[4096 + 2];

	memset(bytes, 0, sizeof bytes);
	bytes[0] = 1;
	bytes[sizeof bytes - 1] = 1;
	ck_assert(bytes_are_zero(bytes + 1, sizeof bytes - 2));
}
END_TEST

UNIT_MAIN("zero_test", no_bytes_at_all_are_zero, a_bit_at_any_place_of_any_length_is_seen,
	neighbours_are_not_looked_at)
