/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/lease.h"
#include "tests/unit/unit.h"

#define KIB UINT64_C(1024)

static struct lease *add(
	struct lease_table *table, uint64_t id, uint64_t join, uint64_t offset, uint64_t length)
{
	struct cluster_run run = {.offset = 1024 * KIB, .length = length};
	const struct lease lease = {
		.id = id,
		.join = join,
		.offset = offset,
		.length = length,
		.cluster_size = 64 * KIB,
		.run_count = 1,
		.runs = &run,
	};

	return lease_table_add(table, &lease);
}

START_TEST(leases_are_found_by_their_ids)
{
	struct lease_table table;
	struct lease *second;

	lease_table_init(&table);
	for (uint64_t id = 10; id < 100; id += 10)
		add(&table, id, 1, 0, 64 * KIB);
	second = lease_table_find(&table, 20);
	ck_assert_uint_eq(second->id, 20);
	ck_assert_ptr_null(lease_table_find(&table, 25));
	ck_assert_ptr_null(lease_table_find(&table, 0));
	ck_assert_ptr_null(lease_table_find(&table, 91));
	lease_table_remove(&table, second);
	ck_assert_ptr_null(lease_table_find(&table, 20));
	ck_assert_uint_eq(lease_table_find(&table, 30)->id, 30);
	ck_assert_uint_eq(table.open, 8);
	lease_table_done(&table);
}
END_TEST

START_TEST(a_change_touches_every_cluster_that_it_overlaps_in_every_open_lease)
{
	struct lease_table table;
	struct lease *low, *high;

	lease_table_init(&table);
	low = add(&table, 1, 1, 0, 256 * KIB);
	high = add(&table, 2, 1, 128 * KIB, 256 * KIB + 100);
	lease_table_touch(&table, 191 * KIB, 2 * KIB);
	ck_assert(!lease_is_touched(&table, low, 64 * KIB));
	ck_assert(lease_is_touched(&table, low, 128 * KIB));
	ck_assert(lease_is_touched(&table, low, 192 * KIB));
	ck_assert(lease_is_touched(&table, high, 128 * KIB));
	ck_assert(lease_is_touched(&table, high, 192 * KIB));
	ck_assert(!lease_is_touched(&table, high, 256 * KIB));
	lease_table_touch(&table, 384 * KIB, UINT64_C(1) << 40);
	ck_assert(lease_is_touched(&table, high, 384 * KIB));
	ck_assert(!lease_is_touched(&table, high, 320 * KIB));
	lease_table_done(&table);
}
END_TEST

START_TEST(a_change_at_the_edges_or_of_nothing_touches_nothing)
{
	struct lease_table table;
	struct lease *lease;

	lease_table_init(&table);
	lease = add(&table, 1, 1, 64 * KIB, 64 * KIB);
	lease_table_touch(&table, 0, 64 * KIB);
	lease_table_touch(&table, 128 * KIB, 64 * KIB);
	lease_table_touch(&table, 64 * KIB, 0);
	ck_assert(!lease_is_touched(&table, lease, 64 * KIB));
	lease_table_touch(&table, 128 * KIB - 1, 1);
	ck_assert(lease_is_touched(&table, lease, 64 * KIB));
	lease_table_done(&table);
}
END_TEST

START_TEST(a_reservation_made_after_the_change_is_untouched)
{
	struct lease_table table;

	lease_table_init(&table);
	lease_table_touch(&table, 0, 64 * KIB);
	ck_assert(!lease_is_touched(&table, add(&table, 1, 1, 0, 64 * KIB), 0));
	lease_table_done(&table);
}
END_TEST

START_TEST(quarantine_counts_whole_clusters_until_the_lease_is_gone)
{
	struct lease_table table;
	struct lease *lease;

	lease_table_init(&table);
	lease = add(&table, 1, 1, 0, 64 * KIB + 1);
	add(&table, 2, 1, 128 * KIB, 64 * KIB);
	ck_assert_uint_eq(lease_clusters(lease), 2);
	lease_table_quarantine(&table, lease);
	lease_table_quarantine(&table, lease);
	ck_assert_uint_eq(table.quarantined_bytes, 128 * KIB);
	ck_assert_uint_eq(table.open, 1);
	lease_table_remove(&table, lease);
	ck_assert_uint_eq(table.quarantined_bytes, 0);
	ck_assert_uint_eq(table.open, 1);
	lease_table_done(&table);
}
END_TEST

START_TEST(the_leases_of_a_join_are_visited_also_while_they_go)
{
	struct lease_table table;
	struct lease *lease;
	size_t position = 0;
	uint64_t sum = 0;

	lease_table_init(&table);
	for (uint64_t id = 1; id <= 9; id++)
		add(&table, id, id % 3 + 1, 0, 64 * KIB);
	while ((lease = lease_table_next(&table, 2, &position))) {
		sum += lease->id;
		lease_table_remove(&table, lease);
		position--;
	}
	ck_assert_uint_eq(sum, 1 + 4 + 7);
	ck_assert_uint_eq(table.count, 6);
	lease_table_done(&table);
}
END_TEST

UNIT_MAIN("lease", leases_are_found_by_their_ids,
	a_change_touches_every_cluster_that_it_overlaps_in_every_open_lease,
	a_change_at_the_edges_or_of_nothing_touches_nothing,
	a_reservation_made_after_the_change_is_untouched,
	quarantine_counts_whole_clusters_until_the_lease_is_gone,
	the_leases_of_a_join_are_visited_also_while_they_go)
