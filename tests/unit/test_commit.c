/* SPDX-License-Identifier: Apache-2.0 */
/* What a report makes of a reservation, beside a guest that changes things meanwhile. */
#include "tests/unit/copy_fixture.h"

static struct device_fixture f;

static char byte_at(uint64_t cluster)
{
	struct chain *chain = f.device->live.current->chain;
	struct extent extent;
	char byte = 0;

	ck_assert_int_eq(chain_map(chain, 0, chain->count, cluster * CLUSTER, 1, &extent, NULL), 0);
	if (extent.kind == EXTENT_DATA)
		ck_assert_int_eq(pread_full(chain->layers[extent.layer].layer->fd, &byte, 1,
					 extent.host_offset),
			0);
	return byte;
}

START_TEST(untouched_clusters_are_mapped)
{
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 16);
	fixture_copy(&f, &made, 'c');
	outcome = fixture_commit(&f, &made);
	ck_assert_uint_eq(outcome.copied, DISK_BYTES);
	ck_assert_uint_eq(outcome.superseded, 0);
	ck_assert_int_eq(byte_at(7), 'c');
	ck_assert_uint_eq(f.device->leases.count, 0);
	ck_assert_uint_eq(atomic_load(&f.host.leases), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(touched_clusters_are_left_to_the_guest)
{
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 8);
	fixture_copy(&f, &made, 'c');
	device_touch(f.device, 2 * CLUSTER + 5, CLUSTER);
	outcome = fixture_commit(&f, &made);
	ck_assert_uint_eq(outcome.copied, 6 * CLUSTER);
	ck_assert_uint_eq(outcome.superseded, 2 * CLUSTER);
	ck_assert_int_eq(fixture_kind(&f, 1), EXTENT_DATA);
	ck_assert_int_eq(fixture_kind(&f, 2), EXTENT_ABSENT);
	ck_assert_int_eq(fixture_kind(&f, 3), EXTENT_ABSENT);
	ck_assert_int_eq(byte_at(2), 'b');
	ck_assert_int_eq(byte_at(4), 'c');
	fixture_end(&f);
}
END_TEST

START_TEST(a_report_that_comes_after_the_lease_was_revoked_maps_nothing)
{
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 4);
	fixture_copy(&f, &made, 'c');
	reservation_abort(f.device, made.lease, WORKER_MAY_WRITE);
	ck_assert_int_eq(
		reservation_commit(f.device, made.lease, NULL, 0, &outcome, &f.trouble), -1);
	ck_assert_msg(strstr(f.trouble.err.text, "not open"), "%s", f.trouble.err.text);
	ck_assert_int_eq(fixture_kind(&f, 0), EXTENT_ABSENT);
	ck_assert_uint_eq(f.device->leases.quarantined_bytes, 4 * CLUSTER);
	fixture_end(&f);
}
END_TEST

START_TEST(of_two_reservations_of_one_range_the_first_report_counts)
{
	struct reservation first, second;
	struct reservation_outcome outcome;

	fixture_begin_job(&f);
	first = fixture_reserve(&f, 0, 4);
	second = fixture_reserve(&f, 0, 4);
	fixture_copy(&f, &first, '1');
	fixture_copy(&f, &second, '2');
	fixture_commit(&f, &second);
	outcome = fixture_commit(&f, &first);
	ck_assert_uint_eq(outcome.superseded, 4 * CLUSTER);
	ck_assert_int_eq(byte_at(0), '2');
	fixture_end(&f);
}
END_TEST

START_TEST(zeroes_stay_unallocated_where_nothing_is_kept)
{
	const struct guest_range zeroes[] = {{.offset = CLUSTER, .length = 2 * CLUSTER}};
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 16);
	fixture_copy(&f, &made, 'c');
	device_touch(f.device, CLUSTER, 1);
	ck_assert_int_eq(
		reservation_commit(f.device, made.lease, zeroes, 1, &outcome, &f.trouble), 0);
	ck_assert_uint_eq(outcome.copied, 14 * CLUSTER);
	ck_assert_uint_eq(outcome.zeroes, CLUSTER);
	ck_assert_uint_eq(outcome.superseded, CLUSTER);
	ck_assert_int_eq(fixture_kind(&f, 2), EXTENT_ABSENT);
	/* It is known to be done; the one that the guest touched is not. */
	made = fixture_reserve(&f, 0, 16);
	ck_assert_uint_eq(made.offset, CLUSTER);
	ck_assert_uint_eq(made.length, CLUSTER);
	fixture_end(&f);
}
END_TEST

