/* SPDX-License-Identifier: Apache-2.0 */
/* What is found is what was put there, however often it is overwritten. */
#include <stdbool.h>

#include "imaged/qcow2_l2_cache.h"
#include "tests/unit/unit.h"

#define CLUSTER_BITS 16
#define TABLE(n)     ((uint64_t)(n) << CLUSTER_BITS)
#define SLOTS	     32 /* 2 MiB of 64 KiB tables */

static void add(struct l2_cache *cache, unsigned n)
{
	l2_cache_add(cache, TABLE(n))[0] = n;
}

static bool has(struct l2_cache *cache, unsigned n)
{
	uint64_t *table = l2_cache_find(cache, TABLE(n));

	if (table)
		ck_assert_uint_eq(table[0], n);
	return table;
}

START_TEST(holds_two_mebibytes_of_tables_and_no_more)
{
	struct l2_cache *cache = l2_cache_new(CLUSTER_BITS, 1000);
	unsigned held = 0;

	for (unsigned n = 1; n <= 100; n++)
		add(cache, n);

	for (unsigned n = 1; n <= 100; n++)
		held += has(cache, n);
	ck_assert_uint_eq(held, SLOTS);
	ck_assert(has(cache, 100));
	l2_cache_free(cache);
}
END_TEST

START_TEST(what_is_used_stays)
{
	struct l2_cache *cache = l2_cache_new(CLUSTER_BITS, 1000);

	for (unsigned n = 1; n <= 500; n++) {
		add(cache, n);
		ck_assert(has(cache, 1));
	}
	l2_cache_free(cache);
}
END_TEST

START_TEST(forgotten_table_is_gone_and_can_come_back)
{
	struct l2_cache *cache = l2_cache_new(CLUSTER_BITS, 1000);

	for (unsigned n = 1; n <= SLOTS; n++)
		add(cache, n);
	for (unsigned n = 1; n <= SLOTS; n += 3)
		l2_cache_forget(cache, TABLE(n));
	l2_cache_forget(cache, TABLE(999)); /* was never there */

	for (unsigned n = 1; n <= SLOTS; n++)
		ck_assert_int_eq(has(cache, n), n % 3 != 1);
	add(cache, 1);
	ck_assert(has(cache, 1));
	l2_cache_free(cache);
}
END_TEST

START_TEST(small_disk_has_a_small_cache_and_large_clusters_two_tables)
{
	struct l2_cache *one = l2_cache_new(CLUSTER_BITS, 1);
	struct l2_cache *none = l2_cache_new(CLUSTER_BITS, 0);
	struct l2_cache *large = l2_cache_new(21, 10);

	add(one, 1);
	add(one, 2);
	ck_assert(!has(one, 1));
	ck_assert(has(one, 2));
	ck_assert(!has(none, 1));
	l2_cache_add(large, 0);
	l2_cache_add(large, 1 << 21);
	ck_assert_ptr_nonnull(l2_cache_find(large, 0));
	l2_cache_free(one);
	l2_cache_free(none);
	l2_cache_free(large);
	l2_cache_free(NULL);
}
END_TEST

UNIT_MAIN("qcow2_l2_cache", holds_two_mebibytes_of_tables_and_no_more, what_is_used_stays,
	forgotten_table_is_gone_and_can_come_back,
	small_disk_has_a_small_cache_and_large_clusters_two_tables)
