/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/unit.h"
#include "workers/lease_memory.h"

START_TEST(an_id_is_known_once_it_was_seen)
{
	struct lease_memory *memory = lease_memory_new();

	ck_assert(!lease_memory_knows(memory, 0));
	for (uint64_t i = 0; i < 5000; i++)
		lease_memory_add(memory, i * i * 77);
	for (uint64_t i = 0; i < 5000; i++) {
		ck_assert(lease_memory_knows(memory, i * i * 77));
		ck_assert(!lease_memory_knows(memory, i * i * 77 + 1));
	}
	lease_memory_free(memory);
}
END_TEST

START_TEST(at_least_the_last_half_is_known_and_no_more_than_both)
{
	struct lease_memory *memory = lease_memory_new();
	const uint64_t first = UINT64_C(1) << 62;
	const uint64_t count = 3 * (uint64_t)LEASE_MEMORY_HALF + 5;

	for (uint64_t i = 0; i < count; i++) {
		lease_memory_add(memory, first + i);
		lease_memory_add(memory, first + i); /* seeing it twice takes no more room */
	}
	uint64_t known = 0;
	for (uint64_t i = count - LEASE_MEMORY_HALF; i < count; i++)
		known += lease_memory_knows(memory, first + i);
	ck_assert_uint_eq(known, LEASE_MEMORY_HALF);
	ck_assert(!lease_memory_knows(memory, first));
	lease_memory_free(memory);
}
END_TEST

UNIT_MAIN("lease_memory", an_id_is_known_once_it_was_seen,
	at_least_the_last_half_is_known_and_no_more_than_both)