START_TEST(zeroes_are_marked_where_a_kept_layer_would_show_through)
{
	const struct guest_range zeroes[] = {{.offset = 0, .length = 4 * CLUSTER}};
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin(&f);
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2");
	fixture_shell(&f, "qemu-io -c 'write -P 0 0 256k' mid.qcow2");
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 leaf.qcow2");
	fixture_attach(&f, "leaf.qcow2");
	fixture_open_job(&f, "base.raw");
	fixture_join(&f);
	made = fixture_reserve(&f, 0, 4);
	device_touch(f.device, 3 * CLUSTER, 1);
	ck_assert_int_eq(
		reservation_commit(f.device, made.lease, zeroes, 1, &outcome, &f.trouble), 0);
	ck_assert_uint_eq(outcome.zeroes, 3 * CLUSTER);
	ck_assert_uint_eq(outcome.superseded, CLUSTER);
	ck_assert_int_eq(fixture_kind(&f, 2), EXTENT_ZERO);
	ck_assert_int_eq(fixture_kind(&f, 3), EXTENT_ABSENT);
	fixture_end(&f);
}
END_TEST

START_TEST(zeroes_that_do_not_fit_the_lease_change_nothing)
{
	const struct guest_range wrong[] = {
		{.offset = 1, .length = CLUSTER},
		{.offset = 0, .length = CLUSTER - 1},
		{.offset = 16 * CLUSTER, .length = CLUSTER},
		{.offset = 0, .length = 17 * CLUSTER},
		{.offset = CLUSTER, .length = UINT64_MAX - CLUSTER + 1},
	};
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 16);
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		ck_assert_int_eq(reservation_commit(
					 f.device, made.lease, &wrong[i], 1, &outcome, &f.trouble),
			-1);
	ck_assert_int_eq(fixture_kind(&f, 0), EXTENT_ABSENT);
	ck_assert_uint_eq(fixture_commit(&f, &made).copied, DISK_BYTES);
	fixture_end(&f);
}
END_TEST

START_TEST(a_lease_is_committed_once)
{
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 1);
	fixture_commit(&f, &made);
	ck_assert_int_eq(
		reservation_commit(f.device, made.lease, NULL, 0, &outcome, &f.trouble), -1);
	fixture_end(&f);
}
END_TEST

START_TEST(a_commit_that_fails_halfway_gives_back_nothing_that_it_mapped)
{
	struct reservation_outcome outcome;
	struct reservation made, next;
	struct extent extent;
	uint64_t second_table;
	struct qcow2 *leaf;

	fixture_begin(&f);
	fixture_shell(&f,
		"qemu-img create -q -f qcow2 -o cluster_size=512 -b base.raw -F raw leaf.qcow2");
	fixture_attach(&f, "leaf.qcow2");
	fixture_open_job(&f, NULL);
	fixture_join(&f);
	made = fixture_reserve(&f, 0, 1); /* two L2 tables' worth of the leaf's clusters */
	leaf = f.device->leaf;
	second_table = leaf->l1[1];
	leaf->l1[1] |= 0x100; /* a reserved bit: this table cannot be believed now */
	ck_assert_int_eq(
		reservation_commit(f.device, made.lease, NULL, 0, &outcome, &f.trouble), -1);
	leaf->l1[1] = second_table;
	ck_assert_int_eq(qcow2_map(leaf, 0, CLUSTER, &extent, NULL), 0);
	ck_assert_int_eq(extent.kind, EXTENT_DATA);

	reservation_abort(f.device, made.lease, WORKER_HAS_STOPPED);
	next = fixture_reserve(&f, 0, 1);
	ck_assert_uint_eq(next.skipped, extent.length);
	for (size_t i = 0; i < next.destination_count; i++)
		ck_assert(next.destinations[i].offset >= extent.host_offset + extent.length ||
			  next.destinations[i].offset + next.destinations[i].length <=
				  extent.host_offset);
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("commit", untouched_clusters_are_mapped, touched_clusters_are_left_to_the_guest,
	a_report_that_comes_after_the_lease_was_revoked_maps_nothing,
	of_two_reservations_of_one_range_the_first_report_counts,
	zeroes_stay_unallocated_where_nothing_is_kept,
	zeroes_are_marked_where_a_kept_layer_would_show_through,
	zeroes_that_do_not_fit_the_lease_change_nothing, a_lease_is_committed_once,
	a_commit_that_fails_halfway_gives_back_nothing_that_it_mapped)
